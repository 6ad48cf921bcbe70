"""Commands of the shell, called by tests, and what they print and write."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from click.testing import CliRunner, Result

from nobrainer.cli import main

PROGRAM = [sys.executable, "-c", "from nobrainer.cli import main; main()"]

# The program, which dies when it has given as many files their final name as the first
# argument says.
_KILLED = """
import os, signal, sys
from nobrainer.io import writing
from nobrainer.cli import main

replace, left = os.replace, int(sys.argv.pop(1))

def replace_or_die(source, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

writing.os.replace = replace_or_die
main()
"""
# Options of `train` for a model that finds the balls of the fixture `scans`.
TRAIN_OPTIONS = (
    *("--binarize", "--epochs", 6, "--patches-per-volume", 16, "--batch-size", 4),
    *("--block-shape", 16, 16, 16, "--learning-rate", 0.02, "--validate", 1),
    *("--model-arg", "base_filters=2", "--model-arg", "levels=1"),
)
# Options of `train` for the least of models, which has learned next to nothing.
SMALL_MODEL = (
    *("--model-arg", "base_filters=1", "--model-arg", "levels=1", "--epochs", 1),
    *("--block-shape", 16, 16, 16, "--patches-per-volume", 2, "--batch-size", 2),
)
# Numbers of the scans of the fixture `balls`.
TRAINED_ON, HELD_OUT, TEST = range(3), range(3, 7), range(7, 9)


def nobrainer_(*args: object) -> Result:
    """Call a command in this process."""
    return CliRunner().invoke(main, [str(arg) for arg in args])


def shell(*args: object) -> subprocess.CompletedProcess[str]:
    """Call a command in a process of its own."""
    return subprocess.run(
        [*PROGRAM, *(str(arg) for arg in args)], capture_output=True, text=True
    )


def killed_after(n_files: int, *args: object) -> None:
    """Call a command in a process that is killed when so many files are whole."""
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(n_files), *map(str, args)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def errors_of(stderr: str) -> list[str]:
    """What is said on standard error besides the progress."""
    return [line for line in stderr.splitlines() if line.startswith("nobrainer: ")]


def is_narrow(text: str) -> bool:
    return max(map(len, text.splitlines())) <= 80


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def scans_of(folder: Path, numbers: Sequence[int]) -> list[Path]:
    return [folder / f"sub-{n}_T1w.nii" for n in numbers]


def write_table(path: Path, numbers: Sequence[int]) -> Path:
    """A table of balls and their masks in the same folder."""
    rows = [f"sub-{n}_T1w.nii,sub-{n}_mask.nii\n" for n in numbers]
    path.write_text("features,labels\n" + "".join(rows))
    return path

"""What a fresh interpreter has loaded, which is what starting costs."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from balls import write_ball

TORCH = {"torch", "pyro"}
# Each takes from 0.1 to 3 s of a processor.
SCIPY = {"scipy.optimize", "scipy.signal", "scipy.spatial", "scipy.stats"}
PICTURES = {"matplotlib", "nilearn"}
HEAVY = {"lightning_fabric", "monai", "optuna", "sklearn", "zarr", *SCIPY, *PICTURES}


def loaded_by(code: str, *args: object) -> set[str]:
    """Names of the modules in a fresh interpreter after `code`, which may use `sys`."""
    listing = "print('', *sys.modules, file=sys.stderr)"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{listing}", *map(str, args)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stderr.splitlines()[-1].split())


def loaded_by_command(*args: object) -> set[str]:
    """The same after a command of `nobrainer`."""
    code = "from nobrainer.cli import main; assert not main(standalone_mode=False)"
    return loaded_by(code, *args)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans with labels, the table `scans.csv`, and room for a model."""
    folder = tmp_path_factory.mktemp("scans")
    pairs = [[path.name for path in write_ball(folder, number)] for number in (0, 1)]
    with (folder / "scans.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["features", "labels"], *pairs])
    return folder


@pytest.fixture(scope="module")
def loaded_by_training(folder: Path) -> set[str]:
    """The modules after a training, which leaves `model` in the folder."""
    return loaded_by_command(
        *("train", "--data", folder / "scans.csv", "--output-dir", folder / "model"),
        *("--binarize", "--epochs", 1, "--patches-per-volume", 2, "--batch-size", 2),
        *("--block-shape", 16, 16, 16, "--validate", 1),
        *("--model", "bayesian_vnet"),
        *("--model-arg", "base_filters=2", "--model-arg", "levels=2"),
    )


def test_the_package_alone_loads_next_to_nothing() -> None:
    loaded = loaded_by("import nobrainer")
    assert "nobrainer" in loaded
    assert not loaded & {"click", "numpy", "scipy", *TORCH, *HEAVY}


def test_help_loads_nothing_heavy() -> None:
    code = """
from nobrainer.cli import COMMANDS, main
for command in ([], *([name] for name in COMMANDS)):
    assert not main([*command, "--help"], standalone_mode=False)
    heavy = {*sys.argv[1:]}.intersection(sys.modules)
    assert not heavy, f"{command} loads {heavy}"
"""
    assert "nobrainer.cli" in loaded_by(code, *TORCH, *HEAVY)


def test_packages_are_not_looked_through_for_garbage_at_the_end() -> None:
    code = """
import atexit, gc
atexit.register(lambda: print("frozen:", gc.get_freeze_count() > 0, gc.isenabled()))
from nobrainer.cli import main
main(["info", "--help"])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.endswith("frozen: True True\n"), run.stderr


def test_what_loads_is_not_looked_through_for_garbage_meanwhile() -> None:
    code = """
import gc
import nobrainer
ran = []
gc.callbacks.append(lambda phase, info: ran.append(phase))
nobrainer.Segmentation
print(*ran, len(gc.get_objects(2)) > 100_000, gc.get_freeze_count(), gc.isenabled())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "True 0 True\n", run.stderr


@pytest.mark.parametrize(
    ("before", "use", "is_old"),
    [
        ("", "nobrainer.InputError", True),
        ("", "hasattr(nobrainer, 'no_such_name')", False),
        ("nobrainer.InputError", "nobrainer.InputError", False),
        ("gc.disable()", "nobrainer.InputError", False),
        ("gc.freeze()", "nobrainer.InputError", False),
    ],
)
def test_what_a_program_has_made_counts_as_old_only_where_a_name_loads(
    before: str, use: str, is_old: bool
) -> None:
    code = f"""
import gc
import nobrainer
{before}
was = gc.isenabled(), gc.get_freeze_count()
made = []
{use}
assert was == (gc.isenabled(), gc.get_freeze_count())
print(any(one is made for one in gc.get_objects(2)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == f"{is_old}\n", run.stderr


def test_the_facade_takes_torch_and_pyro_alone() -> None:
    code = """
import nobrainer
for name in ("models", "Dataset", "Segmentation", "Prediction"):
    getattr(nobrainer, name)
    assert "torch" in sys.modules
    heavy = {*sys.argv[1:]}.intersection(sys.modules)
    assert not heavy, f"{name} loads {heavy}"
"""
    assert "nobrainer.processing.prediction" in loaded_by(code, *HEAVY)


def test_a_derivative_that_is_done_waits_for_no_pictures() -> None:
    loaded = loaded_by("import nobrainer.bids.run")
    assert "nobrainer.bids.subject_page" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("n_samples", [0, 2])
def test_predicting_takes_torch_and_pyro_alone(
    folder: Path, loaded_by_training: set[str], tmp_path: Path, n_samples: int
) -> None:
    loaded = loaded_by_command(
        *("predict", folder / "sub-0_T1w.nii", "--model", folder / "model"),
        *("--output-dir", tmp_path, "--n-samples", n_samples),
    )
    assert "nobrainer.inference.predict" in loaded
    assert not loaded & {*HEAVY, "nobrainer.cli.research", "nobrainer.cli.train"}


def test_training_takes_lightning_fabric_as_well(loaded_by_training: set[str]) -> None:
    assert loaded_by_training & HEAVY == {"lightning_fabric"}

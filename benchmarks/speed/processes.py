"""What only fresh processes show: peak memory, start-up, time to the first step."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed.inputs import write_heads
from benchmarks.speed.limits import Limits
from benchmarks.speed.measure import ROOT, Case, Options, Table, alternate

import nobrainer as nb

NOBRAINER = str(Path(sys.executable).parent / "nobrainer")
STARTS = {
    "import nobrainer": [sys.executable, "-c", "import nobrainer"],
    "nobrainer --help": [NOBRAINER, "--help"],
    "nobrainer predict --help": [NOBRAINER, "predict", "--help"],
    "import nobrainer; nobrainer.Segmentation": [
        sys.executable,
        "-c",
        "import nobrainer; nobrainer.Segmentation",
    ],
    "import torch": [sys.executable, "-c", "import torch"],
    "import monai": [sys.executable, "-c", "import monai"],
    "python": [sys.executable, "-c", "pass"],
}


def peak(
    script: str,
    options: Options,
    *,
    source: Path | None = None,
    one_thread: bool = False,
    **arguments: object,
) -> dict[str, float]:
    """Run a script of `scripts/` by itself and read its peaks of memory, MiB.

    `source` is the folder from which it takes nobrainer; None takes what is installed.
    """
    n_threads = 1 if one_thread else options.threads
    arguments |= {"threads": n_threads, "device": options.device.type}
    environment = os.environ | ({"PYTHONPATH": str(source)} if source else {})
    command = [sys.executable, "-m", f"benchmarks.speed.scripts.{script}"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    done = subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def memory(options: Options, _: Limits) -> list[Table]:
    """Peak memory for draws, classes and number formats; time is a by-product."""
    size, draws = (64, (2, 5)) if options.quick else (256, (2, 20))
    cases: dict[str, Case] = {}

    def add(name: str, script: str, **arguments: object) -> None:
        result = peak(script, options, size=size, **arguments)
        facts = {k: v for k, v in result.items() if k != "seconds"}
        cases[name] = Case([result["seconds"]], facts=facts | arguments)

    for dtype in options.dtypes:
        name = str(dtype).removeprefix("torch.")
        for n_classes in (50,) if options.quick else (2, 50):
            for n in draws:
                add(
                    f"nobrainer, {name}, {n_classes} classes, {n} draws",
                    "peak_nobrainer",
                    classes=n_classes,
                    draws=n,
                    dtype=name,
                )
    reference = next(iter(cases))
    # Sums over draws take the same room for any number of them.
    add(f"MONAI, float32, 2 classes, {draws[0]} draws", "peak_monai", draws=draws[0])
    title = f"Peak memory of a process: {size}³ head, base_filters 8, levels 2"
    return [Table("memory", "memory", title, "", reference, cases)]


def startup(options: Options, _: Limits) -> list[Table]:
    """Wall-clock seconds until a command is over; CPU seconds beside."""
    cpu: dict[str, list[float]] = {name: [] for name in STARTS}

    def start(name: str) -> float:
        started = time.perf_counter()
        process = subprocess.Popen(
            STARTS[name], cwd=tempfile.gettempdir(), stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{STARTS[name]} failed")
        cpu[name].append(usage.ru_utime + usage.ru_stime)
        return took

    for name in STARTS:  # Files are read, byte code is written.
        start(name)
        cpu[name].clear()
    samples = alternate(
        {name: partial(start, name) for name in STARTS}, options.repeats
    )
    cases = {
        name: Case(times, facts={"cpu_s": statistics.median(cpu[name])})
        for name, times in samples.items()
    }
    return [Table("startup", "startup", "Start-up", "", "import nobrainer", cases)]


def first_step(options: Options, _: Limits) -> list[Table]:
    """From the start of a process to the end of its first step or prediction."""
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    if options.device.type == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ((image, label),) = write_heads(folder, 64, 1)
        train = nb.Dataset.from_files([(image, label)]).patches(per_volume=2)
        network: dict[str, Any] = {"base_filters": 8, "levels": 2}
        model = nb.Segmentation("bayesian_vnet", network)
        model.fit(train, epochs=1, verbose=False).save(folder / "model")

        def script(name: str, *arguments: str) -> list[str]:
            path = ROOT / "benchmarks/speed/scripts" / f"{name}.py"
            return [sys.executable, str(path), *arguments]

        saved, maps = str(folder / "model"), folder / "maps"
        predict = [NOBRAINER, "predict", image, "--model", saved, "--n-samples", "2"]
        commands = {
            "train, nobrainer": script("train_nobrainer", image, label),
            "train, MONAI": script("train_monai", image, label),
            "predict, nobrainer": script("predict_nobrainer", image, saved),
            "predict, nobrainer's command": [*predict, "--output-dir", str(maps)],
            "predict, MONAI": script("predict_monai", image),
        }

        def start(name: str) -> float:
            shutil.rmtree(maps, ignore_errors=True)
            started = time.perf_counter()
            subprocess.run(
                commands[name],
                check=True,
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            return time.perf_counter() - started

        for command in commands:
            start(command)
        samples = alternate(
            {name: partial(start, name) for name in commands}, options.few
        )
    tables = []
    for kind, title in (
        ("train", "First training step from a .nii.gz file, 2 patches of 32³"),
        ("predict", "First predicted volume from a .nii.gz file, 64³, 2 draws"),
    ):
        cases = {k: Case(v) for k, v in samples.items() if k.startswith(kind)}
        reference = next(iter(cases))
        tables.append(
            Table("first-step", f"first-step/{kind}", title, "", reference, cases)
        )
    return tables

"""This build of nobrainer beside another one, in processes that take turns.

Times are CPU seconds of one thread, which a busy machine changes less than the clock's.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.speed.inputs import SMALL, write_heads
from benchmarks.speed.limits import Limits
from benchmarks.speed.measure import ROOT, Case, Options, Table, alternate
from benchmarks.speed.processes import peak

THIS, OTHER = "this build", "the other build"
DEEP = {"base_filters": 8, "levels": 4}
NETWORKS = (
    *((SMALL, n_classes, 10) for n_classes in (2, 33, 50)),
    *((DEEP, n_classes, 1) for n_classes in (2, 33)),
)
"""Network, classes and draws of each table."""

Measure = Callable[[Path], dict[str, float]]
"""CPU seconds and other figures of a process that takes nobrainer from a folder."""


def run(options: Options, _: Limits) -> Iterator[Table]:
    """A table for each network and number format, and for each use of the command."""
    if options.other is None:
        return
    size = 64 if options.quick else 256
    for dtype in options.dtypes:
        for network, n_classes, n_draws in NETWORKS:
            name = str(dtype).removeprefix("torch.")
            shape = "x".join(map(str, network.values()))
            what = options, size, name, network, n_classes, n_draws
            title = f"{size}³ head, {shape}, {n_classes} classes, {n_draws} draws"
            key = f"builds/{shape}/{size}/{n_classes}/{n_draws}/{name}"
            measure = partial(_predict, *what)
            yield _table(options, key, f"{title}, {name}, CPU s", measure)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ((image, _label),) = write_heads(folder, size, 1)
        small = _small_model(folder, options.other.resolve())
        for key, model, n_draws in (("small", small, 1), ("brain", "brain", 5)):
            measure = partial(_command, options, image, str(model), n_draws)
            title = f"nobrainer predict, {size}³, {key}, {n_draws} draws, CPU s"
            yield _table(options, f"builds/{key}/{size}", title, measure)


def _table(options: Options, key: str, title: str, measure: Measure) -> Table:
    """Measure both builds in turn."""
    assert options.other is not None
    found: dict[str, list[dict[str, float]]] = {THIS: [], OTHER: []}

    def once(row: str, source: Path) -> float:
        found[row].append(measure(source))
        return found[row][-1]["cpu_s"]

    sources = {THIS: ROOT / "src", OTHER: options.other.resolve()}
    cases = {row: partial(once, row, source) for row, source in sources.items()}
    samples = alternate(cases, max(1, options.few - 1))
    rows = {}
    for row, times in samples.items():
        facts = {k: max(one[k] for one in found[row]) for k in ("peak_mib", "wall_s")}
        rows[row] = Case(times, facts=facts)
    return Table("builds", key, title, "", THIS, rows)


def _predict(
    options: Options,
    size: int,
    dtype: str,
    network: dict[str, int],
    n_classes: int,
    n_draws: int,
    source: Path,
) -> dict[str, float]:
    """Predict a head in memory, by a process of its own."""
    arguments: dict[str, object] = {"size": size, "dtype": dtype, **network}
    arguments |= {"classes": n_classes, "draws": n_draws}
    found = peak("peak_nobrainer", options, source=source, one_thread=True, **arguments)
    return {**found, "wall_s": found["seconds"]}


def _command(
    options: Options, image: str, model: str, n_draws: int, source: Path
) -> dict[str, float]:
    """Predict a file with the command, cold, on as many cores as there are."""
    arguments = {"image": image, "model": model, "draws": n_draws}
    with tempfile.TemporaryDirectory() as folder:
        started, before = time.perf_counter(), _children_s()
        found = peak("command", options, source=source, folder=folder, **arguments)
        wall_s = time.perf_counter() - started
    return found | {"cpu_s": _children_s() - before, "wall_s": wall_s}


def _children_s() -> float:
    """CPU seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _small_model(folder: Path, source: Path) -> Path:
    """A model of two classes, trained for a step.

    The other build trains it, which may be older and not read what this one writes.
    """
    place, model = folder / "training", folder / "model"
    place.mkdir()
    table = place / "scans.csv"
    pairs = [("features", "labels"), *write_heads(place, 32, 2)]
    table.write_text("".join(f"{','.join(pair)}\n" for pair in pairs))
    command = [sys.executable, "-c", "from nobrainer.cli import main; main()", "train"]
    command += [f"--data={table}", f"--output-dir={model}", "--model=bayesian_vnet"]
    command += [f"--model-arg={name}={value}" for name, value in SMALL.items()]
    command += ["--epochs=1", "--patches-per-volume=2", "--validate=1"]
    environment = os.environ | {"PYTHONPATH": str(source)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return model

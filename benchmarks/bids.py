"""What a BIDS data set costs: the same outputs from every engine, memory, throughput.

Synthetic heads are laid out as a data set, and a small model is trained for a moment,
unless one is given. Each part prints its figures, with CPU-seconds beside wall clock,
because a busy machine changes only the latter.

    python benchmarks/bids.py same --n-scans 60          # engines agree; second run;
                                                         # one of Dask's workers dies
    python benchmarks/bids.py flat --n-scans 300         # memory and time stay flat
    python benchmarks/bids.py throughput --n-scans 20    # against loops in the shell
    python benchmarks/bids.py throughput --scan head.nii.gz --n-scans 4
    python benchmarks/bids.py layout --n-scans 2000      # how long the start takes
"""

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
from distributed import Client

import nobrainer as nb
from nobrainer.bids.engines.serial import Serial
from nobrainer.bids.layout import read_layout
from nobrainer.bids.run import Run
from nobrainer.bids.scan import Settings
from nobrainer.data.phantom import make_subject
from nobrainer.results import make_method

IDS = (0, 2, 3, 4, 24, 41, 42, 43)
PROGRAM = [sys.executable, "-c", "from nobrainer.cli import main; main()"]
# They name times.
LEFT_OUT = ("provenance", "provenance.json")
WARM_UP = 5
N_WORKERS = 3
WAIT_S = 120
Taken = dict[str, float | str]
NOTHING: Taken = {"wall_s": 0.0, "cpu_s": 0.0}


def make_set(root: Path, n_scans: int, resolution_mm: float, scan: Path | None) -> Path:
    """A data set of synthetic heads, or of copies of one scan, one a participant."""
    for number in range(n_scans):
        path = root / f"sub-{number:04}" / "anat" / f"sub-{number:04}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        if scan is not None:
            nib.save(nib.load(scan), path)
        else:
            nib.save(make_subject(number % 20, resolution_mm)[0], path)
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "made", "BIDSVersion": "1.11.0"})
    )
    return root


def train(folder: Path) -> Path:
    """A small model of synthetic heads."""
    heads = [make_subject(100 + number, 4, structures=False) for number in range(3)]
    classes = {value: index for index, value in enumerate(IDS)}
    dataset = nb.Dataset.from_files(heads, (32, 32, 32), n_classes=len(IDS))
    dataset = dataset.relabel(classes).batch(2).patches(per_volume=8)
    model = nb.Segmentation("bayesian_vnet", {"base_filters": 4, "levels": 2})
    return model.fit(dataset, epochs=2, verbose=False).save(folder / "model")


def call(*args: object, env: dict[str, str] | None = None) -> Taken:
    """Call `nobrainer`; what it printed, and what it and its processes have taken."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run = subprocess.run(
        [*PROGRAM, *map(str, args)],
        capture_output=True,
        text=True,
        env=os.environ | (env or {}),
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"out": run.stdout, "wall_s": time.monotonic() - started, "cpu_s": cpu_s}


def cost(taken: Taken) -> str:
    """Wall clock and CPU-seconds as text."""
    return f"{taken['wall_s']:.1f} s, {taken['cpu_s']:.1f} CPU-s"


def add(one: Taken, other: Taken) -> Taken:
    """What two calls have taken together."""
    return {key: float(one[key]) + float(other[key]) for key in NOTHING}


def contents(out: Path) -> dict[str, bytes]:
    """The files of a derivative, without those that name times."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.relative_to(out).parts[0] not in LEFT_OUT
    }


@contextmanager
def dask_workers(folder: Path) -> Iterator[Client]:
    """A connection to a Dask scheduler that has workers of one thread each."""
    file = folder / "scheduler.json"
    options = {
        "scheduler": ("--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
        "worker": ("--nworkers", N_WORKERS, "--nthreads", 1, "--no-dashboard"),
    }
    processes = []
    try:
        for name, own in options.items():
            program = (sys.executable, "-m", "dask", name, "--scheduler-file", file)
            with (folder / f"{name}.log").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [*map(str, program), *map(str, own)],
                        cwd=folder,
                        stdout=log,
                        stderr=log,
                    )
                )
        with Client(scheduler_file=str(file), timeout=WAIT_S) as client:
            client.wait_for_workers(N_WORKERS, timeout=WAIT_S)
            yield client
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(WAIT_S)


def kill_a_worker(client: Client, out: Path, run: Future) -> int:
    """Kill a worker that is at work, when some scans are done; how many were killed."""
    numbers = client.run(os.getpid)
    while not run.done():
        at_work = [one for one, keys in client.processing().items() if keys]
        if at_work and len(list(out.glob("sub-*.html"))) >= WARM_UP:
            os.kill(numbers[at_work[0]], signal.SIGKILL)
            return 1
        time.sleep(0.1)
    return 0


def carry_out(executor: str, args: tuple[object, ...], out: Path, folder: Path) -> str:
    """Call `nobrainer bids` with an executor; return what it cost."""
    if executor != "dask":
        return cost(call("bids", *args, "--executor", executor))
    with dask_workers(folder) as client, ThreadPoolExecutor() as threads:
        address = client.scheduler.address
        where = ("--executor", executor, "--scheduler", address)
        run = threads.submit(call, "bids", *args, *where)
        n_killed = kill_a_worker(client, out, run)
        wall_s = run.result()["wall_s"]
        return f"{wall_s:.1f} s, {n_killed} of {N_WORKERS} workers killed"


def same(args: argparse.Namespace, folder: Path, data: Path, model: Path) -> None:
    """Outputs of the engines, the validator's errors, and the second run."""
    common = ("participant", "--model", model, "--n-samples", args.n_samples)
    found = {}
    for executor in args.executors:
        out = folder / executor
        taken = carry_out(executor, (data, out, *common), out, folder)
        n_done = len(list(out.glob("sub-*.html")))
        print(f"{executor:7} {n_done} done, {taken}", flush=True)
        found[executor] = contents(out)
    first = next(iter(found.values()))
    for executor, other in list(found.items())[1:]:
        unlike = [
            n for n in first.keys() | other.keys() if first.get(n) != other.get(n)
        ]
        print(f"{executor:7} {len(unlike)} of {len(first)} files differ {unlike[:3]}")
    again = call("bids", data, out, *common, "--json")
    scans = json.loads(str(again["out"]))["scans"]
    n_computed = sum(not scan["was_done"] for scan in scans)
    print(f"again   {n_computed} computed, {cost(again)}")
    validator = shutil.which(
        "bids-validator-deno", path=str(Path(sys.executable).parent)
    )
    if validator:
        checked = subprocess.run(
            [validator, str(out), "--format", "json"], capture_output=True, text=True
        )
        issues = json.loads(checked.stdout)["issues"]["issues"]
        n_errors = sum(one["severity"] == "error" for one in issues)
        print(f"validator {n_errors} errors in {len(first)} files")


def flat(args: argparse.Namespace, folder: Path, data: Path, model: Path) -> None:
    """Memory after each scan of one process, and CPU-seconds of each."""
    segmentation = nb.Segmentation.load(model)
    method = make_method(
        "bids",
        model,
        segmentation,
        n_samples=args.n_samples,
        seed=0,
        options={"threshold": 0.8},
    )
    settings = Settings(
        data, folder / "flat", model, method, segmentation.device, 0.8, False, False
    )
    run = Run.plan(settings, read_layout(data))
    process, rows = psutil.Process(), []
    cpu_s = time.process_time()
    for outcome in run.outcomes(Serial()):
        if outcome.state != "done":
            raise SystemExit(outcome.reason)
        now_s = time.process_time()
        rows.append((process.memory_info().rss / 1e6, now_s - cpu_s))
        cpu_s = now_s
    # The first scans load fonts, colours and templates.
    share = max(5, len(rows) // 10)
    ends = rows[WARM_UP : WARM_UP + share], rows[-share:]
    for name, column, unit in (("memory", 0, "MB"), ("a scan", 1, "CPU-s")):
        first, last = (statistics.median(row[column] for row in end) for end in ends)
        print(
            f"{name:7} {first:.2f} first, {last:.2f} last, {last / first:.3f} ({unit})"
        )


def throughput(args: argparse.Namespace, folder: Path, data: Path, model: Path) -> None:
    """Scans an hour, against loops in the shell.

    `predict` writes the maps, the mask and the volumes; the quality and the page with
    its figures come from `report`. So the loop over both has the outputs of `bids`.
    """
    scans = sorted(data.glob("sub-*/anat/*.nii.gz"))
    common = ("--model", model, "--n-samples", args.n_samples)
    threads = {"OMP_NUM_THREADS": str(args.n_cpus), "MKL_NUM_THREADS": str(args.n_cpus)}
    maps, pages = folder / "maps", folder / "pages"
    taken = {"predict": NOTHING, "report": NOTHING}
    for scan in scans:
        words = (scan, *common, "--output-dir", maps, "--brain-mask")
        one = call("predict", *words, env=threads)
        taken["predict"] = add(taken["predict"], one)
        # A folder each: its tables would hold all scans of one folder.
        words = (scan, *common, "--output-dir", pages / scan.parts[-3])
        one = call("report", *words, env=threads)
        taken["report"] = add(taken["report"], one)
    taken["both"] = add(taken["predict"], taken["report"])
    out = folder / "bids"
    taken["bids"] = call(
        "bids", data, out, "participant", *common, "--n-cpus", args.n_cpus
    )
    for name, spent in taken.items():
        per_hour = 3600 * len(scans) / float(spent["wall_s"])
        ratios = " and ".join(
            f"{float(spent[key]) / float(taken['bids'][key]):.2f}"
            for key in ("wall_s", "cpu_s")
        )
        print(f"{name:7} {per_hour:.0f} scans/h, {cost(spent)}, {ratios} times bids")
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"load of the machine over 1, 5 and 15 minutes: {load}")
    n_unlike = 0
    for scan in scans:
        name = scan.name.removesuffix("_T1w.nii.gz")
        anat = out / name / "anat"
        pairs = {
            "label": next(anat.glob("*_dseg.nii.gz")),
            "brainmask": anat / f"{name}_desc-brain_mask.nii.gz",
            "entropy": anat / f"{name}_entropy.nii.gz",
            "variance": anat / f"{name}_variance.nii.gz",
        }
        for kind, path in pairs.items():
            other = maps / f"{name}_T1w_{kind}.nii.gz"
            both = (np.asarray(nib.load(one).dataobj) for one in (path, other))
            n_unlike += not np.array_equal(*both)
    print(f"{n_unlike} of {len(pairs) * len(scans)} maps differ")


def layout(args: argparse.Namespace, folder: Path) -> None:
    """How long it takes to find the scans, of two sessions each, among other files."""
    root = folder / "layout"
    for number in range(args.n_scans):
        for session in "ab":
            name = f"sub-{number:04}_ses-{session}"
            for place, ends in {
                "anat": ("T1w.nii.gz", "T1w.json", "T2w.nii.gz", "T2w.json"),
                "func": ("task-rest_bold.nii.gz", "task-rest_bold.json"),
            }.items():
                into = root / f"sub-{number:04}" / f"ses-{session}" / place
                into.mkdir(parents=True)
                for end in ends:
                    (into / f"{name}_{end}").touch()
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1"}')
    wall_s, cpu_s = time.monotonic(), time.process_time()
    n_found = len(read_layout(root).sources)
    taken = {
        "wall_s": time.monotonic() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
    }
    print(f"{n_found} T1w of {args.n_scans} participants: {cost(taken)}")


PARTS = {"same": same, "flat": flat, "throughput": throughput}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "layout"])
    parser.add_argument("--n-scans", type=int, default=60)
    parser.add_argument("--n-samples", type=int, default=3)
    parser.add_argument("--n-cpus", type=int, default=2)
    parser.add_argument("--resolution-mm", type=float, default=4.0)
    parser.add_argument(
        "--scan", type=Path, help="a real scan, of which copies are made"
    )
    parser.add_argument("--model", type=Path, help="folder of a model")
    parser.add_argument("--executors", nargs="+", default=["serial", "local", "dask"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.part == "layout":
            layout(args, folder)
            return
        data = make_set(folder / "data", args.n_scans, args.resolution_mm, args.scan)
        model = args.model.absolute() if args.model else train(folder)
        PARTS[args.part](args, folder, data, model)


if __name__ == "__main__":
    main()

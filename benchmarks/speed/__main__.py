"""Measure speed and memory beside other packages and the machine's limit.

    make bench
    make bench BENCH_ARGS="--only train predict --quick"

Writes speed.json, speed.md and growth.png. See docs/how-to/measure-speed.md.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed import (
    builds,
    data,
    growth,
    peers,
    predict,
    processes,
    report,
    scan,
    train,
)
from benchmarks.speed.limits import Limits
from benchmarks.speed.measure import Options, Table

from nobrainer.rounding import float32_products
from nobrainer.training.engine import has_bfloat16

SECTIONS: dict[str, Callable[[Options, Limits], Iterable[Table]]] = {
    "limits": lambda options, limits: [],
    "startup": processes.startup,
    "first-step": processes.first_step,
    "train": train.run,
    "data": data.run,
    "predict": predict.run,
    "scan": scan.run,
    "memory": processes.memory,
    "growth": growth.run,
    "builds": builds.run,
}
"""Every run measures the limits; alone, "limits" measures nothing else."""
STARTS = ("startup", "first-step")
"""Sections that start some sixty processes, which takes minutes and tells little about
a GPU: with one they run when they are asked for."""

PACKAGES = (
    "nobrainer",
    "torch",
    "monai",
    "bayesian-torch",
    "torch-uncertainty",
    "pyro-ppl",
    "numpy",
)


def cpu() -> tuple[str, list[str]]:
    """The processor's name, and its wide and low-precision instructions."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor(), []
    rows = [line.partition(":")[::2] for line in info.read_text().splitlines()]
    fields = {key.strip(): value.strip() for key, value in rows}
    flags = fields.get("flags", "").split()
    wide = [flag for flag in flags if flag.startswith(("avx", "amx"))]
    return fields.get("model name", platform.processor()), wide


def machine(options: Options) -> dict[str, Any]:
    """What the figures depend on."""
    name, flags = cpu()
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(options.device),
        "processor": name,
        "instructions": " ".join(flags),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "python": platform.python_version(),
        "versions": ", ".join(
            f"{p} {version(p)}" for p in PACKAGES if p not in peers.MISSING
        ),
        "repeats": options.repeats,
        "quick": options.quick,
    }
    if peers.MISSING:
        found["left out, since it is not installed"] = ", ".join(peers.MISSING)
    if options.device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(options.device)
    return found


def limits_text(limits: Limits) -> str:
    """The best and the worst of each rate over the run."""
    rows = []
    for name in limits.probes[0]:
        rates = [probe[name] / 1e9 for probe in limits.probes]
        rows.append((name, f"{max(rates):.0f}", f"{min(rates):.0f}"))
    table = report.markdown_table(("rate, 10⁹ a second", "best", "worst"), rows)
    return f"## limits\n\n{table}\n"


def write(
    tables: list[Table], described: dict[str, Any], limits: Limits, folder: Path
) -> None:
    """Write speed.json and speed.md with the tables that there are."""
    goals = report.goals(tables, torch.device(described["device"]))
    contents = {
        "machine": described,
        "goals": [vars(goal) for goal in goals],
        "limits": limits.probes,
        "tables": [table.as_json() for table in tables],
    }
    text = json.dumps(contents, indent=1, ensure_ascii=False)
    (folder / "speed.json").write_text(text + "\n")
    text = report.as_text(tables, described, goals) + "\n" + limits_text(limits)
    (folder / "speed.md").write_text(text)


def main() -> None:
    """Run the sections asked for, and write what they found after every table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="small volumes, 3 minutes")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--repeats", type=int, help="default 5, on a GPU 3, with --quick 2"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--other", type=Path, help="folder src of a build to compare with: 'builds'"
    )
    parser.add_argument("--output-dir", type=Path, default=Path("bench-output"))
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    sections = args.only or [s for s in SECTIONS if not (on_gpu and s in STARTS)]
    options = Options(
        device=device,
        threads=args.threads,
        repeats=args.repeats or (2 if args.quick else 3 if on_gpu else 5),
        quick=args.quick,
        bfloat16=has_bfloat16(device),
        other=args.other,
    )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    described = machine(options)
    for name in peers.MISSING:
        print(
            f"{name} is left out, since it is not installed; to have it: pip install "
            "--no-deps --requirement benchmarks/requirements.txt",
            file=sys.stderr,
        )
    limits = Limits(options)
    limits.probe()
    tables: list[Table] = []
    for section in SECTIONS:
        if section not in sections:
            continue
        started = time.perf_counter()
        found = []
        for table in SECTIONS[section](options, limits):
            found.append(table)
            print(report.as_markdown(table), flush=True)
            # After every table, so that what was measured is kept if a later one fails.
            write([*tables, *found], described, limits, args.output_dir)
        tables += found
        if section == "growth":
            growth.plot(found, args.output_dir / "growth.png")
        took = time.perf_counter() - started
        print(f"{section}: {took:.0f} s", file=sys.stderr, flush=True)
    write(tables, described, limits, args.output_dir)
    goals = report.goals(tables, device)
    print(report.goals_as_markdown(goals) + "\n" + limits_text(limits))


if __name__ == "__main__":
    # Limits and others multiply as exactly as nobrainer does.
    with float32_products():
        main()

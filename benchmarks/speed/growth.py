"""How time and memory grow with voxels and draws."""

from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from benchmarks.speed.inputs import SMALL, network, noise, predict
from benchmarks.speed.limits import Limits
from benchmarks.speed.measure import Case, Options, Table, alternate, seconds
from benchmarks.speed.processes import peak
from matplotlib.figure import Figure

matplotlib.use("Agg")


def exponent(table: Table, fact: str = "") -> tuple[float, float]:
    """Slope and intercept of log(median seconds, or a fact) over log(amount)."""
    x = [case.amount for case in table.cases.values()]
    y = [case.facts[fact] if fact else case.median for case in table.cases.values()]
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return float(slope), float(intercept)


def run(options: Options, _: Limits) -> list[Table]:
    """Seconds over voxels and over draws, memory over draws; float32."""
    quick = options.quick
    sizes = (32, 48, 64) if quick else (64, 96, 128, 192, 256)
    draws = (1, 2, 5) if quick else (1, 2, 5, 10, 20, 50)
    side = 48 if quick else 128
    model, device = network(**SMALL), options.device
    dtype = options.dtypes[0]
    images = {f"{n}³": noise(n) for n in sizes}
    volume = noise(side)

    def of(image: np.ndarray, n: int) -> partial[float]:
        return partial(
            seconds, partial(predict, model, image, n, 2, device, dtype), device
        )

    predict(model, volume, 1, 2, device, dtype)
    voxels = alternate({k: of(v, 2) for k, v in images.items()}, options.few)
    samples = alternate({f"{n}": of(volume, n) for n in draws}, options.few)
    peaks = {
        n: peak("peak_nobrainer", options, size=side, draws=n, classes=2, full=1)
        for n in draws
    }
    first_peak = next(iter(peaks.values()))
    tables = [
        Table(
            "growth",
            "growth/voxels",
            "Time over voxels: noise everywhere, 2 draws, float32",
            "voxels/s",
            f"{sizes[0]}³",
            {
                k: Case(times, float(images[k].size), facts={"voxels": images[k].size})
                for k, times in voxels.items()
            },
        ),
        Table(
            "growth",
            "growth/draws",
            f"Time over draws: noise everywhere, {side}³, float32",
            "draws/s",
            f"{draws[0]}",
            {
                f"{n}": Case(
                    samples[f"{n}"],
                    float(n),
                    facts={
                        **{k: v for k, v in peaks[n].items() if k != "seconds"},
                        "peak_over_first": peaks[n]["peak_mib"]
                        / first_peak["peak_mib"],
                    },
                )
                for n in draws
            },
        ),
    ]
    return tables


def plot(tables: list[Table], path: Path) -> None:
    """Draw the measured points, the fits and their exponents."""
    voxels, draws = tables
    panels = (
        (voxels, "", "voxels", "seconds"),
        (draws, "", "draws", "seconds"),
        (draws, "peak_mib", "draws", "peak memory, MiB"),
    )
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (table, fact, x_name, y_name) in zip(
        figure.subplots(1, 3), panels, strict=True
    ):
        slope, intercept = exponent(table, fact)
        cases = list(table.cases.values())
        x = np.array([case.amount for case in cases])
        if fact:
            y = [case.facts[fact] for case in cases]
            axes.plot(x, y, "o")
            axes.set_ylim(0, 1.2 * max(y))
        else:
            for case in cases:
                axes.plot([case.amount] * len(case.samples), case.samples, "C0.")
        axes.plot(x, np.exp(intercept) * x**slope, "C1-")
        axes.set(xscale="log", xlabel=x_name, ylabel=y_name)
        axes.minorticks_off()
        axes.set_xticks(x, list(table.cases))
        if not fact:
            axes.set_yscale("log")
        axes.set_title(f"{y_name} ~ {x_name}^{slope:.2f}")
    figure.savefig(path, dpi=120)

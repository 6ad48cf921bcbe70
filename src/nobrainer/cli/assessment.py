"""What `qc` and `report` do: judge the segmentations of scans without a reference."""

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

import nobrainer as nb
from nobrainer.cli.options import (
    DRAWS,
    FILES,
    JSON,
    MODEL,
    OUTPUT_DIR,
    OVERWRITE,
    SEED,
    THRESHOLD,
)
from nobrainer.cli.outputs import (
    append_rows,
    echo,
    make_directory,
    refuse_existing,
    refuse_other,
    to_json,
)
from nobrainer.cli.scans import each_scan, end, name_scans, new_batch
from nobrainer.errors import InputError, UnusualScanWarning
from nobrainer.io import write_text
from nobrainer.processing.display import ProgressBar

_WIDTH = 80
# In the order in which help lists them.
_OPTIONS = (FILES, MODEL, OUTPUT_DIR, DRAWS, SEED, THRESHOLD, OVERWRITE, JSON)


def make_command(name: str, text: str, *, with_pages: bool) -> click.Command:
    """A command that is `assess_scans`, with pages or without; `text` is its help."""
    callback = click.pass_context(partial(assess_scans, with_pages=with_pages))
    for option in reversed(_OPTIONS):
        callback = option(callback)
    return click.command(name, help=text)(callback)


def assess_scans(
    ctx: click.Context,
    files: Sequence[Path],
    model_dir: Path,
    output_dir: Path,
    *,
    n_samples: int,
    seed: int,
    threshold: float,
    overwrite: bool,
    as_json: bool,
    with_pages: bool,
) -> None:
    """Predict scans one at a time, write tables (and pages), print the worst first.

    What is known of a scan is written before the next one is predicted, so that an
    interruption loses one scan and memory does not grow with their number. How a scan
    differs from the others of the run is known, and written, at the end.
    """
    names = name_scans(files)
    qc, structures = output_dir / "qc.tsv", output_dir / "structures.tsv"
    sidecars = {
        qc.with_suffix(".json"): to_json(nb.quality.sidecar()) + "\n",
        structures.with_suffix(".json"): to_json(nb.structures.sidecar()) + "\n",
    }
    index = output_dir / "index.html"
    pages = {}
    if with_pages:
        pages = {name: output_dir / f"{name}.html" for name in names.values()}
        for file, name in names.items():
            if pages[name] == index:
                raise InputError(
                    f"{file}: its page would be called {index.name} as the list of "
                    "all: rename the scan"
                )
        refuse_existing([index, *pages.values()], overwrite=overwrite)
    refuse_existing([qc, structures], overwrite=overwrite)
    refuse_other(sidecars, overwrite=overwrite)
    segmentation = nb.Segmentation.load(model_dir)
    # It is about the options: every scan would end in it.
    segmentation.check_quality(n_samples)
    make_directory(output_dir)
    cases: dict[Path, Any] = {}

    def assess(file: Path, bar: ProgressBar) -> None:
        with warnings.catch_warnings():
            # They are among the reasons that are printed at the end.
            warnings.simplefilter("ignore", UnusualScanWarning)
            found = segmentation.predict(
                file, n_samples=n_samples, seed=seed, verbose=False, on_pass=bar.advance
            )
        prediction = replace(found, name=names[file])
        case = segmentation.quality(prediction, threshold)
        if with_pages:
            nb.report.write_case(
                prediction,
                pages[case.name],
                case=case,
                model=segmentation.recipe_,
                calibration=segmentation.calibration_,
                index=index.name,
                overwrite=overwrite,
            )
        is_first = not cases
        volumes = nb.structures.to_tsv({case.name: prediction.structures})
        append_rows(volumes, structures, is_first=is_first)
        append_rows(nb.quality.to_tsv([case]), qc, is_first=is_first)
        cases[file] = case

    written: dict[str, Path] = {}
    batch = new_batch(ctx)
    try:
        for _ in each_scan(files, assess, batch):
            pass
    except KeyboardInterrupt:
        done = f"interrupted: {len(cases)} of {len(files)} scans are done"
        raise KeyboardInterrupt(f"{done}, see {qc}" if cases else done) from None
    finally:
        if cases:
            cases = _compare(cases)
            for path, text in sidecars.items():
                write_text(text, path, overwrite=True)
            table = nb.quality.to_tsv(list(cases.values()))
            written["qc"] = write_text(table, qc, overwrite=True)
            written["structures"] = structures
        if cases and with_pages:
            written["index"] = nb.report.write_cohort(
                list(cases.values()),
                index,
                pages={case.name: pages[case.name].name for case in cases.values()},
                model=segmentation.recipe_,
                calibration=segmentation.calibration_,
                overwrite=overwrite,
            )
    if as_json:
        story = {
            "scans": [
                {
                    "input": str(file),
                    "subject": case.name,
                    "flagged": bool(case.flags),
                    "score": case.score,
                    "score_is": case.meaning,
                    "predicted_dice": case.predicted_dice,
                    "features": dict(case.features),
                    "reasons": list(case.flags),
                    "checked": list(case.checked),
                    "unchecked": list(case.unchecked),
                }
                | ({"page": str(pages[case.name])} if with_pages else {})
                for file, case in cases.items()
            ],
            "files": {name: str(path) for name, path in written.items()},
        }
        echo(to_json(story))
    elif cases:
        _echo_cases(list(cases.values()))
        if caution := segmentation.recipe_.provenance.caution:
            echo(f"{caution}\n")
        echo("files")
        for name, path in written.items():
            echo(f"  {name:<10} {path}")
    end(ctx, batch.problems)


def _compare(cases: Mapping[Path, Any]) -> dict[Path, Any]:
    """The cases with how each is unlike the others; flagged first, then by score."""
    outliers = nb.quality.cohort_outliers([case.features for case in cases.values()])
    compared = [
        (file, replace(case, flags=case.flags + unlike))
        for (file, case), unlike in zip(cases.items(), outliers, strict=True)
    ]
    return dict(sorted(compared, key=lambda one: (not one[1].flags, one[1].score)))


def _echo_cases(cases: Sequence[Any]) -> None:
    """Print the cases in order, the reasons to look at each, and what was checked."""
    width = max(len("scan"), *(len(case.name) for case in cases))
    echo(f"{'scan':<{width}}  score")
    for case in cases:
        flagged = "  flagged" if case.flags else ""
        echo(f"{case.name:<{width}}  {case.score:.3f}{flagged}")
        for reason in case.flags:
            echo(
                textwrap.fill(
                    reason, _WIDTH, initial_indent="    ", subsequent_indent="    "
                )
            )
    # Every scan is judged by the same records.
    case = cases[0]
    n_flagged = sum(bool(case.flags) for case in cases)
    lines = [
        f"{n_flagged} of {len(cases)} flagged; score: {case.meaning}, 0 to 1",
        f"checked: {'; '.join(case.checked)}",
    ]
    if case.unchecked:
        lines.append(f"not on record in this model: {'; '.join(case.unchecked)}")
    lines.append("what is not flagged can be wrong, too")
    for line in lines:
        echo(textwrap.fill(line, _WIDTH, subsequent_indent="  "))
    echo()

"""What `qc` and `report` do: judge the segmentations of scans without a reference."""

import math
import textwrap
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import click

import nobrainer as nb
from nobrainer.cli.options import (
    FILES,
    JSON,
    MODEL,
    OUTPUT_DIR,
    OVERWRITE,
    THRESHOLD,
    Draws,
    gather,
)
from nobrainer.cli.outputs import echo, to_json
from nobrainer.cli.results import Results, make_method
from nobrainer.cli.scans import each_scan, end, name_scans, new_batch, tell_skipped
from nobrainer.errors import InputError, UnusualScanWarning
from nobrainer.io import write_text
from nobrainer.json_records import build_record
from nobrainer.processing.progress import ProgressBar

_WIDTH = 80
_SELDOM = 20
"""Tables are written again after so many times the time that it took: 5 % of all."""
_PARTS = ("structures", "regions")
"""Tables with some rows of each scan, by the names that its record has them under."""
# In the order in which help lists them.
_OPTIONS = (FILES, MODEL, OUTPUT_DIR, gather(draws=Draws), THRESHOLD, OVERWRITE, JSON)


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
    draws: Draws,
    threshold: float,
    overwrite: bool,
    as_json: bool,
    with_pages: bool,
) -> None:
    """Predict scans one at a time, write tables (and pages), print the worst first.

    What is known of a scan is recorded before the next one is predicted, so that an
    interruption loses one scan. The tables are made of the records of all scans in
    the folder, now and then and at the end, each written whole.
    """
    names = name_scans(files)
    qc = output_dir / "qc.tsv"
    parts = {name: output_dir / f"{name}.tsv" for name in _PARTS}
    index = output_dir / "index.html"
    if with_pages:
        for file, name in names.items():
            if f"{name}.html" == index.name:
                raise InputError(
                    f"{file}: its page would be called {index.name} as the list of "
                    "all: rename the scan"
                )
    segmentation = nb.Segmentation.load(model_dir)
    # It is about the options: every scan would end in it.
    segmentation.check_quality(draws.n_samples)
    method = make_method(
        "report" if with_pages else "qc",
        model_dir,
        segmentation,
        n_samples=draws.n_samples,
        seed=draws.seed,
        options={"threshold": threshold},
    )
    results = Results(
        output_dir,
        method,
        segmentation.device,
        overwrite=overwrite,
        keeps=("case", *_PARTS),
    )
    names = results.keep_names(names)
    pages = {}
    if with_pages:
        pages = {name: output_dir / f"{name}.html" for name in names.values()}
    sidecars = {
        qc.with_suffix(".json"): to_json(nb.quality.sidecar()) + "\n",
        parts["structures"].with_suffix(".json"): to_json(
            nb.structures.sidecar(method.coverage)
        )
        + "\n",
        parts["regions"].with_suffix(".json"): to_json(nb.regions.sidecar()) + "\n",
    }
    tables = [qc, *parts.values(), *sidecars, *([index] if with_pages else [])]
    results.open(names.values(), tables)
    n_skipped = 0
    next_s = time.monotonic()

    def assess(file: Path, bar: ProgressBar) -> str:
        nonlocal n_skipped, next_s
        name = names[file]
        page = [pages[name]] if with_pages else []
        if results.find_done(name, [file], page) is not None:
            bar.skip()
            n_skipped += 1
            return name
        with results.work(name, [file], page) as work:
            with warnings.catch_warnings():
                # They are among the reasons that are printed at the end.
                warnings.simplefilter("ignore", UnusualScanWarning)
                found = segmentation.predict(
                    file,
                    n_samples=draws.n_samples,
                    seed=draws.seed,
                    verbose=False,
                    on_pass=bar.advance,
                )
            prediction = replace(found, name=name)
            case = segmentation.quality(prediction, threshold)
            if with_pages:
                work.begin()
                nb.report.write_case(
                    prediction,
                    pages[name],
                    case=case,
                    model=segmentation.recipe_,
                    calibration=segmentation.calibration_,
                    index=index.name,
                    overwrite=True,
                )
            work.data = {
                "case": asdict(case),
                "structures": nb.structures.to_tsv({name: prediction.structures}),
                "regions": nb.regions.to_tsv({name: prediction.regions}),
            }
        if time.monotonic() >= next_s:
            started_s = time.monotonic()
            _write_tables(results, qc, parts, sidecars)
            # With thousands of scans a table takes a while: not after each of them.
            ended_s = time.monotonic()
            next_s = ended_s + _SELDOM * (ended_s - started_s)
        return name

    written: dict[str, Path] = {}
    done: list[str] = []
    cases: dict[str, Any] = {}
    batch = new_batch(ctx)
    try:
        done.extend(each_scan(names, assess, batch))
    except KeyboardInterrupt:
        n_done = len(results.records())
        words = f"interrupted: {n_done} scans of {output_dir} are done"
        raise KeyboardInterrupt(
            f"{words}, see {qc}; the same command goes on" if n_done else words
        ) from None
    finally:
        if results.records():
            cases = _write_tables(results, qc, parts, sidecars)
            written |= {"qc": qc, **parts}
            if with_pages:
                with results.sharing([index]):
                    written["index"] = nb.report.write_cohort(
                        list(cases.values()),
                        index,
                        pages={name: f"{name}.html" for name in cases},
                        model=segmentation.recipe_,
                        calibration=segmentation.calibration_,
                        overwrite=True,
                    )
        results.close()
    file_of = {names[file]: file for file in files if names[file] in done}
    n_cases = len(cases)
    cases = {name: case for name, case in cases.items() if name in file_of}
    if as_json:
        story = {
            "scans": [
                {
                    "input": str(file_of[name]),
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
                | ({"page": str(pages[name])} if with_pages else {})
                for name, case in cases.items()
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
    if n_cases > len(cases) > 0 and not as_json:
        echo(f"the tables hold {n_cases} scans: those of earlier commands, too")
    tell_skipped(n_skipped, len(files))
    end(ctx, batch.problems)


def _write_tables(
    results: Results, qc: Path, parts: Mapping[str, Path], sidecars: Mapping[Path, str]
) -> dict[str, Any]:
    """Write the tables of all scans in the folder; return their cases, worst first."""
    with results.sharing([qc, *parts.values(), *sidecars]):
        records = results.records()
        cases = _compare(
            {name: _read_case(record.data["case"]) for name, record in records.items()}
        )
        texts = {
            path: _joined([record.data[name] for record in records.values()])
            for name, path in parts.items()
        }
        texts |= {qc: nb.quality.to_tsv(list(cases.values())), **sidecars}
        for path, text in texts.items():
            write_text(text, path, overwrite=True)
    return cases


def _joined(tables: Sequence[str]) -> str:
    """The rows of tables with one header."""
    header, _, _ = tables[0].partition("\n")
    return "".join([f"{header}\n", *(table.partition("\n")[2] for table in tables)])


def _read_case(raw: Mapping[str, Any]) -> Any:
    """A case from its record, in which a figure that is not defined is null."""
    case = nb.quality.Case
    hints = get_type_hints(case)
    defined = {
        name: math.nan if value is None and hints.get(name) is float else value
        for name, value in raw.items()
    }
    return build_record(case, defined, "case")


def _compare(cases: Mapping[str, Any]) -> dict[str, Any]:
    """The cases with how each is unlike the others; flagged first, then by score."""
    outliers = nb.quality.cohort_outliers([case.features for case in cases.values()])
    compared = [
        (name, replace(case, flags=case.flags + unlike))
        for (name, case), unlike in zip(cases.items(), outliers, strict=True)
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

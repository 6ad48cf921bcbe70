"""What `qc` and `report` do: judge the segmentations of scans without a reference."""

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

import nobrainer as nb
from nobrainer.cli.options import (
    FILES,
    JSON,
    MODEL,
    OUTPUT_DIR,
    OVERWRITE,
    THREADS,
    THRESHOLD,
    Draws,
    gather,
)
from nobrainer.cli.outputs import echo, echo_files, to_json
from nobrainer.cli.quality_folder import PARTS, QualityFolder, refuse_index
from nobrainer.cli.scans import (
    each_scan,
    end,
    judging_method,
    name_scans,
    new_batch,
    tell_skipped,
)
from nobrainer.errors import UnusualScanWarning
from nobrainer.processing.progress import ProgressBar
from nobrainer.results import Method, Results

# No line ends inside the name of a structure.
_fill = partial(textwrap.fill, width=80, break_on_hyphens=False)
# In the order in which help lists them.
_OPTIONS = (
    *(FILES, MODEL, OUTPUT_DIR, gather(draws=Draws), THRESHOLD, THREADS),
    *(OVERWRITE, JSON),
)


def make_command(name: str, text: str, *, with_pages: bool) -> click.Command:
    """Make a command that runs `assess_scans`.

    Args:
        name: name of the command.
        text: help of the command.
        with_pages: whether to write a page for each scan, too.
    """
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
    threshold: float | None,
    overwrite: bool,
    as_json: bool,
    with_pages: bool,
) -> None:
    """Predict scans one at a time, write tables (and pages), print the worst first.

    Each scan is recorded before the next one, so that an interruption loses one scan.

    Args:
        threshold: score, 0 to 1, below which a scan is flagged; None takes that of
            the model.
        with_pages: whether to write a page for each scan, too.

    Raises:
        KeyboardInterrupt: the user interrupted; the message says what is done.
    """
    names = name_scans(files)
    if with_pages:
        refuse_index(names)
    segmentation = nb.Segmentation.load(model_dir)
    command = "report" if with_pages else "qc"
    method = judging_method(command, model_dir, segmentation, draws, threshold)
    results = Results(
        output_dir,
        method,
        segmentation.device,
        overwrite=overwrite,
        keeps=("case", *PARTS),
    )
    names = results.keep_names(names)
    folder = QualityFolder(
        results, segmentation, method.coverage, with_pages=with_pages
    )
    results.open(names.values(), folder.shared)
    judge = _Judge(segmentation, folder, names, method)
    batch, done = new_batch(ctx), list[str]()
    try:
        done.extend(each_scan(names, judge.assess, batch))
    except KeyboardInterrupt:
        n_done = len(results.records())
        words = f"interrupted: {n_done} scans of {output_dir} are done"
        raise KeyboardInterrupt(
            f"{words}, see {folder.qc}; the same command goes on" if n_done else words
        ) from None
    finally:
        found, written = folder.write()
        results.close()
    file_of = {names[file]: file for file in files if names[file] in done}
    cases = {name: case for name, case in found.items() if name in file_of}
    if as_json:
        scans = [
            _describe(case, file_of[name], folder.pages(name))
            for name, case in cases.items()
        ]
        files_of_all = {name: str(path) for name, path in written.items()}
        echo(to_json({"scans": scans, "files": files_of_all}))
    elif cases:
        _echo_cases(list(cases.values()))
        if caution := segmentation.recipe_.provenance.caution:
            echo(f"{caution}\n")
        echo_files(written)
        if len(found) > len(cases):
            echo(f"the tables hold {len(found)} scans: those of earlier commands, too")
    tell_skipped(judge.n_skipped, len(files))
    end(ctx, batch.problems)


class _Judge:
    """Predicts and judges the scans that are not done yet.

    n_skipped: how many scans were done before.
    """

    def __init__(
        self,
        segmentation: "nb.Segmentation",
        folder: QualityFolder,
        names: Mapping[Path, str],
        method: Method,
    ) -> None:
        self.n_skipped = 0
        self._segmentation, self._folder = segmentation, folder
        self._names, self._method = names, method

    def assess(self, file: Path, bar: ProgressBar) -> str:
        """Judge a scan, record what is found and write its page; return its name."""
        name, results = self._names[file], self._folder.results
        pages = self._folder.pages(name)
        if results.find_done(name, [file], pages) is not None:
            bar.skip()
            self.n_skipped += 1
            return name
        with results.work(name, [file], pages) as work:
            prediction = replace(self._predict(file, bar), name=name)
            case = self._segmentation.quality(
                prediction, self._method.options["threshold"]
            )
            for page in pages:
                work.begin()
                nb.report.write_case(
                    prediction,
                    page,
                    case=case,
                    model=self._segmentation.recipe_,
                    calibration=self._segmentation.calibration_,
                    index=self._folder.index and self._folder.index.name,
                    overwrite=True,
                )
            work.data = {
                "case": asdict(case),
                "structures": nb.structures.to_tsv(
                    {name: (*prediction.structures, *prediction.totals)}
                ),
                "regions": nb.regions.to_tsv({name: prediction.regions}),
            }
        self._folder.write_now_and_then()
        return name

    def _predict(self, file: Path, bar: ProgressBar) -> "nb.Prediction":
        with warnings.catch_warnings():
            # These warnings are among the reasons that are printed at the end.
            warnings.simplefilter("ignore", UnusualScanWarning)
            return self._segmentation.predict(
                file,
                n_samples=self._method.n_samples,
                seed=self._method.seed,
                verbose=False,
                on_pass=bar.advance,
            )


def _describe(
    case: "nb.quality.Case", file: Path, pages: Sequence[Path]
) -> dict[str, Any]:
    """What `--json` prints about a scan."""
    return {
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
    } | ({"page": str(pages[0])} if pages else {})


def _echo_cases(cases: Sequence["nb.quality.Case"]) -> None:
    """Print the cases in order, the reasons to look at each, and what was checked."""
    width = max(len("scan"), *(len(case.name) for case in cases))
    echo(f"{'scan':<{width}}  score")
    for case in cases:
        flagged = "  flagged" if case.flags else ""
        echo(f"{case.name:<{width}}  {case.score:.3f}{flagged}")
        for reason in case.flags:
            echo(_fill(reason, initial_indent="    ", subsequent_indent="    "))
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
        echo(_fill(line, subsequent_indent="  "))
    echo()

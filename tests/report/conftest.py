"""Pages that several tests read."""

from pathlib import Path

import pytest

from nobrainer.report import write_case, write_cohort, write_evaluation
from report_pages import CALIBRATION, EVIL, LABELS, RECIPE, case, evaluated, predicted


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each report, and those of names and models that ask for trouble."""
    folder = tmp_path_factory.mktemp("reports")
    flagged = case(EVIL, 0.5, "<u>volume is odd")
    cases = [case("sub-02", 0.9), flagged, case("sub-01", 0.25, "nothing is there")]
    links = {"sub-01": "case.html", EVIL: f"{EVIL} #2.html"}
    return {
        "case": write_case(
            predicted(name=EVIL),
            folder / "case.html",
            model=RECIPE,
            case=flagged,
            calibration=CALIBRATION,
        ),
        "single": write_case(
            predicted(single=True), folder / "single.html", model=None
        ),
        "evaluation": write_evaluation(
            evaluated(),
            folder / "evaluation.html",
            labels=LABELS,
            model=RECIPE,
            title="Held-out scans",
        ),
        "cohort": write_cohort(
            cases, folder / "cohort.html", pages=links, model=RECIPE
        ),
    }

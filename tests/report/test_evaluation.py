"""The page of an evaluation, against its rows."""

from pathlib import Path

from html_pages import DASH, Page
from nobrainer.evaluation import Evaluation, Row
from nobrainer.report import write_evaluation
from report_pages import LABELS


def test_the_page_of_an_evaluation_has_its_numbers(pages: dict[str, Path]) -> None:
    page = Page(pages["evaluation"])
    # (0.5 + 0.75) / 2 and 0.9, and their mean.
    assert page.row("Dice")[1] == "0.762"
    assert page.row("negative log-likelihood (nats)")[1:3] == ["0.0202", "0.3303"]
    assert page.row("AUROC of entropy")[1:3] == [DASH, "0.8765"]
    assert page.row("<i>left") == [
        "<i>left", "2", "0.625 (0.500 to 0.750)", "4.00 (4.00 to 4.00)", "0.50",
    ]  # fmt: skip
    assert page.row("right") == ["right", "1", "0.900 (0.900 to 0.900)", DASH, DASH]
    assert page.row("one") == ["one", "0.700", "4.00", "1.00", "0.220", "0.876"]
    # Dice and distance of structures, reliability, risk and coverage.
    assert len(page.all("img")) == 4
    assert "2 scans" in page.text and "Held-out scans" in page.text


def test_volume_errors_of_both_signs_do_not_cancel_in_a_scan(tmp_path: Path) -> None:
    left, right = LABELS.names[1:]
    rows = tuple(
        Row("one", "volume", structure, metric, value)
        for structure, dice, error in ((left, 0.8, 0.3), (right, 0.6, -0.3))
        for metric, value in (("dice", dice), ("volume_error", error))
    )
    page = tmp_path / "page.html"
    evaluation = Evaluation(rows, {}, {})
    write_evaluation(evaluation, page, labels=LABELS, model=None, title="signs")
    assert Page(page).row("one") == ["one", "0.700", "0.300"]

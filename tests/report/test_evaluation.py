"""The page of an evaluation, against its rows."""

from pathlib import Path

from html_pages import DASH, Page


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

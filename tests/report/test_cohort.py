"""The page of many scans, against their cases."""

from pathlib import Path

from html_pages import Page
from nobrainer.report import write_cohort
from report_pages import EVIL, case


def test_a_cohort_lists_the_worst_first_with_links(pages: dict[str, Path]) -> None:
    page = Page(pages["cohort"])
    assert [row[:2] for row in page.rows[1:]] == [
        ["sub-01", "flagged"], [EVIL, "flagged"], ["sub-02", "not flagged"],
    ]  # fmt: skip
    assert page.rows[2][3] == "<u>volume is odd"
    # What has no flag comes last, even where its score is the lowest.
    last = [case("a", 0.1), case("b", 0.7, "odd"), case("c", 0.6, "odd")]
    path = pages["cohort"].with_name("another.html")
    names = [
        row[0] for row in Page(write_cohort(last, path, pages={}, model=None)).rows
    ]
    assert names[1:] == ["c", "b", "a"]
    in_table = [a["href"] for a in page.all("a") if "href" in a]
    in_chart = [a["xlink:href"] for a in page.all("a") if "xlink:href" in a]
    odd = "%3Cb%3Ex%20%26%20%24y%24%20%27q%27%20%22d%22%20%232.html"
    assert in_table == ["case.html", odd]
    # A panel for volumes and one for entropy.
    assert sorted(map(str, in_chart)) == sorted(2 * in_table)
    assert "Flagged: 2 of 3 scans." in page.text

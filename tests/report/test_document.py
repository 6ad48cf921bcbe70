"""Every page loads nothing, escapes names, is kept, and fits a browser."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from html_pages import BROWSER, BROWSERS, Page, measure
from nobrainer.errors import InputError
from nobrainer.report import write_case, write_cohort, write_evaluation
from report_pages import EVIL, LABELS, RECIPE, case, evaluated, predicted


def documents(page: Page) -> Iterator[str]:
    """The page and the documents in its frames."""
    yield page.source
    for frame in page.all("iframe"):
        assert frame["srcdoc"] is not None
        yield frame["srcdoc"]


@pytest.mark.parametrize("name", ["case", "single", "evaluation", "cohort"])
def test_a_page_loads_nothing_and_says_what_it_shows(
    name: str, pages: dict[str, Path]
) -> None:
    page = Page(pages[name])
    for tag, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "poster", "data", "action"):
            address = attributes.get(key)
            if address and tag != "a":
                assert address.startswith(("data:", "#")), (tag, address[:80])
        if tag == "a":
            assert not re.match("[a-z]+:|/", attributes.get("href") or "")
    for document in documents(page):
        assert not re.search(r"url\(\s*['\"]?(?!#|data:)\w|@import", document)
        assert not re.search(r"(src|href)\s*=\s*['\"]?(https?:|//)", document)
    assert page.all("html") == [{"lang": "en"}]
    policy = next(m for m in page.all("meta") if "http-equiv" in m)
    assert str(policy["content"]).startswith("default-src 'none'")
    assert all(image["alt"] for image in page.all("img"))
    assert all(frame["title"] for frame in page.all("iframe"))
    assert len(page.all("h1")) == 1
    assert len(page.all("table")) == len(page.all("caption")) > 0
    assert {cell["scope"] for cell in page.all("th")} == {"row", "col"}
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    assert "Not a medical device" in page.text
    assert "nan" not in page.text.lower().split()


def test_pages_of_a_model_of_synthetic_scans_say_so(tmp_path: Path) -> None:
    caution = "Trained on 3 synthetic scans: not for use on real ones."
    made = replace(RECIPE, provenance=replace(RECIPE.provenance, n_synthetic=3))
    cases = [case("sub-01", 0.9)]
    for number, model in enumerate((RECIPE, made)):
        folder = tmp_path / str(number)
        folder.mkdir()
        pages = (
            write_case(predicted(), folder / "a.html", model=model),
            write_cohort(cases, folder / "b.html", pages={}, model=model),
            write_evaluation(
                evaluated(),
                folder / "c.html",
                labels=LABELS,
                model=model,
                title="c",
            ),
        )
        assert [caution in Page(page).text for page in pages] == [bool(number)] * 3


def test_a_page_says_what_was_checked_and_what_could_not_be(tmp_path: Path) -> None:
    told = replace(case("sub-01", 0.9), checked=("volumes",), unchecked=("islands",))
    one = Page(write_case(predicted(), tmp_path / "a.html", model=None, case=told))
    many = Page(write_cohort([told], tmp_path / "b.html", pages={}, model=None))
    for page in (one, many):
        text = " ".join(page.text.split())
        assert "volumes This model has no record to check these by: islands" in text
        assert "certainty of one pass (not a predicted Dice)" in text


def test_names_are_text(pages: dict[str, Path]) -> None:
    for name in ("case", "cohort"):
        page = Page(pages[name])
        assert EVIL in page.text
        assert not page.all("b") and not page.all("i") and not page.all("u")


def test_pages_are_the_same_each_time(tmp_path: Path) -> None:
    texts = [
        write_evaluation(
            evaluated(), tmp_path / name, labels=LABELS, model=None, title="t"
        ).read_bytes()
        for name in ("a.html", "b.html")
    ]
    assert texts[0] == texts[1]


def test_a_page_is_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "cohort.html"
    path.write_text("precious")
    cases = [case("sub-01", 0.5)]
    with pytest.raises(InputError, match="exists already"):
        write_cohort(cases, path, pages={}, model=None)
    with pytest.raises(InputError, match="exists already"):
        write_case(predicted(), path, model=None)
    with pytest.raises(InputError, match="exists already"):
        write_evaluation(evaluated(), path, labels=LABELS, model=None, title="t")
    assert path.read_text() == "precious"
    assert write_cohort(cases, path, pages={}, model=None, overwrite=True) == path
    assert "sub-01" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_problems_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        write_cohort([], tmp_path / "a.html", pages={}, model=None)
    cases = [case("sub-01", 0.5)]
    with pytest.raises(InputError, match="cannot be written"):
        write_cohort(cases, tmp_path / "no" / "a.html", pages={}, model=None)
    with pytest.raises(InputError, match="is a directory"):
        write_cohort(cases, tmp_path, pages={}, model=None, overwrite=True)


@pytest.mark.skipif(BROWSER is None, reason=f"needs one of {', '.join(BROWSERS)}")
def test_a_browser_shows_pages_wide_and_narrow(
    pages: dict[str, Path], tmp_path: Path
) -> None:
    found, log = measure(list(pages.values()), tmp_path)
    # The browser tells the viewer how to be faster.
    said = [line for line in log.splitlines() if "CONSOLE" in line]
    assert [line for line in said if "Canvas2D: Multiple readback" not in line] == []
    assert len(found) == 2 * len(pages)
    viewers = {"case": 3, "single": 2, "evaluation": 0, "cohort": 0}
    for number, one in enumerate(found):
        name = list(pages)[number // 2]
        assert abs(one["width"] - (1280, 400)[number % 2]) < 20
        assert one["needed"] <= one["width"], (name, one)
        assert one["broken"] == 0 and one["loads"] == [], (name, one)
        assert one["viewers"] == viewers[name], (name, one)
        assert one["tall"] == 0, (name, one)
        # A click into the first viewer moves the second, too.
        assert one["follows"] is (viewers[name] > 1), (name, one)

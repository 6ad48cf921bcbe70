"""The dashboard: what stands on it, and how it comes out in a browser."""

import json
import re
from pathlib import Path

import pytest

from html_pages import BROWSER, Page, measure, run_script
from nobrainer.bids.group.histograms import draw_scores

PART = "Left-Hippocampus"
EVIL = "</script><b>x"


@pytest.fixture
def page(cohort) -> Path:
    return cohort.directory / "group.html"


def test_nothing_on_the_page_is_markup_of_a_name(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "<b>" not in text and "<u>" not in text
    assert text.count("</script>") == 2
    read = Page(page)
    assert not [a for _, a in read.elements if any(k.startswith("on") for k in a)]
    (policy,) = (m["content"] for m in read.all("meta") if m.get("http-equiv"))
    assert "default-src 'none'" in str(policy)


def test_one_scan_is_one_scan() -> None:
    assert "the highest bar: 1 scan<" in draw_scores([0.9], [False])
    assert "the highest bar: 2 scans<" in draw_scores([0.9, 0.9], [False, True])


def test_the_page_counts_and_lists(page: Path) -> None:
    read = Page(page)
    text = " ".join(read.text.split())
    assert "Made & small" in text
    for tile in ("16 scans done", "14 participants", "1 failed", "2 unusable"):
        assert tile in text, tile
    assert "2 with outliers" in text
    assert "group_changes.tsv has 2 later sessions, one by one." in text
    assert read.row("sub-21/ses-a/anat/sub-21_ses-a_T1w.nii.gz")[1] == "is cut short"
    # Person 5 has a volume, person 6 a structure, that is unlike all others.
    part = read.row(PART)
    assert part[2] == "1" and part[5] == ""
    assert read.row(EVIL)[2:6:3] == ["1", "1"]
    sites = [row for row in read.rows if row[:1] == ["Köln"]]
    assert sites[0][1] == "8" and sites[0][-1] == "25 to 85"
    changed = [row for row in read.rows if row[:1] == [PART]][-1]
    assert changed[1] == "2" and changed[-1] == "2"


def test_the_data_of_the_page_are_those_of_the_tables(cohort, page: Path) -> None:
    found = re.search(r'id="cohort">(.*?)</script>', page.read_text("utf-8"), re.S)
    assert found
    data = json.loads(found[1])
    scans = data["scans"]
    at = scans["name"].index("sub-05_ses-a_T1w")
    (part,) = (one for one in data["parts"] if one["name"] == PART)
    scan = cohort.group.scans[at]
    assert part["volume"][at] == round(scan.figure(PART, "volume_mm3"))
    assert part["out"] == [at] and part["z"][at] > 350
    assert scans["outliers"][at] == 1 and scans["score"][at] == 5000
    assert scans["flags"][at] == "<u>odd\tvolume; low"
    # A person whose page is not there is not linked to.
    assert scans["page"][at] == "sub-05.html"
    assert scans["page"][scans["name"].index("sub-03_ses-a_T1w")] == ""
    assert [one["name"] for one in data["columns"]] == ["site", "code", "score"]
    site = data["columns"][data["site"]]
    assert site["levels"][site["of"][at]] == "Köln" and scans["age"][at] == 45


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_draws_the_page_wide_and_narrow(page: Path, tmp_path: Path) -> None:
    found, log = measure([page], tmp_path)
    assert "CONSOLE" not in log, log
    for width, one in zip((1280, 400), found, strict=True):
        assert abs(one["width"] - width) < 20 and one["needed"] <= one["width"]
        assert one["loads"] == []
        listed = [row for row in one["rows"] if row.startswith("sub-")]
        # The outlier of the structure that is shown, then all scans, the flagged one
        # first; at the end what is not done.
        assert listed[0].startswith("sub-05_ses-a_T1w")
        order = [row.split()[0] for row in listed if "_T1w\t" in row]
        assert order[1:3] == ["sub-05_ses-a_T1w", "sub-00_ses-a_T1w"]
        assert len(order) == 17 and "Köln" in listed[1]
        # A point in each of both charts, for all and for its site.
        assert one["links"] == ["sub-05.html"] * 3


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_the_list_is_sorted_and_filtered(page: Path, tmp_path: Path) -> None:
    first = """
    const tell = () => found.push([...document.querySelectorAll("#rows th")]
      .map(one => one.textContent.slice(0, 6)));
    const heads = [...document.querySelectorAll("#heads button")];
    const set = (id, value) => {
      document.getElementById(id).value = value;
      document.getElementById(id).dispatchEvent(new Event("input"));
    };
    """
    script = """
    heads[1].click(); tell();
    heads[1].click(); tell();
    set("query", "KÖLN"); tell();
    set("query", ""); set("kind", "outliers"); tell();
    set("kind", "flags"); tell();
    document.querySelectorAll(".choose")[3].click();
    found.push(document.getElementById("part").selectedOptions[0].textContent);
    found.push(document.getElementById("unit").textContent);
    """
    found = run_script(page, first + script, tmp_path)
    up, down, site, outliers, flagged, part, unit = found
    people = [f"sub-{number:02d}" for number in range(14)]
    by_score = ["sub-05", *(["sub-00"] * 2), *(["sub-01"] * 2)]
    by_score += [one for one in people[2:] if one != "sub-05"]
    assert up == by_score and down[:2] == ["sub-13", "sub-12"]
    assert down[-1] == "sub-05" and len(down) == 16
    assert site[0] == "sub-13" and set(site) == set(people[1::2])
    assert outliers == ["sub-06", "sub-05"] and flagged == ["sub-05"]
    assert part == "intracranial" and unit == "Volumes are in ml, not adjusted."

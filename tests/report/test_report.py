"""The reports: what stands on them, that they load nothing, how they come out."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from html_pages import BROWSER, BROWSERS, DASH, Page, measure
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.evaluation import Evaluation, Row
from nobrainer.metrics.calibration import Reliability
from nobrainer.metrics.uncertainty import RiskCoverage
from nobrainer.posthoc import Calibration, Intervals
from nobrainer.processing.prediction import Prediction
from nobrainer.quality import Case
from nobrainer.recipe import FileRecord
from nobrainer.report.pages import write_case, write_cohort, write_evaluation
from nobrainer.report.viewer import Scan
from nobrainer.structures import Structure
from recipes import make_recipe

NAN = math.nan
EVIL = "<b>x & $y$ 'q' \"d\""
LABELS = LabelTable(("background", "<i>left", "right"))
RECIPE = make_recipe(
    model={"args": {"n_classes": 3, "levels": 2}},
    data={"n_classes": 3, "patches_per_volume": 4},
    training={
        "epochs": 7,
        "optimizer": "torch.optim.Adam",
        "opt_args": {"lr": 0.003},
        "schedule": "cosine",
        "seed": 41,
        "precision": "32-true",
    },
    provenance={
        "started": "2024-01-01T00:00:00+00:00",
        "ended": "2024-01-01T01:00:00+00:00",
        "versions": {"torch": "9.8.7"},
        "files": (
            FileRecord("a.nii", "train-image", "0" * 64, 1),
            FileRecord("b.nii", "train-label", "0" * 64, 1),
        ),
        "metrics": {"validation_dice": 0.7654},
    },
)
CALIBRATION = Calibration(
    "temperature", (0.5,) * 3, (0.0,) * 3, 11, 0.4321, 0.1234,
    Intervals(0.9, 13, 5, (None, 2.0, 2.0)),
)  # fmt: skip


def structure(index: int, volume_mm3: float, **others: float) -> Structure:
    known = {
        "volume_sd_mm3": 100.0,
        "volume_low_mm3": volume_mm3 - 200,
        "volume_high_mm3": volume_mm3 + 200,
        "conformal_low_mm3": volume_mm3 - 300,
        "conformal_high_mm3": volume_mm3 + 300,
        "cv": 0.0625,
        "pairwise_dice": 0.875,
        "iou": 0.75,
        "entropy": 0.125,
        "mutual_information": 0.0625,
    }
    return Structure(
        index=index,
        value=index,
        name=LABELS.names[index],
        volume_mm3=volume_mm3,
        **(known | others),
    )


def predicted(*, name: str = "sub-01", single: bool = False) -> Prediction:
    """Two halves of a ball in a skewed, anisotropic scan."""
    i, j, k = np.ogrid[:30, :36, :24]
    ball = (i - 15) ** 2 + (j - 18) ** 2 + 2 * (k - 12) ** 2 < 90
    label = np.where(i < 15, 1, 2) * ball
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    affine[0, 1] = 0.2

    def image(data: np.ndarray) -> nib.Nifti1Image:
        return nib.Nifti1Image(data.astype(np.float32), affine)

    undefined = {"volume_sd_mm3": NAN, "volume_low_mm3": NAN, "volume_high_mm3": NAN}
    undefined |= {"conformal_low_mm3": NAN, "conformal_high_mm3": NAN, "cv": NAN}
    undefined |= {"pairwise_dice": NAN, "iou": 1.0, "mutual_information": 0.0}
    others = undefined if single else {}
    noise = np.random.default_rng(0).random(ball.shape)
    return Prediction(
        label=nib.Nifti1Image(label.astype(np.uint8), affine),
        variance=image(ball * noise * (0 if single else 0.2)),
        entropy=image(ball * noise),
        mutual_information=image(ball * noise * (0 if single else 0.1)),
        probabilities=None,
        volumes_mm3=np.ones((1 if single else 4, 3)),
        structures=(structure(1, 1234.5, **others), structure(2, 98765.4, **others)),
        seed=17,
        labels=LABELS,
        data=RECIPE.data,
        scan=image(ball + noise),
        name=name,
    )


def case(name: str, score: float, *flags: str) -> Case:
    found = {"volume_z": 10 * (1 - score), "entropy": 0.5 - score / 4}
    return Case(name, score, NAN, found, flags)


def evaluated() -> Evaluation:
    """Two subjects, of which one lacks a structure."""
    figures = [
        ("one", "volume", "<i>left", "dice", 0.5),
        ("two", "volume", "<i>left", "dice", 0.75),
        ("one", "volume", "right", "dice", 0.9),
        ("one", "volume", "<i>left", "hd95_mm", 4.0),
        ("one", "volume", "<i>left", "covered", 1.0),
        ("two", "volume", "<i>left", "covered", 0.0),
        ("one", "volume", "all", "nll", 0.0101),
        ("one", "foreground", "all", "nll", 0.2202),
        ("two", "volume", "all", "nll", 0.0303),
        ("two", "foreground", "all", "nll", 0.4404),
        ("one", "foreground", "all", "auroc_entropy", 0.8765),
    ]
    reliable = Reliability((0.4, 0.7, 0.98), (0.35, 0.6, 0.99), (10, 200, 30000))
    return Evaluation(
        tuple(Row(*figure) for figure in figures),
        {"volume": reliable, "foreground": reliable},
        {"entropy": RiskCoverage((0.5, 1.0), (0.01, 0.1))},
    )


@pytest.fixture(scope="module")
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


def test_the_page_of_a_scan_has_its_numbers(pages: dict[str, Path]) -> None:
    page = Page(pages["case"])
    assert page.row("<i>left") == [
        "<i>left", "1.23", "0.10", "1.03 to 1.43", "0.93 to 1.53", "6.2", "0.875",
        "0.750", "0.125", "0.062",
    ]  # fmt: skip
    assert page.row("right")[1] == "98.77"
    assert "4 draws of the network, seed 17." in page.text
    assert "Flagged" in page.text and "<u>volume is odd" in page.text
    assert [frame["title"] for frame in page.all("iframe")] == [
        "Segmentation",
        "Entropy (nats, 0 to 1.10)",
        "Standard deviation of the probabilities (root of the variance, 0 to 0.5)",
    ]
    assert len(page.all("img")) == 2
    for fact in ("bayesian_vnet", "levels = 2", "1 for training", "torch 9.8.7", "41"):
        assert fact in page.text
    for fact in ("0.4321 before", "0.1234 after", "90%", "13 subjects"):
        assert fact in page.text


def test_the_page_of_a_scan_leads_to_that_of_all(
    pages: dict[str, Path], tmp_path: Path
) -> None:
    assert Page(pages["case"]).all("a") == []
    plain = case("sub-01", 0.9)
    alone = write_case(predicted(), tmp_path / "a.html", model=None, case=plain)
    text = " ".join(Page(alone).text.split())
    assert "Not flagged: what was checked is as usual" in text
    assert "does not show that the segmentation is right" in text
    assert "compares it with the others" not in text
    among = write_case(
        predicted(), tmp_path / "b.html", model=None, case=plain, index="all #1.html"
    )
    page = Page(among)
    assert {a["href"] for a in page.all("a")} == {"all%20%231.html"}
    assert "compares it with the others" in page.text


def test_a_page_lists_uncertain_areas_and_opens_at_the_worst(tmp_path: Path) -> None:
    one = predicted()
    i, j, k = np.ogrid[:30, :36, :24]
    inside = (i - 20) ** 2 + (j - 18) ** 2 + (k - 12) ** 2 < 30
    entropy = nib.Nifti1Image(inside.astype(np.float32), one.entropy.affine)
    unsure = replace(one, entropy=entropy)
    (region,) = unsure.regions
    # Voxel (20, 18, 12) of skewed axes that run to the left, to the front and up.
    np.testing.assert_allclose((region.x_mm, region.y_mm, region.z_mm), (-36.4, 36, 36))
    page = Page(write_case(unsure, tmp_path / "a.html", model=None))
    assert ["right", "-36.4", "36.0", "36.0"] in [[r[0], *r[-3:]] for r in page.rows]
    frames = page.all("iframe")
    assert len(frames) == 3
    for frame in frames:
        found = re.search(r'"numSlice": ({[^}]*})', str(frame["srcdoc"]))
        affine = re.search(r'"affine": (\[\[.*?\]\])', str(frame["srcdoc"]))
        assert found and affine
        # The viewer counts slices from 0 and the voxels of its affine from 1.
        slices = [json.loads(found[1])[axis] + 1 for axis in "XYZ"]
        place = np.array(json.loads(affine[1])) @ [*slices, 1]
        np.testing.assert_allclose(place[:3], (-36.4, 36, 36), atol=1.5)


def test_true_labels_of_files_are_drawn_as_the_classes_of_the_model() -> None:
    one = predicted()
    mapped = replace(RECIPE.data, relabel={"17": 1, "53": 2, "9": 0})
    raw = np.array([9, 17, 53])[np.asarray(one.label.dataobj)].astype(np.int16)
    truth = nib.Nifti1Image(raw, one.label.affine)
    outlines = [
        [len(path.vertices) for line in axis.collections for path in line.get_paths()]
        for axis in replace(one, data=mapped).plot(truth).axes[:12]
    ]
    n_slices = len(outlines) // 3
    as_classes = one.plot(one.label).axes[:12]
    assert outlines == [
        [len(path.vertices) for line in axis.collections for path in line.get_paths()]
        for axis in as_classes
    ]
    assert n_slices and any(outlines)
    stored = replace(RECIPE.data, binarize="callable", binarize_name="mine")
    with pytest.raises(InputError, match="made by the function mine, which is not"):
        replace(one, data=stored).plot(truth)


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


def test_a_model_of_two_classes_has_a_page(tmp_path: Path) -> None:
    one = predicted()
    ball = np.asarray(one.label.dataobj) > 0
    brain = replace(
        one,
        label=nib.Nifti1Image(ball.astype(np.uint8), one.label.affine),
        labels=LabelTable.generic(2),
        structures=(replace(structure(1, 1000.0), name="foreground"),),
    )
    page = Page(write_case(brain, tmp_path / "brain.html", model=None))
    assert page.row("foreground")[1] == "1.00"
    assert next(frame["title"] for frame in page.all("iframe")) == "Segmentation"
    assert len(page.all("iframe")) == 3


def test_what_is_not_found_is_no_certain_zero_on_a_page(tmp_path: Path) -> None:
    ends = {"volume_low_mm3": NAN, "volume_high_mm3": NAN}
    ends |= {"conformal_low_mm3": NAN, "conformal_high_mm3": NAN}
    others = dict.fromkeys(
        ("cv", "pairwise_dice", "iou", "entropy", "mutual_information"), NAN
    )
    missed = structure(1, 0.0, **{**ends, **others, "volume_sd_mm3": 0.0})
    unknown = structure(2, NAN, **{**ends, **others, "volume_sd_mm3": NAN})
    one = replace(predicted(), structures=(missed, unknown, structure(1, 5.0)))
    page = Page(write_case(one, tmp_path / "a.html", model=None))
    first, second, third = page.rows[1:4]
    assert first[1] == "not found" and second[1] == "not in training"
    assert set(first[2:]) == set(second[2:]) == {"\N{EN DASH}"}
    assert third[1] == "0.01"


def test_the_viewer_shows_a_map_of_ids_as_one_of_class_numbers() -> None:
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(rng.random((12, 12, 12), np.float32), np.eye(4))
    scan = Scan(image, (6.0, 6.0, 6.0))
    classes = rng.integers(0, 3, (12, 12, 12)).astype(np.uint8)
    table = LabelTable(("air", "a", "b"), ids=(0, 1035, 8))
    pages = []
    for one in (table, table.numbered()):
        label = nib.Nifti1Image(one.to_values(classes), np.eye(4))
        viewer = scan.show_labels(label, one)
        assert viewer is not None
        # nilearn gives the elements of a page a random name.
        pages.append(re.sub("[0-9a-f]{32}", "", viewer.html))
    assert pages[0] == pages[1]


def test_one_pass_has_no_columns_or_maps_of_draws(pages: dict[str, Path]) -> None:
    page = Page(pages["single"])
    head, first, *_ = page.rows
    assert head == ["structure", "volume (ml)", "entropy (nats)"]
    assert first[:2] == ["<i>left", "1.23"]
    assert len(page.all("iframe")) == 2
    assert "Not recorded." in page.text


@pytest.mark.filterwarnings("error:Threshold")
def test_a_map_without_a_dark_place_is_shown_without_a_warning() -> None:
    values = np.random.default_rng(0).uniform(0.5, 0.6, (20, 20, 20))
    image = nib.Nifti1Image(values.astype(np.float32), np.eye(4))
    scan = Scan(image, (10.0, 10.0, 10.0))
    assert scan.show_map("Entropy (nats)", image, "viridis", 0.6) is not None


def test_a_scan_without_structures_has_a_page(tmp_path: Path) -> None:
    one = predicted()
    nothing = nib.Nifti1Image(np.zeros(one.label.shape, np.uint8), one.label.affine)
    absent = structure(1, 0.0, cv=NAN, pairwise_dice=NAN, iou=NAN, entropy=NAN)
    empty = replace(one, label=nothing, structures=(absent, structure(2, 0.0)))
    page = Page(write_case(empty, tmp_path / "empty.html", model=None))
    assert page.row("<i>left")[-4:] == [DASH, DASH, DASH, "0.062"]
    assert len(page.all("img")) == 1 and len(page.all("iframe")) == 2


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
    assert "2 of 3 scans are flagged" in page.text


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

"""The page of a scan, against the numbers of its prediction."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from html_pages import DASH, Page
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.report import write_case
from nobrainer.structures import Part
from report_pages import NAN, RECIPE, case, predicted, structure


def test_the_page_of_a_scan_has_its_numbers(pages: dict[str, Path]) -> None:
    page = Page(pages["case"])
    assert page.row("<i>left") == [
        "<i>left", "1.23", "0.10", "1.03 to 1.43", "0.93 to 1.53", "6.2", "0.875",
        "0.750", "0.125", "0.062", "0.812",
    ]  # fmt: skip
    assert page.row("right")[1] == "98.77"
    assert "4 draws of the network, seed 17." in page.text
    assert "Flagged" in page.text and "<u>volume is odd" in page.text
    assert [frame["title"] for frame in page.all("iframe")] == [
        "Segmentation",
        "Entropy in nats (0 to 1 and more)",
        "Standard deviation of the probabilities, root of the variance (0 to 0.5)",
    ]
    assert len(page.all("img")) == 2
    for fact in ("bayesian_vnet", "levels = 2", "1 for training", "torch 9.8.7", "41"):
        assert fact in page.text
    for fact in ("0.4321 before", "0.1234 after", "90%", "13 subjects"):
        assert fact in page.text
    assert "It is made to hold it in 90% of cases." in page.text


def test_the_brain_and_the_skull_have_rows_below_the_structures(
    tmp_path: Path,
) -> None:
    figures = asdict(structure(2, 1_234_560.0))
    del figures["class_number"], figures["value"], figures["name"]
    one = replace(predicted(), totals=(Part(name="brain", **figures),))
    page = Page(write_case(one, tmp_path / "a.html", model=None))
    names = [row[0] for row in page.rows if row]
    assert page.row("brain")[1:3] == ["1234.56", "0.10"]
    assert names.index("brain") == names.index("right") + 1


def test_the_page_of_a_scan_leads_to_that_of_all(
    pages: dict[str, Path], tmp_path: Path
) -> None:
    assert Page(pages["case"]).all("a") == []
    plain = case("sub-01", 0.9)
    alone = write_case(predicted(), tmp_path / "a.html", model=None, case=plain)
    text = " ".join(Page(alone).text.split())
    assert "Not flagged: what was checked is as usual" in text
    assert "does not show that the segmentation is right" in text
    assert "other scans" not in text
    among = write_case(
        predicted(), tmp_path / "b.html", model=None, case=plain, index="all #1.html"
    )
    page = Page(among)
    assert {a["href"] for a in page.all("a")} == {"all%20%231.html"}
    assert "and at those of other scans." in " ".join(page.text.split())


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
    figures = ("cv", "pairwise_dice", "iou", "entropy", "mutual_information")
    others = dict.fromkeys((*figures, "expected_dice"), NAN)
    missed = structure(1, 0.0, **{**ends, **others, "volume_sd_mm3": 0.0})
    unknown = structure(2, NAN, **{**ends, **others, "volume_sd_mm3": NAN})
    one = replace(predicted(), structures=(missed, unknown, structure(1, 5.0)))
    page = Page(write_case(one, tmp_path / "a.html", model=None))
    first, second, third = page.rows[1:4]
    assert first[1] == "not found" and second[1] == "not in training"
    assert set(first[2:]) == set(second[2:]) == {"\N{EN DASH}"}
    assert third[1] == "0.01"


def test_one_pass_has_no_columns_or_maps_of_draws(pages: dict[str, Path]) -> None:
    page = Page(pages["single"])
    head, first, *_ = page.rows
    assert head == ["structure", "volume (ml)", "entropy (nats)", "expected Dice"]
    assert first[:2] == ["<i>left", "1.23"]
    assert len(page.all("iframe")) == 2
    assert "Not recorded." in page.text


def test_a_scan_without_structures_has_a_page(tmp_path: Path) -> None:
    one = predicted()
    nothing = nib.Nifti1Image(np.zeros(one.label.shape, np.uint8), one.label.affine)
    absent = structure(1, 0.0, cv=NAN, pairwise_dice=NAN, iou=NAN, entropy=NAN)
    empty = replace(one, label=nothing, structures=(absent, structure(2, 0.0)))
    page = Page(write_case(empty, tmp_path / "empty.html", model=None))
    assert page.row("<i>left")[-5:] == [DASH, DASH, DASH, "0.062", "0.812"]
    assert len(page.all("img")) == 1 and len(page.all("iframe")) == 2

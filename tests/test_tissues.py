"""Brain masks and tissues against shapes and sums that are known."""

import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from brains import CSF, GM, LABELS, WM, model_of_brains, noise
from brains import IDS as CLASSES
from nobrainer.data.freesurfer import FREESURFER_NAMES, tissue_of
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.recipe import Cohort
from nobrainer.tissues import Compartments, brain_mask, tissue_map

IDS = (0, 2, 3, 4, 16, 24, 28, 31, 41, 42)
TABLE = LabelTable(tuple(f"class {value}" for value in IDS), ids=IDS)


def image(data, spacing_mm=(1.0, 1.0, 1.0)):
    return nib.Nifti1Image(np.asarray(data, np.uint8), np.diag([*spacing_mm, 1.0]))


def values(image):
    return np.asarray(image.dataobj)


def test_compartments_are_found_by_ids_whatever_the_order_and_names():
    found = Compartments.of(TABLE)
    assert [IDS[n] for n in found.brain] == [2, 3, 4, 16, 28, 31, 41, 42]
    assert [IDS[n] for n in found.intracranial] == list(IDS[1:])
    tissues = {
        name: [IDS[n] for n in members] for name, members in found.tissues.items()
    }
    assert tissues == {"GM": [3, 28, 42], "WM": [2, 16, 41], "CSF": [4, 24, 31]}
    # Every class lies in one tissue.
    assert sorted(value for some in tissues.values() for value in some) == list(IDS[1:])
    without_fluid = LabelTable(("air", *"abcd"), ids=(0, 42, 41, 3, 2))
    assert Compartments.of(without_fluid).totals == {"brain": (1, 2, 3, 4)}
    parcels = LabelTable(("air", *"abcd"), ids=(0, 1035, 2035, 2, 41))
    assert Compartments.of(parcels).tissues["GM"] == (1, 2)


@pytest.mark.parametrize("scheme", ["aseg", "115-class"])
def test_schemes_of_freesurfer_have_compartments(scheme):
    labels = LabelTable.for_scheme(scheme)
    found = Compartments.of(labels)
    assert len(found.brain) == len(labels.names) - 2
    assert sum(map(len, found.tissues.values())) == len(labels.names) - 1


def test_every_id_of_freesurfer_has_a_tissue():
    assert [value for value in FREESURFER_NAMES if not tissue_of(value)] == []


@pytest.mark.parametrize(
    "labels",
    [
        LabelTable.generic(3),
        LabelTable(("air", "hippocampus", "another"), ids=(0, 17, 53)),
        # The labels of a tissue map: 1 is no structure of the brain.
        LabelTable(("air", "CSF", "GM", "WM"), ids=(0, 1, 2, 3)),
        LabelTable(("air", *"abcd"), ids=(0, 2, 41, 3, 1003)),
        LabelTable(("air", *"abcd", "merged"), ids=(0, 2, 41, 3, 42, None)),
        LabelTable(("air", *"abcd", "again"), ids=(0, 2, 41, 3, 42, 42)),
        LabelTable.for_scheme("6-class"),
    ],
)
def test_other_classes_have_none_and_the_error_names_some(labels):
    assert Compartments.of(labels) is None
    for make in (brain_mask, tissue_map):
        with pytest.raises(InputError, match="FreeSurfer's ids") as error:
            make(image(np.zeros((3, 3, 3))), labels)
        assert labels.names[1] in str(error.value)


def test_a_tissue_map_has_the_numbers_of_bids():
    label = image(np.array(IDS).reshape(1, 1, -1))
    expected = [0, 2, 1, 3, 2, 3, 1, 3, 2, 1]
    assert values(tissue_map(label, TABLE)).ravel().tolist() == expected
    numbered = image(np.arange(len(IDS)).reshape(1, 1, -1))
    by_number = tissue_map(numbered, TABLE.numbered())
    assert values(by_number).ravel().tolist() == expected
    assert by_number.get_data_dtype() == np.uint8


def test_a_brain_mask_closes_sulci_of_six_millimetres_on_any_grid():
    """Two slabs of cortex with a gap: 5 mm are closed, 8 mm are not."""
    for spacing_mm in ((1.0, 1.0, 1.0), (1.0, 0.5, 5.0)):
        n_j, n_k = round(40 / spacing_mm[1]), round(40 / spacing_mm[2])
        for gap, is_closed in ((5, True), (8, False)):
            label = np.zeros((60, n_j, n_k))
            label[5:25], label[25 + gap : 45 + gap] = 3, 42
            label[25 : 25 + gap] = 24
            mask = values(brain_mask(image(label, spacing_mm), TABLE))
            inside = mask[25 : 25 + gap, n_j // 2, n_k // 2]
            assert inside.tolist() == [int(is_closed)] * gap
            # A closing adds nothing outside flat faces; of two pieces one is left.
            assert mask[:5].sum() == mask[45 + gap :].sum() == 0
            slabs = [mask[5:25].all(), mask[25 + gap : 45 + gap].all()]
            assert sum(slabs) == 1 + is_closed


def test_a_brain_mask_has_no_holes_and_no_islands():
    i, j, k = np.indices((40, 40, 40))
    radius = np.sqrt((i - 20) ** 2 + (j - 20) ** 2 + (k - 20) ** 2)
    label = np.where(radius <= 15, 3, 0)
    label[radius <= 6] = 24
    label[0, 0, 0] = 2
    mask = brain_mask(image(label), TABLE)
    assert np.array_equal(values(mask), radius <= 15)
    assert mask.get_data_dtype() == np.uint8
    empty = brain_mask(image(np.zeros((4, 4, 4))), TABLE)
    assert values(empty).sum() == 0


# --- of predictions


def test_classes_with_freesurfers_ids_make_a_brain_and_tissues():
    model, image = model_of_brains(), noise()
    asked = {"n_samples": 4, "seed": 1, "verbose": False}
    found = model.predict(image, **asked, tissues=True, probabilities=True)
    brain, skull = found.totals
    assert (brain.name, skull.name) == ("brain", "intracranial")
    of_draws = found.volumes_mm3[:, [1, 2, 3, 5, 6]].sum(1)
    assert brain.volume_mm3 == pytest.approx(of_draws.mean())
    assert brain.volume_sd_mm3 == pytest.approx(of_draws.std(ddof=1))
    assert brain.volume_low_mm3 < of_draws.mean() < brain.volume_high_mm3
    of_draws = found.volumes_mm3[:, 1:].sum(1)
    assert skull.volume_sd_mm3 == pytest.approx(of_draws.std(ddof=1))

    mean = values(found.probabilities)
    members = {"GM": list(GM), "WM": list(WM), "CSF": list(CSF)}
    assert list(found.tissue_probabilities) == list(members)
    label = values(found.label)
    for number, (name, classes) in enumerate(members.items(), 1):
        one = found.tissue_probabilities[name]
        assert one.get_data_dtype() == np.float32
        np.testing.assert_allclose(values(one), mean[..., classes].sum(-1), atol=1e-6)
        ids = [CLASSES[index] for index in classes]
        assert np.array_equal(values(found.tissues) == number, np.isin(label, ids))
    mask = values(found.brain_mask)
    assert mask.max() == 1 and mask.sum() > 100
    by_number = model.predict(image, **asked, class_numbers=True)
    assert by_number.tissue_probabilities == {}
    for name in ("brain_mask", "tissues"):
        again = values(getattr(by_number, name))
        assert np.array_equal(again, values(getattr(found, name)))

    mean_only = model.predict(image, n_samples=0, tissues=True, verbose=False)
    assert math.isnan(mean_only.totals[0].volume_sd_mm3)
    assert 0 < values(mean_only.tissue_probabilities["WM"]).mean() < 1


def test_a_brain_of_thirteen_litres_gets_one_warning(recwarn):
    """The volumes that the maps of a training had are set by hand."""
    model, image = model_of_brains(), noise(spacing_mm=(10.0, 10.0, 10.0))
    asked = {"n_samples": 2, "seed": 0, "verbose": False}
    found = model.predict(image, **asked).volumes_mm3.mean(0)
    assert not recwarn.list
    for factor, n_warnings in ((1.0, 0), (10.0, 1)):
        # The network finds nothing of two classes.
        usual = [math.log(one / factor) if one else None for one in found]
        logs = (None, *usual[1:])
        cohort = Cohort(13, logs, (None, *[0.2] * 6), (13,) * 7, n_scans=13)
        recipe = model.learned_.recipe
        origins = replace(recipe.provenance, cohort=cohort)
        model.learned_ = replace(
            model.learned_, recipe=replace(recipe, provenance=origins)
        )
        flags = model.predict(image, **asked).flags
        warned = [str(one.message) for one in recwarn.list]
        assert len(warned) == len(flags) == n_warnings
    assert warned == [f"image in memory: {flags[0]}"]
    assert " is 11.5 SD above the training cohort's, usually " in warned[0]
    assert warned[0].endswith(" ml (and 3 more): look at the outline")


def test_tissues_need_freesurfers_ids():
    other = model_of_brains(LabelTable.generic(3))
    prediction = other.predict(noise(), n_samples=1, verbose=False)
    assert prediction.totals == ()
    for name in ("brain_mask", "tissues"):
        with pytest.raises(InputError, match="FreeSurfer's ids"):
            getattr(prediction, name)
    with pytest.raises(InputError, match="FreeSurfer's ids"):
        other.predict(noise(), n_samples=1, tissues=True, verbose=False)


def test_tissue_maps_lie_on_the_scans_grid():
    model = model_of_brains()
    recipe = model.learned_.recipe
    coarse = replace(recipe.preprocess, spacing_mm=(2.0, 2.0, 2.0))
    model.learned_ = replace(
        model.learned_, recipe=replace(recipe, preprocess=coarse), labels=LABELS
    )
    image = noise((21, 20, 11), (1.0, 1.0, 3.0))
    found = model.predict(image, n_samples=2, seed=0, tissues=True, verbose=False)
    maps = (found.brain_mask, found.tissues, *found.tissue_probabilities.values())
    for one in maps:
        assert one.shape == (21, 20, 11)
        np.testing.assert_allclose(one.affine, image.affine)

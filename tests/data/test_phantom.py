import socket

import nibabel as nib
import numpy as np
import pytest

from nobrainer.data.phantom import _atlas, _deformation, make_subject, write_subjects
from nobrainer.data.phantom_structures import GREY, draw_structures, find_ids
from nobrainer.errors import InputError
from nobrainer.io import is_synthetic

COARSE_MM = 6.0
TISSUES = (2, 3, 4, 24, 41, 42, 43)
# The structures, left and right, and their volumes in ml in an adult, about.
STRUCTURES = {
    (7, 46): 13,
    (8, 47): 52,
    (10, 49): 7,
    (11, 50): 3.5,
    (12, 51): 5,
    (13, 52): 1.7,
    (17, 53): 4,
    (18, 54): 1.6,
    (26, 58): 0.5,
}


@pytest.fixture(scope="module")
def subject():
    """Image and labels of subject 1 at 2 mm, in RAS order."""
    return tuple(nib.as_closest_canonical(x) for x in make_subject(1))


def test_labels_are_the_documented_ids(subject):
    labels = np.asarray(subject[1].dataobj)
    sides = {i for pair in STRUCTURES for i in pair}
    assert set(np.unique(labels)) == {0, 16, *TISSUES, *sides}


def test_volumes_are_human(subject):
    labels = np.asarray(subject[1].dataobj)
    litres = dict(enumerate(np.bincount(labels.ravel()) * 8e-6))
    assert 0.9 < sum(litres.values()) - litres[0] < 1.9
    assert 0.3 < litres[2] + litres[41] < 0.7
    assert 0.5 < litres[3] + litres[42] < 1.0
    assert 0.015 < litres[16] < 0.03
    for (left, right), ml in STRUCTURES.items():
        assert 0.5 * ml < 500 * (litres[left] + litres[right]) < 1.5 * ml
        assert litres[left] == pytest.approx(litres[right], rel=0.35)
    assert 0.005 < litres[4] + litres[43] < 0.05
    for left, right in ((2, 41), (3, 42), (4, 43)):
        assert litres[left] == pytest.approx(litres[right], rel=0.3)


def test_structures_refine_tissues_and_leave_the_image_alone():
    for seed in (1, 2):
        image, labels = make_subject(seed, 4.0)
        same, tissues = make_subject(seed, 4.0, structures=False)
        assert np.array_equal(image.dataobj, same.dataobj)
        labels, tissues = np.asarray(labels.dataobj), np.asarray(tissues.dataobj)
        assert set(np.unique(tissues)) == {0, *TISSUES}
        is_known = np.isin(labels, (0, *TISSUES))
        assert np.array_equal(labels[is_known], tissues[is_known])
        assert np.isin(tissues[~is_known], (2, 3, 41, 42)).all()
        # Grey matter alone, and of the same side.
        for left, right in ((8, 47), (11, 50), (17, 53), (18, 54), (26, 58)):
            assert set(tissues[labels == left]) == {3}
            assert set(tissues[labels == right]) == {42}


def test_structures_lie_where_they_do_in_mni_space():
    """Places that atlases give, about, and of what their grey matter becomes a part."""
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -96, -132, -78
    numbers = draw_structures((97, 115, 97), affine)
    ids = find_ids(np.array([(2, 3, 24, 4), (41, 42, 24, 43)], np.uint8))
    for place, grey in (
        ((-28, -22, -14), 17),
        ((28, -22, -14), 53),
        ((-24, -2, -20), 18),
        ((10, -18, 8), 49),
        ((-12, 14, 8), 11),
        ((26, 0, 4), 51),
        ((-18, -4, 0), 13),
        ((10, 12, -8), 58),
        ((0, -28, -32), 16),
        ((-20, -64, -36), 8),
        ((30, -40, -16), 42),  # fusiform gyrus
        ((-10, -80, 4), 3),  # above the tent
    ):
        number = numbers[tuple(((np.array(place) - affine[:3, 3]) // 2).astype(int))]
        assert ids[number, int(place[0] > 0), GREY] == grey, place
    # The same on both sides.
    assert np.array_equal(numbers, numbers[::-1])


def test_contrast_is_that_of_a_t1(subject):
    image, labels = (np.asarray(x.dataobj) for x in subject)
    white, grey, ventricle = (
        image[np.isin(labels, ids)].mean() for ids in ((2, 41), (3, 42), (4, 43))
    )
    assert white > 1.2 * grey > 1.2 * 1.4 * ventricle > 0


def test_skull_is_dark_and_scalp_bright(subject):
    """Going up from the top of the brain: brain, dark bone, bright scalp, air."""
    image, labels = (np.asarray(x.dataobj, float) for x in subject)
    i, j, top = max(np.argwhere(labels > 0), key=lambda voxel: voxel[2])
    above = image[i - 1 : i + 2, j - 1 : j + 2, top + 1 :].mean(axis=(0, 1))
    white = image[np.isin(labels, (2, 41))].mean()
    scalp = above.argmax()
    assert above[:scalp].min() < 0.4 * white
    assert above[scalp] > 0.7 * white
    assert above[-3:].max() < 0.1 * white


def test_background_noise_is_rician(subject):
    """Modulus of complex noise: mean / std is sqrt(pi/2) / sqrt(2 - pi/2)."""
    corner = np.asarray(subject[0].dataobj, float)[:14, -14:, -14:]
    assert corner.std() > 4
    assert corner.mean() / corner.std() == pytest.approx(1.913, rel=0.06)


def test_left_ids_lie_at_negative_x():
    for seed in range(4):  # every stored orientation
        _, labels = make_subject(seed, COARSE_MM)
        data = np.asarray(labels.dataobj)
        for ids, sign in (((2, 3, 4), -1), ((41, 42, 43), 1)):
            voxels = np.argwhere(np.isin(data, ids))
            x = nib.affines.apply_affine(labels.affine, voxels)[:, 0]
            assert (sign * x > 0).mean() > 0.9
            assert 15 < sign * x.mean() < 45


def test_stored_like_a_scan():
    axes = set()
    for seed in range(4):
        image, labels = make_subject(seed, COARSE_MM)
        assert image.get_data_dtype() == np.int16
        assert labels.get_data_dtype() == np.uint8
        assert image.shape == labels.shape
        np.testing.assert_array_equal(image.affine, labels.affine)
        np.testing.assert_allclose(image.get_qform(), image.affine, atol=1e-4)
        assert image.header.get_zooms() == (6, 6, 6)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
        axes.add("".join(nib.aff2axcodes(image.affine)))
    assert axes == {"LAS", "LIA", "PIR", "RAS"}


def test_same_seed_same_voxels_other_seed_other_head():
    first, again, other = (make_subject(seed, COARSE_MM) for seed in (1, 1, 5))
    for a, b in zip(first, again, strict=True):
        assert np.asarray(a.dataobj).tobytes() == np.asarray(b.dataobj).tobytes()
        np.testing.assert_array_equal(a.affine, b.affine)
    one, two = (np.asarray(x[1].dataobj) > 0 for x in (first, other))
    dice = 2 * (one & two).sum() / (one.sum() + two.sum())
    assert 0.5 < dice < 0.97


def test_head_does_not_touch_the_edge_above_and_beside():
    for seed in range(6):
        labels = nib.as_closest_canonical(make_subject(seed, COARSE_MM)[1])
        voxels = np.argwhere(np.asarray(labels.dataobj) > 0)
        assert voxels.min() >= 2
        assert (np.array(labels.shape) - 1 - voxels.max(axis=0)).min() >= 2


def test_volume_does_not_depend_on_resolution(subject):
    _, coarse = make_subject(1, 4.0)
    fine_ml = np.count_nonzero(subject[1].dataobj) * 8e-3
    coarse_ml = np.count_nonzero(coarse.dataobj) * 64e-3
    assert coarse_ml == pytest.approx(fine_ml, rel=0.02)


def test_deformation_is_a_diffeomorphism():
    spacing_mm = 6.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        moved = _deformation(rng, (33, 41, 37), spacing_mm)
        gradient = np.stack([np.gradient(m, spacing_mm) for m in moved])
        jacobian = np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(3)
        determinant = np.linalg.det(jacobian)
        assert determinant.min() > 0.2
        assert determinant.std() > 0.05
        assert np.abs(moved).max() > 3


def test_maps_come_without_a_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the phantom opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    atlas = _atlas.__wrapped__(COARSE_MM)
    assert atlas.grey.shape == atlas.depth_mm.shape


@pytest.mark.parametrize("resolution_mm", [0, 0.5, 11, float("nan"), -2])
def test_resolution_out_of_range(resolution_mm):
    with pytest.raises(InputError, match="resolution_mm: must be between 1 and 10"):
        make_subject(1, resolution_mm)


def test_subjects_are_written_as_they_are_made(tmp_path):
    pairs = write_subjects(tmp_path / "new", 2, COARSE_MM)
    assert [p.name for p in pairs[1]] == ["sub-02_T1w.nii.gz", "sub-02_dseg.nii.gz"]
    for path, made in zip(pairs[1], make_subject(2, COARSE_MM), strict=True):
        stored = nib.load(path)
        assert stored.get_data_dtype() == made.get_data_dtype()
        np.testing.assert_array_equal(stored.dataobj, made.dataobj)
        np.testing.assert_allclose(stored.affine, made.affine, atol=1e-4)


def test_subjects_say_that_they_are_synthetic(tmp_path):
    pairs = write_subjects(tmp_path, 1, resolution_mm=10)
    assert all(map(is_synthetic, pairs[0]))
    assert is_synthetic(nib.load(pairs[0][0]))
    assert not is_synthetic((np.ones((2, 2, 2)), np.eye(4)))

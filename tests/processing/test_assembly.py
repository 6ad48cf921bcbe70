"""What a prediction holds, and what it does not depend on."""

import math
import struct
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from nested_balls import (
    BLOCK,
    CENTRE_MM,
    MAPS,
    RADIUS_MM,
    SHAPE,
    TINY,
    ball,
    build,
    dice,
    grid,
    same,
    values,
    write_ball,
    write_nested,
)
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.posthoc import Calibration
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.segmentation import Segmentation
from nobrainer.training import engine

# --- what a prediction holds


def test_it_finds_the_ball(fitted, scan, pairs):
    truth = values(nib.load(pairs[3][1])) > 0
    for label in (
        fitted.predict(scan, n_samples=0),
        fitted.predict(scan, n_samples=5).label,
    ):
        assert dice(values(label) > 0, truth) > 0.93


def test_a_model_that_can_draw_does_so_unless_told_otherwise(fitted, scan):
    label, variance, entropy = result = fitted.predict(scan, seed=4)
    assert result.volumes_mm3.shape == (10, 2)
    assert same(result, fitted.predict(scan, n_samples=10, seed=4))
    assert label.shape == variance.shape == entropy.shape == SHAPE
    assert values(variance).max() > 0
    (one,) = fitted.predict([scan], seed=4)
    assert same(one, result)


def test_prediction_unpacks_into_exactly_three(fitted, scan):
    result = fitted.predict(scan, n_samples=3, seed=0)
    label, variance, entropy = result
    assert label is result.label
    assert variance is result.variance
    assert entropy is result.entropy
    assert len(result) == len(list(result)) == 3
    assert result.probabilities is None
    assert result.labels.names == ("background", "foreground")
    native = nib.load(scan)
    for name in MAPS:
        image = getattr(result, name)
        assert image.shape == native.shape
        assert np.array_equal(image.affine, native.affine)
        dtype = np.uint8 if name == "label" else np.float32
        assert image.get_data_dtype() == values(image).dtype == dtype
        assert image.header.get_xyzt_units()[0] == "mm"
        assert (image.header["scl_slope"], image.header["scl_inter"]) in [
            (1, 0),
            pytest.approx((np.nan, np.nan), nan_ok=True),
        ]
    assert result.volumes_mm3.shape == (3, 2)


def test_files_hold_what_the_images_hold(fitted, scan, tmp_path):
    result = fitted.predict(scan, n_samples=2)
    for name in MAPS:
        nib.save(getattr(result, name), tmp_path / f"{name}.nii.gz")
        stored = nib.load(tmp_path / f"{name}.nii.gz")
        assert np.array_equal(values(stored), values(getattr(result, name)))
        assert stored.get_data_dtype() == getattr(result, name).get_data_dtype()
        assert np.allclose(stored.affine, nib.load(scan).affine, atol=1e-6)


def entropy_of(p):
    return -(p * np.log(np.maximum(p, 1e-30))).sum(-1)


def test_statistics_are_those_of_the_draws(fitted, scan):
    n = 4
    # Draw k is the same however many are asked for, so that means give the draws.
    results = [
        fitted.predict(scan, n_samples=k + 1, seed=7, probabilities=True)
        for k in range(n)
    ]
    means = [values(r.probabilities).astype(float) for r in results]
    sums = [(k + 1) * mean for k, mean in enumerate(means)]
    draws = np.diff([np.zeros_like(sums[0]), *sums], axis=0)
    last, mean = results[-1], means[-1]
    variance = draws.var(axis=0).mean(-1)
    assert variance.max() > 1e-3
    assert np.allclose(values(last.variance), variance, atol=1e-5)
    total = entropy_of(mean)
    assert np.allclose(values(last.entropy), total, atol=1e-4)
    mutual = total - entropy_of(draws.clip(0, 1)).mean(0)
    assert np.allclose(values(last.mutual_information), mutual, atol=1e-3)
    votes = draws[..., 1] > 0.5
    count = votes.sum(0)
    label = np.where(2 * count == n, mean[..., 1] > 0.5, 2 * count > n)
    near_tie = (np.abs(draws - 0.5) < 1e-4).any((0, -1))
    assert near_tie.mean() < 0.01
    assert (2 * count == n).any()
    assert np.array_equal(values(last.label)[~near_tie], label[~near_tie])
    for k in range(n):
        foreground = values(results[0].label).sum() if k == 0 else votes[k].sum()
        expected = pytest.approx(foreground, abs=int(near_tie.sum()))
        assert last.volumes_mm3[k, 1] == expected
    assert np.array_equal(last.volumes_mm3[:2], results[1].volumes_mm3)


def test_one_draw_has_no_spread(fitted, scan):
    result = fitted.predict(scan, n_samples=1, probabilities=True)
    assert values(result.variance).max() == 0
    assert values(result.mutual_information).max() < 1e-6
    mode = values(result.probabilities).argmax(-1)
    assert np.array_equal(values(result.label), mode)
    counts = np.bincount(mode.ravel(), minlength=2)
    assert np.array_equal(result.volumes_mm3, [counts])


def test_maps_keep_their_bounds(fitted, scan):
    result = fitted.predict(scan, n_samples=6, probabilities=True)
    entropy = values(result.entropy)
    assert entropy.min() >= 0
    assert 0.3 < entropy.max() <= math.log(2) * (1 + 1e-6)
    variance = values(result.variance)
    assert variance.min() >= 0
    assert variance.max() <= 0.25
    mutual = values(result.mutual_information)
    assert mutual.min() >= 0
    assert (mutual <= entropy + 1e-6).all()
    p = values(result.probabilities)
    assert p.shape == (*SHAPE, 2)
    assert p.dtype == np.float32
    assert p.min() >= 0
    assert np.allclose(p.sum(-1), 1, atol=1e-5)


def test_entropy_is_highest_at_the_boundary(fitted, scan, pairs):
    truth = values(nib.load(pairs[3][1])).astype(float)
    edge = np.linalg.norm(np.gradient(truth), axis=0) > 0
    entropy = values(fitted.predict(scan, n_samples=4).entropy)
    assert entropy[edge].mean() > 3 * entropy[~edge].mean()


def test_no_draw_is_the_posterior_mean(fitted, scan):
    label = fitted.predict(scan, n_samples=0)
    assert isinstance(label, nib.Nifti1Image)
    assert values(label).dtype == np.uint8
    result = fitted.predict(scan, n_samples=0, probabilities=True)
    assert np.array_equal(values(result.label), values(label))
    assert values(result.variance).max() == 0
    p = values(result.probabilities)
    assert np.allclose(values(result.entropy), entropy_of(p.astype(float)), atol=1e-4)
    assert np.array_equal(result.volumes_mm3[0], np.bincount(values(label).ravel()))


def test_volumes_are_in_cubic_millimetres(pairs, tmp_path):
    coarse = [write_ball(tmp_path, n, spacing=(1, 1.5, 2)) for n in range(3)]
    fitted = Segmentation("bayesian_vnet", TINY["bayesian_vnet"]).fit(
        build(coarse[:2]), epochs=8, opt_args={"lr": 0.03}
    )
    image, mask = coarse[2]
    result = fitted.predict(image, n_samples=4)
    whole = 3.0 * np.prod(SHAPE)
    assert np.allclose(result.volumes_mm3.sum(1), whole)
    assert np.allclose(result.volumes_mm3 % 3, 0)
    truth = 3.0 * values(nib.load(mask)).sum()
    assert truth == pytest.approx(4 / 3 * math.pi * RADIUS_MM**3, rel=0.05)
    assert result.volumes_mm3[:, 1].mean() == pytest.approx(truth, rel=0.3)
    label_mm3 = 3.0 * values(result.label).sum()
    assert result.volumes_mm3[:, 1].mean() == pytest.approx(label_mm3, rel=0.15)


def test_label_maps_carry_the_ids_of_the_label_files(fitted, scan):
    named = copy(fitted)
    table = LabelTable(("background", "ball"), ids=(0, 1035))
    named.learned_ = replace(named.learned_, labels=table)
    ask = {"n_samples": 2, "seed": 1}
    known = fitted.predict(scan, **ask)
    result = named.predict(scan, **ask)
    assert known.label.get_data_dtype() == np.uint8
    assert result.label.get_data_dtype() == np.uint16
    assert np.array_equal(values(result.label), 1035 * values(known.label).astype(int))
    assert result.labels.values == (0, 1035)
    (ball,) = result.structures
    assert (ball.class_number, ball.value, ball.name) == (1, 1035, "ball")
    numbers = named.predict(scan, class_numbers=True, **ask)
    assert np.array_equal(values(numbers.label), values(known.label))
    assert numbers.structures[0].value == 1
    # Whichever they carry, they are drawn and judged alike.
    for one in (result, numbers):
        outlines = [len(axis.collections) for axis in one.plot().axes[1:15:5]]
        assert outlines == [1, 1, 1]
        assert named.quality(one).score == fitted.quality(known).score
    label = named.predict(scan, n_samples=0)
    assert np.unique(values(label)).tolist() == [0, 1035]
    assert label.get_data_dtype() == np.uint16


def test_every_map_lies_where_the_scan_lies_in_both_forms(fitted):
    data = np.random.default_rng(0).random((12, 13, 14), np.float32)
    scan = nib.Nifti1Image(data, None)
    scan.set_qform(nib.affines.from_matvec(np.eye(3), [30, 40, 50]), 1)
    scan.set_sform(nib.affines.from_matvec(1.1 * np.eye(3), [-7, 8, 9]), 4)
    result = fitted.predict(scan, n_samples=2, seed=1, probabilities=True)
    maps = result.mutual_information, result.probabilities, result.scan
    for image in (*result, *maps):
        for form, code in (image.get_qform(coded=True), image.get_sform(coded=True)):
            theirs = {1: scan.get_qform(), 4: scan.get_sform()}[code]
            np.testing.assert_array_equal(form, theirs)
        np.testing.assert_array_equal(image.header.get_zooms()[:3], (1, 1, 1))


# --- what the result depends on, and what not


def test_seed_reproduces_and_is_recorded(fitted, scan):
    ask = partial(fitted.predict, scan, n_samples=2)
    assert same(ask(seed=3), ask(seed=3))
    assert not same(ask(seed=3), ask(seed=4), ("variance",))
    first, second = ask(), ask()
    assert first.seed != second.seed
    assert not same(first, second, ("variance",))
    assert same(ask(seed=first.seed), first)
    torch.manual_seed(0)
    third = ask().seed
    torch.manual_seed(0)
    assert ask().seed != third


def test_result_does_not_depend_on_tiles_batches_or_threads(fitted, scan):
    ask = partial(fitted.predict, scan, n_samples=3, seed=1)
    whole = ask(block_shape=SHAPE)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tiled = [ask()]
    finally:
        torch.set_num_threads(threads)
    tiled += [ask(block_shape=block) for block in (BLOCK, (7, 9, 64))]
    tiled += [ask(block_shape=(10, 14, 12), batch_size=3)]
    for result in tiled:
        assert same(result, whole, ("label",))
        assert np.array_equal(result.volumes_mm3, whole.volumes_mm3)
        for name in MAPS[1:]:
            gap = values(getattr(result, name)) - values(getattr(whole, name))
            assert np.abs(gap).max() < 1e-5


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_changes_little(fitted, scan):
    ask = partial(fitted.predict, scan, n_samples=2, seed=1)
    half, full = ask(precision="bfloat16"), ask()
    assert dice(values(half.label) > 0, values(full.label) > 0) > 0.98
    assert np.abs(values(half.entropy) - values(full.entropy)).mean() < 0.01


def test_a_number_format_that_cannot_be_used_is_named(fitted, scan, monkeypatch):
    with pytest.raises(InputError, match=r"precision must be one of float32, tf32, b"):
        fitted.predict(scan, precision="half")
    with pytest.raises(InputError, match=r"'tf32' needs a GPU .*: use .*'float32'"):
        fitted.predict(scan, precision="tf32")
    monkeypatch.setattr(engine, "has_bfloat16", lambda device: False)
    with pytest.raises(InputError, match=r"has no .* bfloat16: use .*'float32'"):
        fitted.predict(scan, precision="bfloat16")


def reoriented(image, codes):
    start = nib.io_orientation(image.affine)
    end = nib.orientations.axcodes2ornt(tuple(codes))
    return image.as_reoriented(nib.orientations.ornt_transform(start, end))


def stored_differently(image, folder):
    """The same scan in other containers, by name."""
    data = np.asarray(image.dataobj)
    files = {f"{codes}.nii.gz": reoriented(image, codes) for codes in ("LAS", "PIL")}
    files |= {
        "same.mgz": nib.MGHImage(data.astype(np.float32), image.affine),
        "PSR.mgz": reoriented(nib.MGHImage(data, image.affine), "PSR"),
        "scaled.nii": nib.Nifti1Image((data * 2 - 40).astype(np.int16), image.affine),
        "float64.nii": nib.Nifti1Image(data.astype(np.float64), image.affine),
    }
    for name, stored in files.items():
        nib.save(stored, folder / name)
    raw = bytearray((folder / "scaled.nii").read_bytes())
    # nibabel does not write a slope of one's own: scl_slope and scl_inter.
    raw[112:120] = struct.pack("<ff", 0.5, 20)
    (folder / "scaled.nii").write_bytes(raw)
    assert np.array_equal(nib.load(folder / "scaled.nii").get_fdata(), data)
    sources = {name: folder / name for name in files}
    return sources | {
        "text": str(folder / "same.mgz"),
        "image": image,
        "reoriented image": reoriented(image, "SLP"),
        "array": (data, image.affine),
        "list": (data.tolist(), image.affine.tolist()),
    }


def test_storage_does_not_change_the_answer(fitted, scan, tmp_path):
    native = nib.load(scan)
    expected = fitted.predict(scan, n_samples=2, seed=2)
    for name, source in stored_differently(native, tmp_path).items():
        result = fitted.predict(source, n_samples=2, seed=2)
        assert np.array_equal(result.volumes_mm3, expected.volumes_mm3), name
        if isinstance(source, Path | str):
            source = nib.load(source)
        if not isinstance(source, tuple):
            assert result.label.shape == source.shape, name
            assert np.allclose(result.label.affine, source.affine, atol=1e-5), name
        label, entropy = (
            reoriented(image, "RAS") for image in (result.label, result.entropy)
        )
        assert np.allclose(label.affine, native.affine, atol=1e-5), name
        assert np.array_equal(values(label), values(expected.label)), name
        assert np.allclose(values(entropy), values(expected.entropy), atol=1e-5), name


def test_intensity_units_do_not_matter(fitted, scan):
    native = nib.load(scan)
    data = values(native).astype(float)
    expected = values(fitted.predict(scan, n_samples=0))
    for a, b in ((1e-3, 0), (50, -1000)):
        label = values(fitted.predict((a * data + b, native.affine), n_samples=0))
        assert dice(label > 0, expected > 0) >= 0.99


@pytest.mark.parametrize("spacing", [(1, 1, 2), (0.7, 0.7, 1.5), (2, 2, 2)])
def test_other_spacing_comes_back_on_its_own_grid(fitted, spacing):
    shape = tuple(round(n / s) for n, s in zip(SHAPE, spacing, strict=True))
    affine = grid(shape, spacing)
    data, mask = ball(9, shape, affine)
    image = nib.Nifti1Image(data, affine)
    label, _, entropy = fitted.predict(image, n_samples=2, seed=0)
    for result, dtype in ((label, np.uint8), (entropy, np.float32)):
        assert result.shape == shape
        assert np.allclose(result.affine, affine, atol=1e-6)
        assert np.allclose(result.header.get_zooms(), spacing)
        assert values(result).dtype == dtype
    assert dice(values(label) > 0, mask > 0) > 0.85


def test_oblique_scan_comes_back_on_its_own_grid(fitted):
    angle = math.radians(12)
    turn = np.array(
        [
            [math.cos(angle), -math.sin(angle), 0],
            [math.sin(angle), math.cos(angle), 0],
            [0, 0, 1],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn
    affine[:3, 3] = CENTRE_MM - turn @ ((np.array(SHAPE) - 1) / 2)
    data, mask = ball(9, affine=affine)
    label = fitted.predict(nib.Nifti1Image(data, affine), n_samples=0)
    assert np.allclose(label.affine, affine, atol=1e-6)
    assert dice(values(label) > 0, mask > 0) > 0.9
    # The same voxels without the rotation agree where the grids do: at the ball.
    straight = values(fitted.predict((data, grid()), n_samples=0))
    assert dice(values(label) > 0, straight > 0) > 0.97


def test_resampled_scan_gives_the_same_answer_in_the_world(fitted, scan):
    native = nib.load(scan)
    zoom = np.array([1, 1, 2])
    coarse = values(native).astype(float).reshape(*SHAPE[:2], -1, 2).mean(-1)
    affine = native.affine @ np.diag([*zoom, 1])
    affine[2, 3] += 0.5
    label = values(fitted.predict((coarse, affine), n_samples=0))
    fine = affine_transform(
        label, 1 / zoom, offset=(0, 0, -0.25), order=0, output_shape=SHAPE
    )
    assert dice(fine > 0, values(fitted.predict(scan, n_samples=0)) > 0) > 0.9


def test_volume_smaller_than_the_block(fitted):
    shape = 24, 26, 12
    data, mask = ball(9, shape)
    result = fitted.predict((data, grid(shape)), block_shape=(32, 32, 32), n_samples=2)
    assert result.label.shape == shape
    assert dice(values(result.label) > 0, mask > 0) > 0.8
    small = [((data, grid(shape)), (mask, grid(shape)))]
    again = Segmentation("vnet", TINY["vnet"]).fit(build(small))
    assert again.predict(small[0][0], n_samples=0).shape == shape
    for shape in ((1, 9, 5), (2, 2, 1)):
        data = np.arange(np.prod(shape)).reshape(shape)
        for name, model in (("fitted", fitted), ("again", again)):
            assert model.predict((data, np.eye(4)), n_samples=0).shape == shape, name


def test_trailing_axis_of_one_is_dropped(fitted, scan):
    native = nib.load(scan)
    image = nib.Nifti1Image(values(native)[..., None], native.affine)
    label = fitted.predict(image, n_samples=0)
    assert label.shape == SHAPE
    assert np.array_equal(values(label), values(fitted.predict(scan, n_samples=0)))


def test_a_coarse_model_draws_boundaries_as_finely_as_the_scan_shows_them(tmp_path):
    pairs = [write_nested(tmp_path, number) for number in range(4)]
    data = Dataset.from_files(pairs[:3], (8, 8, 8), n_classes=3).batch(4)
    model = Segmentation("bayesian_vnet", TINY["bayesian_vnet"])
    data = data.spacing((2, 2, 2)).patches(per_volume=64)
    model.fit(data, epochs=3, opt_args={"lr": 0.05})
    scan, truth = pairs[3][0], values(nib.load(pairs[3][1]))
    ask = partial(model.predict, scan, n_samples=3, seed=0, probabilities=True)
    plain = ask()
    kept = Calibration("temperature", (1.0,) * 3, (0.0,) * 3, 1, 1.0, 1.0)
    model.learned_ = replace(
        model.learned_, calibration=replace(kept, intensity_weight=1.0)
    )
    weighed = ask()
    found = [dice(values(one.label) == 2, truth == 2) for one in (plain, weighed)]
    assert found[0] < 0.9 < 0.97 < found[1]
    probabilities = values(weighed.probabilities)
    np.testing.assert_array_equal(probabilities.argmax(-1), values(weighed.label))
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-3)
    assert dice(values(model.predict(scan, n_samples=0)) == 2, truth == 2) > 0.97

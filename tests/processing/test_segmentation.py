"""The estimator: what `predict` returns, for every model and every kind of input."""

import hashlib
import json
import math
import struct
import warnings
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from nobrainer import memory, models
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError, UnusualScanWarning
from nobrainer.evaluation import summarise
from nobrainer.naming import stem
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.ensemble import Ensemble
from nobrainer.processing.prediction import BatchError
from nobrainer.processing.segmentation import Segmentation
from nobrainer.training import engine
from nobrainer.training.options import TrainingOptions

SHAPE, BLOCK = (24, 26, 28), (16, 16, 16)
RADIUS_MM = 7
CENTRE_MM = np.array([-3.0, 4.0, 5.0])
TINY = {
    "unet": {"base_filters": 2, "levels": 2, "norm": "instance"},
    "vnet": {"base_filters": 2, "levels": 2},
    "meshnet": {"base_filters": 2, "dilations": [1, 2]},
    "bayesian_vnet": {"base_filters": 2, "levels": 2},
    "bayesian_meshnet": {"base_filters": 2, "dilations": [1, 2]},
    "kwyk": {"base_filters": 3, "dilations": [1, 2]},
    "ensemble": {
        "members": [
            ["vnet", {"base_filters": 2, "levels": 2}],
            ["bayesian_meshnet", {"base_filters": 2, "dilations": [1, 2]}],
        ]
    },
}
STOCHASTIC = {"bayesian_vnet", "bayesian_meshnet", "kwyk", "ensemble"}
MAPS = ("label", "variance", "entropy", "mutual_information")


def grid(shape=SHAPE, spacing=(1, 1, 1)):
    """A RAS affine whose grid has `CENTRE_MM` in its middle."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = CENTRE_MM - (np.array(shape) - 1) / 2 * spacing
    return affine


def ball(number, shape=SHAPE, affine=None):
    """A bright ball in a larger, dimmer one near `CENTRE_MM`, int16, and its mask."""
    affine = grid(shape) if affine is None else affine
    rng = np.random.default_rng(number)
    centre = CENTRE_MM + rng.uniform(-2, 2, 3)
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    gap = nib.affines.apply_affine(affine, voxels) - centre
    distance = np.linalg.norm(gap, axis=-1)
    mask = (distance < RADIUS_MM).astype(np.uint8)
    image = 20 + 60 * (distance < RADIUS_MM + 3) + 60 * mask + rng.normal(0, 5, shape)
    return np.round(image).astype(np.int16), mask


def write_ball(folder, number, spacing=(1, 1, 1)):
    affine = grid(spacing=spacing)
    paths = folder / f"sub-{number}_T1w.nii.gz", folder / f"sub-{number}_mask.nii.gz"
    for data, path in zip(ball(number, affine=affine), paths, strict=True):
        nib.save(nib.Nifti1Image(data, affine), path)
    return paths


def build(pairs, **patches):
    data = Dataset.from_files(pairs, BLOCK).batch(2).binarize()
    return data.patches(per_volume=8, **patches)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    return [write_ball(folder, number) for number in range(4)]


@pytest.fixture(scope="session")
def fitted(pairs):
    """A Bayesian model that has learned what a ball is; never fitted again."""
    return Segmentation("bayesian_vnet", {"base_filters": 4, "levels": 2}).fit(
        build(pairs[:3]), epochs=8, opt_args={"lr": 0.02}
    )


@pytest.fixture(scope="session")
def scan(pairs):
    return pairs[3][0]


def values(image):
    return np.asarray(image.dataobj)


def dice(a, b):
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


def same(first, second, names=MAPS):
    return all(
        np.array_equal(values(getattr(first, n)), values(getattr(second, n)))
        for n in names
    )


# --- every model


@pytest.mark.parametrize("name", models.available_models())
@pytest.mark.filterwarnings("ignore:.*has no stochastic layer")
def test_every_model_goes_the_whole_way(name, pairs, scan, tmp_path):
    fitted = Segmentation(name, TINY[name]).fit(build(pairs[:2]), build(pairs[2:3]))
    assert (fitted.base_model, fitted.recipe_.model.name) == (name, name)
    loaded = Segmentation.load(fitted.save(tmp_path / "model"))
    ask = {"n_samples": 2, "seed": 5, "probabilities": True, "block_shape": BLOCK}
    before, after = (model.predict(scan, **ask) for model in (fitted, loaded))
    assert same(before, after, (*MAPS, "probabilities"))
    assert np.array_equal(before.volumes_mm3, after.volumes_mm3)
    one, again = (
        model.predict(scan, block_shape=BLOCK, n_samples=0)
        for model in (fitted, loaded)
    )
    assert isinstance(one, nib.Nifti1Image)
    assert np.array_equal(values(one), values(again))
    held_out = build(pairs[3:])
    rows = fitted.evaluate(held_out, n_samples=2, allow_seen=True)
    assert rows.to_tsv() == loaded.evaluate(held_out, 2, allow_seen=True).to_tsv()
    assert {"dice", "nll", "brier", "ece"} < {row.metric for row in rows}
    assert loaded.recipe_ == fitted.recipe_
    assert loaded.history_ == fitted.history_
    assert not loaded.model_.training
    assert (values(before.variance).max() > 0) == (name in STOCHASTIC)


def test_dropout_alone_is_stochastic_too(pairs, scan, recwarn):
    args = TINY["vnet"] | {"dropout_rate": 0.3}
    fitted = Segmentation("vnet", args).fit(build(pairs[:1]))
    assert values(fitted.predict(scan, n_samples=3).variance).max() > 1e-6
    # One epoch may leave a model that finds little.
    others = [w for w in recwarn if w.category is not UnusualScanWarning]
    assert [str(w.message) for w in others] == []


def test_deterministic_model_says_that_it_makes_one_pass(pairs, scan):
    fitted = Segmentation("vnet", TINY["vnet"]).fit(build(pairs[:1]))
    with pytest.warns(
        UserWarning, match="vnet has no stochastic layer: one pass"
    ) as caught:
        result = fitted.predict(scan, n_samples=3)
    assert caught[0].filename == __file__
    assert values(result.variance).max() == 0
    assert values(result.mutual_information).max() < 1e-6
    # Not asked for draws it gives the label alone, and says nothing.
    with warnings.catch_warnings(action="error"):
        warnings.simplefilter("ignore", UnusualScanWarning)
        label = fitted.predict(scan)
    assert isinstance(label, nib.Nifti1Image)
    assert np.array_equal(values(result.label), values(label))
    assert result.volumes_mm3.shape == (1, 2)
    assert math.isnan(result.structures[0].pairwise_dice)


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
    with pytest.raises(InputError, match=r"precision must be one of float32, bfloat16"):
        fitted.predict(scan, precision="half")
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


# --- several inputs


def test_list_gives_a_list(fitted, pairs):
    scans = [image for image, _ in pairs[:2]]
    both = fitted.predict(scans, n_samples=2, seed=1)
    assert isinstance(both, list)
    for scan, result in zip(scans, both, strict=True):
        assert same(result, fitted.predict(scan, n_samples=2, seed=1))
    assert [type(r) for r in fitted.predict(scans, n_samples=0)] == [
        nib.Nifti1Image
    ] * 2
    assert fitted.predict([]) == []


def test_bad_input_in_a_list_stops_nothing(fitted, pairs, tmp_path):
    bad = tmp_path / "sub-bad_T1w.nii.gz"
    bad.write_bytes(b"not an image")
    constant = np.ones(SHAPE), np.eye(4)
    missing = tmp_path / "missing.nii.gz"
    scans = [pairs[0][0], bad, missing, pairs[1][0], constant]
    with pytest.raises(BatchError) as caught:
        fitted.predict(scans, n_samples=2, seed=1)
    error = caught.value
    assert [r is None for r in error.results] == [False, True, True, False, True]
    assert same(error.results[3], fitted.predict(scans[3], n_samples=2, seed=1))
    assert len(error.problems) == 3
    assert error.problems[0].startswith(f"{bad}: not an image")
    assert error.problems[1].startswith(f"{missing}: no such file")
    assert "constant" in error.problems[2]
    assert str(error) == "\n".join(error.problems)
    assert isinstance(error, InputError)


def test_predictions_of_a_list_have_names_of_their_own(fitted, pairs, tmp_path):
    scans = [tmp_path / f"p{n}" / "T1.nii.gz" for n in range(2)]
    for scan in scans:
        scan.parent.mkdir()
        nib.save(nib.load(pairs[0][0]), scan)
    array = np.asarray(nib.load(pairs[0][0]).dataobj), np.eye(4)
    results = fitted.predict([*scans, array, array], n_samples=1, seed=1)
    names = [result.name for result in results]
    assert names == ["p0_T1", "p1_T1", "array_1", "array_2"]
    assert fitted.predict(scans[0], n_samples=1).name == "T1"


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


def test_a_scan_too_large_for_the_memory_stops_no_other(fitted, monkeypatch):
    small = np.random.default_rng(0).random((20, 20, 20), np.float32)
    large = np.random.default_rng(0).random((20, 20, 21), np.float32)
    # Four maps of four bytes, on the working grid and on that of the scan.
    monkeypatch.setattr(memory, "memory_limit_bytes", lambda: 32 * small.size)
    with pytest.raises(BatchError) as caught:
        fitted.predict([(large, np.eye(4)), (small, np.eye(4))], n_samples=0)
    assert [result is None for result in caught.value.results] == [True, False]
    (problem,) = caught.value.problems
    assert problem.startswith("array: needs 0.000269 GB of memory to predict it, and ")


# --- evaluation


def test_evaluate_agrees_with_predict(fitted, pairs):
    rows = fitted.evaluate(build(pairs[2:]), n_samples=3, seed=4, allow_seen=True)
    scores = []
    for image, mask in pairs[2:]:
        result = fitted.predict(image, n_samples=3, seed=4, probabilities=True)
        truth = values(nib.load(mask))
        scores.append(dice(values(result.label) > 0, truth > 0))
        found = {
            (row.metric, row.region): row.value
            for row in rows
            if row.subject == stem(image)
        }
        assert found["dice", "volume"] == pytest.approx(scores[-1])
        p = np.take_along_axis(values(result.probabilities), truth[..., None], -1)
        nll = -np.log(p.astype(float)).mean()
        assert found["nll", "volume"] == pytest.approx(nll, rel=1e-3)
    summary = summarise(rows)
    assert summary["dice"] == pytest.approx(np.mean(scores))
    assert {row.structure for row in rows} == {"foreground", "all"}


def test_evaluate_refuses_what_does_not_fit(fitted, pairs):
    three = Dataset.from_files(pairs, BLOCK, n_classes=3)
    with pytest.raises(InputError, match=r"dataset has n_classes=3, the model 2"):
        fitted.evaluate(three)
    bare = Dataset.from_files([pairs[0][0]], BLOCK)
    with pytest.raises(InputError, match=r"sub-0_T1w\.nii\.gz: has no labels"):
        fitted.evaluate(bare)


# --- the record of how it was made


def test_recipe_records_what_was_used(pairs, tmp_path):
    fitted = Segmentation("bayesian_vnet", TINY["bayesian_vnet"]).fit(
        build(pairs[:2], foreground=0.25).augment().shuffle(),
        build(pairs[2:3]),
        epochs=2,
        optimizer=torch.optim.AdamW,
        opt_args={"lr": 0.005, "betas": (0.8, 0.9)},
        loss="dice_ce",
        class_weights=[1, 2],
        seed=42,
        options=TrainingOptions(
            gradient_clip=0.5, accumulate=2, patience=5, max_minutes=10
        ),
    )
    recipe = fitted.recipe_
    assert recipe.model.args == TINY["bayesian_vnet"] | {"n_classes": 2}
    training = recipe.training
    assert training.optimizer == "torch.optim.adamw.AdamW"
    assert training.opt_args == {"lr": 0.005, "betas": [0.8, 0.9]}
    assert (training.loss, training.class_weights) == ("dice_ce", (1.0, 2.0))
    assert (training.seed, training.epochs, training.accumulate) == (42, 2, 2)
    assert (training.gradient_clip, training.precision) == (0.5, "32-true")
    assert (training.patience, training.max_minutes) == (5, 10)
    data = recipe.data
    assert (data.block_shape, data.batch_size) == (BLOCK, 2)
    assert (data.patches_per_volume, data.foreground) == (8, 0.25)
    assert (data.augment, data.shuffle, data.binarize) == ("standard", True, "nonzero")
    assert recipe.preprocess.spacing_mm == (1, 1, 1)
    provenance = recipe.provenance
    roles = ["train-image", "train-label"] * 2 + ["validate-image", "validate-label"]
    assert [record.role for record in provenance.files] == roles
    used = [path for pair in pairs[:3] for path in pair]
    for record, path in zip(provenance.files, used, strict=True):
        raw = path.read_bytes()
        assert record.name == path.name
        assert record.sha256 == hashlib.sha256(raw).hexdigest()
        assert record.size_bytes == len(raw)
    assert provenance.started <= provenance.ended
    assert provenance.versions["torch"] == torch.__version__
    best = max(fitted.history_, key=lambda row: row["validation_dice"])
    assert provenance.metrics["validation_dice"] == best["validation_dice"]
    folder = fitted.save(tmp_path / "model")
    for path in folder.glob("*.json*"):
        # Neither a path of this machine nor a user's name.
        assert str(pairs[0][0].parent) not in path.read_text(), path.name
        assert str(Path.home()) + "/" not in path.read_text(), path.name
    assert json.loads((folder / "recipe.json").read_text())["training"]["seed"] == 42


def test_file_names_tell_folders_apart(tmp_path):
    pairs = []
    for number in range(2):
        folder = tmp_path / f"sub-{number}" / "anat"
        folder.mkdir(parents=True)
        image, mask = write_ball(folder, number)
        pairs.append(
            (image.rename(folder / "T1w.nii.gz"), mask.rename(folder / "mask.nii.gz"))
        )
    fitted = Segmentation("vnet", TINY["vnet"]).fit(build(pairs))
    names = [record.name for record in fitted.recipe_.provenance.files]
    assert names == [
        f"sub-{n}/anat/{name}.nii.gz" for n in range(2) for name in ("T1w", "mask")
    ]


def test_arrays_have_no_file_record(tmp_path):
    pair = [(array, grid()) for array in ball(0)]
    fitted = Segmentation("vnet", TINY["vnet"]).fit(build([tuple(pair)]))
    assert fitted.recipe_.provenance.files == ()
    assert Segmentation.load(fitted.save(tmp_path / "m")).recipe_ == fitted.recipe_


def test_own_binarizer_is_recorded_by_name(pairs, scan):
    def empty_half(labels):
        return labels[..., ::-1] == 0

    data = Dataset.from_files(pairs[:1], BLOCK).binarize(empty_half)
    fitted = Segmentation("vnet", TINY["vnet"]).fit(data.patches(per_volume=2))
    assert fitted.recipe_.data.binarize == "callable"
    assert fitted.recipe_.data.binarize_name.endswith("empty_half")


def test_fit_returns_self_and_may_be_repeated(pairs, scan):
    segmentation = Segmentation("vnet", TINY["vnet"])
    assert segmentation.fit(build(pairs[:1])) is segmentation
    first = values(segmentation.predict(scan))
    assert len(segmentation.fit(build(pairs[:1]), epochs=2).history_) == 2
    segmentation.fit(build(pairs[:1]))
    assert np.array_equal(values(segmentation.predict(scan)), first)
    assert segmentation.model_args == TINY["vnet"]


def test_default_model_takes_classes_from_the_data(pairs):
    classes = [(image, nib.load(mask)) for image, mask in pairs[:1]]
    data = Dataset.from_files(classes, BLOCK, n_classes=3).patches(per_volume=2)
    with pytest.warns(UserWarning, match=r"no training scan has a voxel of class-2: "):
        fitted = Segmentation("vnet", TINY["vnet"]).fit(data)
    assert fitted.recipe_.provenance.cohort.n_having == (1, 1, 0)
    result = fitted.predict(pairs[3][0], probabilities=True)
    assert values(result.probabilities).shape == (*SHAPE, 3)
    assert result.volumes_mm3.shape == (1, 3)
    assert values(result.entropy).max() <= math.log(3) * (1 + 1e-6)
    assert fitted.labels_.names == ("background", "class-1", "class-2")
    known, unknown = result.structures
    assert (known.status == "found") == (known.volume_mm3 > 0)
    assert (unknown.status, unknown.index) == ("not in training", 2)
    assert math.isnan(unknown.volume_mm3) and result.volumes_mm3[0, 2] >= 0
    nothing = data.relabel({1: 0, 2: 1, 3: 2})
    with pytest.raises(InputError, match="dataset_train has no voxel of a class but"):
        Segmentation("vnet", TINY["vnet"]).fit(nothing)


def test_weights_by_class_are_a_list(pairs):
    for weights in ({0: 1.0, 1: 5.0}, [1.0], [1.0, -1.0]):
        with pytest.raises(InputError, match="class_weights must be"):
            Segmentation("vnet", TINY["vnet"]).fit(
                build(pairs[:1]), class_weights=weights
            )


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
    assert (ball.index, ball.value, ball.name) == (1, 1035, "ball")
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


# --- what is refused


def test_bad_file_among_good_ones_stops_fit_before_the_first_step(pairs, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    image, mask = write_ball(folder, 7)
    other, shifted = write_ball(folder, 8)
    nib.save(nib.Nifti1Image(values(nib.load(shifted)), np.eye(4)), shifted)
    broken, _ = write_ball(folder, 9)
    broken.write_bytes(broken.read_bytes()[:5000])
    data = Dataset.from_files(
        [pairs[0], (broken, mask), (other, shifted), (image, mask)], BLOCK
    )
    calls = []

    def loss(logits, label):
        calls.append(1)
        return logits.mean()

    segmentation = Segmentation("vnet", TINY["vnet"], tmp_path / "checkpoints")
    for train, validate in (
        (data.binarize(), None),
        (build(pairs[:1]), data.binarize()),
    ):
        with pytest.raises(InputError) as caught:
            segmentation.fit(train, validate, loss=loss)
        lines = str(caught.value).splitlines()
        assert len(lines) == 2
        assert lines[0].startswith(f"{broken}: not an image")
        assert lines[1].startswith(f"{shifted}: its affine puts voxels")
    assert calls == []
    assert list((tmp_path / "checkpoints").glob("*")) == []
    assert not hasattr(segmentation, "model_")


def test_labels_beyond_the_classes_are_named(pairs, tmp_path):
    labels = values(nib.load(pairs[0][1])) * 5
    path = tmp_path / "seg.nii.gz"
    nib.save(nib.Nifti1Image(labels, nib.load(pairs[0][1]).affine), path)
    data = Dataset.from_files([(pairs[0][0], path)], BLOCK, n_classes=3)
    with pytest.raises(InputError, match=r"seg\.nii\.gz: .*5"):
        Segmentation("vnet", TINY["vnet"]).fit(data)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("bayesian_vent", {}, "unknown model 'bayesian_vent'.*'bayesian_vnet'"),
        ("vnet", {"base_filter": 4}, "'vnet' 'base_filter': did you.*'base_filters'"),
        ("vnet", {"kl_weight": 1}, "unknown argument of model 'vnet' 'kl_weight'"),
        ("bayesian_vnet", {"prior_arg": 1}, "'prior_arg': did you mean 'prior_args'"),
    ],
)
def test_unknown_names_are_refused_by_the_constructor(name, args, message):
    with pytest.raises(InputError, match=message):
        Segmentation(name, args)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("vnet", {"n_classes": 3}, "model has n_classes=3, the dataset 2"),
        ("vnet", {"in_channels": 2}, "in_channels=2, but scans have 1 channel"),
        ("vnet", {"levels": 0}, "levels must be a whole number >= 1"),
        ("vnet", {"base_filters": "4"}, "base_filters must be a whole number"),
        ("bayesian_vnet", {"prior_type": "laplas"}, "'laplas': did you mean 'laplace'"),
        ("bayesian_vnet", {"prior_args": {"scal": 1}}, "did you mean 'scale'"),
        ("bayesian_vnet", {"kl_weight": "ELBO"}, "kl_weight must be 'elbo' or"),
    ],
)
def test_model_arguments_that_cannot_work(pairs, name, args, message):
    with pytest.raises(InputError, match=message) as caught:
        Segmentation(name, args).fit(build(pairs[:1]))
    assert "\n" not in str(caught.value)


def test_nothing_works_before_fit(pairs, tmp_path):
    segmentation = Segmentation("vnet")
    for use in (
        lambda: segmentation.predict(pairs[0][0]),
        lambda: segmentation.evaluate(build(pairs[:1])),
        lambda: segmentation.save(tmp_path / "model"),
    ):
        with pytest.raises(InputError, match=r"not fitted: call fit or load first"):
            use()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"n_samples": -1}, "n_samples must be from 0 to 32767, got -1"),
        ({"block_shape": (8, 8)}, "block_shape must be three positive integers"),
        ({"block_shape": 32}, "block_shape must be three positive integers"),
        ({"block_shape": (8, 0, 8)}, "block_shape must be three positive integers"),
    ],
)
def test_predict_refuses(fitted, scan, options, message):
    with pytest.raises(InputError, match=message):
        fitted.predict(scan, **options)


def test_bad_scans_are_named(fitted, tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(6, 6, 6)).astype(np.float32)
    holes = noise.copy()
    holes[0, 0, 0] = np.nan
    four = rng.normal(size=(6, 6, 6, 2)).astype(np.float32)
    cases = {"nan": holes, "constant": 0 * noise, "4-D": four}
    for word, data in cases.items():
        path = tmp_path / f"{word}.nii"
        nib.save(nib.Nifti1Image(data, np.eye(4)), path)
        with pytest.raises(InputError, match="(?i)" + word) as caught:
            fitted.predict(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="singular"):
        fitted.predict((noise, np.diag([1.0, 1, 0, 1])))
    with pytest.raises(InputError, match="cannot read a Dataset"):
        fitted.predict(Dataset.from_files([(noise, np.eye(4))]))


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such directory"):
        Segmentation.load(tmp_path / "nowhere")


def test_each_epoch_is_told_with_its_row(pairs):
    rows = []
    lone = Segmentation("vnet", TINY["vnet"])
    told = TrainingOptions(on_epoch=rows.append)
    lone.fit(build(pairs[:1]), epochs=3, options=told)
    assert rows == list(lone.history_)
    # 8 patches of one volume in batches of 2.
    assert [(row["epoch"], row["steps"]) for row in rows] == [(1, 4), (2, 4), (3, 4)]
    rows.clear()
    members = Ensemble("vnet", TINY["vnet"], 2)
    members.fit(build(pairs[:1]), epochs=2, options=told)
    assert rows == list(members.history_)
    assert [row["member"] for row in rows] == [0, 0, 1, 1]

"""Prediction of a volume does not depend on how it was cut, and equals a plain pass."""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.special import entr
from torch import nn

from nobrainer import inference, models
from nobrainer.bayes.draws import plan_draws, realise
from nobrainer.inference.moments import RunningMoments
from nobrainer.inference.predict import Sampling, Scaling, TileResult
from nobrainer.inference.predictor import Evidence, Predictor
from nobrainer.models import MODELS
from nobrainer.types import Shape3
from small_models import MONAI

BACKGROUND = -1.25
SEED = 4
N_CLASSES = 3
SMALL = {
    "base_filters": 4,
    "levels": 2,
    "dilations": [1, 2, 1],
    "layer_params": MONAI["highresnet"]["layer_params"],
    # Members of different strides and halos.
    "members": [
        ["vnet", {"base_filters": 2, "levels": 2}],
        ["bayesian_meshnet", {"base_filters": 3, "dilations": [1, 2]}],
        ["unet", {"base_filters": 2, "levels": 2}],
    ],
}


class Maps(NamedTuple):
    """A whole volume's statistics, put together from the tiles."""

    label: np.ndarray
    variance: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray
    probabilities: np.ndarray
    counts: np.ndarray
    votes: np.ndarray


def _model(name: str, **args: Any) -> nn.Module:
    """A model whose batch norms have statistics and whose draws differ visibly."""
    known = inspect.signature(MODELS[name]).parameters
    small = {k: v for k, v in SMALL.items() if k in known}
    if "posterior_scale" in known:
        small["posterior_scale"] = 0.5
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = models.build(name, **{"n_classes": N_CLASSES} | small | args)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm3d):
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.05, 0.3)
                norm.bias.normal_(0, 0.3)
    return model.eval()


def _volume(shape: Shape3, margin: int = 0) -> np.ndarray:
    """Noise within `margin` voxels of background."""
    image = np.full(shape, BACKGROUND, np.float32)
    inside = tuple(slice(margin, n - margin) for n in shape)
    noise = np.random.default_rng(0).normal(size=image[inside].shape)
    image[inside] = noise
    return image


def _predict(
    model: nn.Module,
    image: np.ndarray,
    n_draws: int = 3,
    block_shape: Shape3 | None = None,
    batch_size: int = 1,
    **how: Any,
) -> Maps:
    """All maps of a volume; fails unless the tiles cover it exactly once."""
    n_classes = how.pop("n_classes", N_CLASSES)
    maps = Maps(
        np.full(image.shape, -1),
        *(np.full(image.shape, np.nan, np.float32) for _ in range(3)),
        np.full((n_classes, *image.shape), np.nan, np.float32),
        np.zeros(0),
        np.full((n_classes, *image.shape), -1, np.int16),
    )
    seen = np.zeros(image.shape, int)

    def keep(tile: TileResult) -> None:
        seen[tile.where] += 1
        for whole, part in zip(maps[:4], tile_maps(tile), strict=True):
            whole[tile.where] = part
        maps.probabilities[:, *tile.where] = tile.probabilities
        maps.votes[:, *tile.where] = tile.votes

    scaling, evidence = how.pop("scaling", None), how.pop("evidence", None)
    predictor = Predictor(
        model,
        n_classes,
        Sampling(SEED, n_draws, block_shape, batch_size),
        torch.device("cpu"),
        scaling=scaling,
        evidence=evidence,
    )
    counts = predictor(image, BACKGROUND, keep, **how)
    assert seen.min() == seen.max() == 1
    return maps._replace(counts=counts)


def tile_maps(tile: TileResult) -> tuple[np.ndarray, ...]:
    return tile.label, tile.variance, tile.entropy, tile.mutual_information


def _assert_same(one: Maps, other: Maps) -> None:
    """Identical labels and counts, maps within 1e-5."""
    np.testing.assert_array_equal(one.label, other.label)
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.votes, other.votes)
    for a, b in zip(one[1:5], other[1:5], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def _plain_passes(model: nn.Module, image: np.ndarray, n_draws: int) -> np.ndarray:
    """Probabilities (n, C, I, J, K) by a pass of each draw over the whole volume."""
    before = 4 * model.halo
    shape = [-(-n // model.stride) * model.stride for n in image.shape]
    widths = [(before, before + m - n) for n, m in zip(image.shape, shape, strict=True)]
    padded = np.pad(image, widths, constant_values=BACKGROUND)
    inner = tuple(slice(before, before + n) for n in image.shape)
    draws = []
    with torch.no_grad():
        for draw in plan_draws(model, SEED, n_draws):
            logits = realise(model, *draw)(torch.from_numpy(padded)[None, None])
            logits = logits[0][:, *inner]
            draws.append(torch.softmax(logits, 0).double().numpy())
    return np.stack(draws)


# The others look at the whole window.
every_model = pytest.mark.parametrize(
    "name", [name for name in MODELS if name == "highresnet" or name not in MONAI]
)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@every_model
def test_tile_size_does_not_matter(name):
    model = _model(name)
    image = _volume((41, 44, 46), margin=5)
    whole = _predict(model, image, block_shape=(48, 48, 48))
    _assert_same(_predict(model, image, block_shape=(32, 32, 32)), whole)
    _assert_same(_predict(model, image, block_shape=(48, 64, 40)), whole)
    _assert_same(_predict(model, image, block_shape=(16, 23, 46)), whole)
    _assert_same(_predict(model, image), whole)
    assert len(np.unique(whole.label)) > 1
    assert whole.counts.sum(1).tolist() == [image.size] * 3


@every_model
@pytest.mark.parametrize("n_classes", [2, 33, 50])
def test_prediction_equals_one_plain_pass_over_the_padded_volume(name, n_classes):
    model = _model(name, n_classes=n_classes)
    image = _volume((17, 14, 19), margin=2)
    found = _predict(model, image, 4, (8, 8, 16), n_classes=n_classes)
    draws = _plain_passes(model, image, 4)
    mean = draws.mean(0)
    entropy = entr(mean).sum(0)
    information = entropy - entr(draws).sum(1).mean(0)
    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(found.probabilities, mean, **close)
    np.testing.assert_allclose(found.variance, draws.var(0).mean(0), **close)
    np.testing.assert_allclose(found.entropy, entropy, **close)
    np.testing.assert_allclose(found.mutual_information, information, **close)
    labels = draws.argmax(1)
    counts = [np.bincount(label.ravel(), minlength=n_classes) for label in labels]
    np.testing.assert_array_equal(found.counts, counts)
    votes = np.stack([(labels == c).sum(0) for c in range(n_classes)])
    np.testing.assert_array_equal(found.votes, votes)
    mode = np.where(votes == votes.max(0), mean, -1).argmax(0)
    np.testing.assert_array_equal(found.label, mode)


@every_model
def test_background_tiles_equal_a_plain_pass(name):
    # Most tiles see background only and are computed once for all.
    model = _model(name)
    image = np.full((40, 37, 44), BACKGROUND, np.float32)
    image[30:33, 4:9, 2:7] = 2.0
    passes: list[tuple[int, int]] = []
    found = _predict(model, image, 1, (4, 4, 4), batch_size=20)
    np.testing.assert_allclose(
        found.probabilities, _plain_passes(model, image, 1)[0], rtol=0, atol=1e-5
    )
    sampling = Sampling(SEED, 1, (4, 4, 4))
    Predictor(
        model,
        N_CLASSES,
        sampling,
        torch.device("cpu"),
        on_pass=lambda done, total: passes.append((done, total)),
    )(image, BACKGROUND, lambda tile: None)
    total = passes[0][1]
    assert passes == [(n + 1, total) for n in range(total)]
    assert total < 0.6 * 10 * 10 * 11


@pytest.mark.parametrize("name", ["bayesian_meshnet", "bayesian_vnet", "unet"])
def test_parts_of_slabs_that_see_no_content_are_computed_once(name, monkeypatch):
    # Slabs of few planes, and content in two corners of the box that holds it.
    monkeypatch.setattr(inference.slabs, "SLAB_BYTES", 40_000)
    model = _model(name)
    image = np.full((58, 37, 40), BACKGROUND, np.float32)
    image[6:10, 3:8, 4:9] = 2.0
    image[47:53, 28:34, 30:36] = -3.0
    update = RunningMoments.update
    with patch.object(RunningMoments, "update", autospec=True) as spy:
        spy.side_effect = update
        found = _predict(model, image, 2)
    looked = [call.args[1][0].numel() for call in spy.call_args_list]
    assert sum(looked) < 0.6 * 2 * image.size
    mean = _plain_passes(model, image, 2).mean(0)
    np.testing.assert_allclose(found.probabilities, mean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["unet", "bayesian_vnet"])
def test_deeper_networks_are_tiled_exactly_too(name):
    model = _model(name, levels=3, base_filters=2, dropout_rate=0.3)
    image = _volume((30, 25, 33))
    found = _predict(model, image, 1, block_shape=(12, 20, 8))
    np.testing.assert_allclose(
        found.probabilities, _plain_passes(model, image, 1)[0], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    "form",
    [
        {"channels": (2, 3, 4), "strides": (2, 1), "num_res_units": 2, "dropout": 0.2},
        {"channels": (2, 3), "strides": (3,), "kernel_size": 5, "act": "ELU"},
        {"channels": (2, 3, 4), "norm": "none", "up_kernel_size": 5, "act": "RELU"},
    ],
    ids=str,
)
def test_a_unet_in_monais_arguments_is_tiled_exactly(form):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.build("unet", n_classes=N_CLASSES, **form).eval()
    image = _volume((17, 22, 19), margin=1)
    found = _predict(model, image, 1, block_shape=(12, 20, 8))
    np.testing.assert_allclose(
        found.probabilities, _plain_passes(model, image, 1)[0], rtol=0, atol=1e-5
    )


@every_model
def test_batch_size_does_not_matter(name):
    model = _model(name)
    image = _volume((33, 30, 21))
    one = _predict(model, image, 3, (16, 16, 16))
    for batch_size in (3, 64):
        _assert_same(_predict(model, image, 3, (16, 16, 16), batch_size), one)


@every_model
def test_a_draw_does_not_depend_on_how_many_follow(name):
    model = _model(name)
    image = _volume((12, 10, 11))
    few, many = _predict(model, image, 2), _predict(model, image, 5)
    np.testing.assert_array_equal(few.counts, many.counts[:2])


@every_model
@pytest.mark.usefixtures("threads")
def test_thread_count_and_random_state_do_not_matter(name):
    model = _model(name)
    image = _volume((24, 30, 21))
    torch.set_num_threads(1)
    one = _predict(model, image, block_shape=(16, 16, 16))
    torch.set_num_threads(2)
    torch.manual_seed(123)
    _assert_same(_predict(model, image, block_shape=(16, 16, 16)), one)
    torch.set_num_threads(1)
    again = _predict(model, image, block_shape=(16, 16, 16))
    assert all(np.array_equal(a, b) for a, b in zip(again, one, strict=True))


@every_model
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 2), (5, 9, 31), (8, 8, 8)])
def test_small_and_odd_volumes_work(name, shape):
    model = _model(name)
    image = _volume(shape)
    found = _predict(model, image, 1, (32, 32, 32))
    np.testing.assert_allclose(
        found.probabilities, _plain_passes(model, image, 1)[0], rtol=0, atol=1e-5
    )
    _assert_same(_predict(model, image, 1), found)


@every_model
@pytest.mark.parametrize("value", [BACKGROUND, 0.5])
def test_constant_volumes_work(name, value):
    model = _model(name)
    image = np.full((19, 16, 13), value, np.float32)
    found = _predict(model, image, 2, (8, 8, 8))
    _assert_same(_predict(model, image, 2), found)
    mean = _plain_passes(model, image, 2).mean(0)
    np.testing.assert_allclose(found.probabilities, mean, rtol=0, atol=1e-5)


@every_model
def test_a_shift_by_the_pooling_grid_shifts_the_prediction(name):
    model = _model(name)
    content = np.random.default_rng(1).normal(size=(11, 13, 9)).astype(np.float32)
    maps = []
    for corner in ((8, 8, 8), (8 + model.stride, 8 + 3 * model.stride, 8)):
        image = np.full((36, 36, 30), BACKGROUND, np.float32)
        where = tuple(
            slice(c, c + n) for c, n in zip(corner, content.shape, strict=True)
        )
        image[where] = content
        near = tuple(
            slice(c - 8, c + n + 8) for c, n in zip(corner, content.shape, strict=True)
        )
        found = _predict(model, image, block_shape=(16, 16, 16))
        maps.append(
            Maps(
                *(m[..., *near] for m in found[:5]),
                found.counts,
                found.votes[..., *near],
            )
        )
    # The rest of the volume is background either way, so the counts agree as well.
    _assert_same(maps[0], maps[1])


@every_model
def test_the_volume_may_lie_in_more_background(name):
    model = _model(name)
    image = _volume((15, 14, 13))
    pad = 4 * model.stride
    wide = np.pad(image, pad, constant_values=BACKGROUND)
    found = _predict(model, wide, block_shape=(16, 16, 16))
    inner = (..., *(slice(pad, pad + n) for n in image.shape))
    cropped = Maps(*(m[inner] for m in found[:5]), np.zeros(0), found.votes[inner])
    narrow = _predict(model, image, block_shape=(16, 16, 16))
    _assert_same(cropped, narrow._replace(counts=np.zeros(0)))


@pytest.mark.parametrize(
    "name",
    [n for n in MODELS if "posterior_scale" in inspect.signature(MODELS[n]).parameters],
)
def test_draws_differ_and_the_posterior_mean_does_not(name):
    model = _model(name)
    image = _volume((16, 16, 16))
    spread = _predict(model, image, 6)
    assert spread.variance.mean() > 1e-3
    assert len({tuple(row) for row in spread.counts}) == 6
    assert (spread.mutual_information > 0).mean() > 0.9
    mean = _predict(model, image, 0)
    assert mean.variance.max() == 0
    assert mean.mutual_information.max() <= 1e-6
    np.testing.assert_array_equal(mean.label, mean.probabilities.argmax(0))


def test_dropout_makes_a_plain_model_uncertain_and_tiles_stay_exact():
    model = _model("vnet", dropout_rate=0.4)
    image = _volume((21, 26, 18))
    whole = _predict(model, image, block_shape=(32, 32, 32))
    assert whole.variance.mean() > 1e-4
    _assert_same(_predict(model, image, block_shape=(8, 16, 8), batch_size=2), whole)
    assert _predict(model, image, 0).variance.max() == 0


@pytest.mark.parametrize("batch_size", [1, 3])
def test_logits_of_every_draw_are_handed_over_once(batch_size):
    model, image = _model("bayesian_vnet"), _volume((17, 16, 18), margin=4)
    logits = np.full((2, N_CLASSES, *image.shape), np.nan, np.float32)

    def keep(draw, where, values):
        assert np.isnan(logits[draw][:, *where]).all()
        logits[draw][:, *where] = values.numpy()

    # Scaling comes after what is handed over.
    scaling = Scaling((2.0, 1.0, 0.5), (0.0, 0.3, -0.3))
    _predict(model, image, 2, (4, 4, 4), batch_size, scaling=scaling, on_logits=keep)
    wanted = _plain_passes(model, image, 2)
    found = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["bayesian_vnet", "ensemble"])
def test_scaling_comes_before_the_softmax_of_every_draw(name):
    model, image = _model(name), _volume((16, 16, 16))
    bias = np.array([0.2, -0.4, 0.2])
    # A common weight: the offset that a softmax loses stays without effect.
    logs = np.log(_plain_passes(model, image, 3))
    powers = np.exp(logs * 1.5 + bias[:, None, None, None])
    draws = powers / powers.sum(1, keepdims=True)
    found = _predict(model, image, scaling=Scaling((1.5,) * 3, tuple(bias)))
    np.testing.assert_allclose(found.probabilities, draws.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.variance, draws.var(0).mean(0), atol=1e-5)


@pytest.mark.parametrize("name", ["bayesian_vnet", "ensemble", "unet"])
def test_intensities_add_the_same_to_every_draw_however_the_scan_is_cut(name):
    args = {"norm": "instance"} if name == "unet" else {}
    model, image = _model(name, **args), _volume((17, 16, 18), margin=4)
    evidence = Evidence(0.7, (0, 1, 2))
    shape = (2, N_CLASSES, *image.shape)

    def logits_of(evidence, block_shape):
        logits = np.zeros(shape, np.float32)

        def keep(draw, where, values):
            logits[draw][:, *where] = values.numpy()

        how = {"evidence": evidence, "on_logits": keep}
        return logits, _predict(model, image, 2, block_shape, **how)

    plain, _ = logits_of(None, (16, 16, 16))
    weighed, found = logits_of(evidence, (16, 16, 16))
    added = weighed - plain
    n_passes = 2 if name != "unet" else 1
    assert np.abs(added[:n_passes]).max() > 0.05
    np.testing.assert_array_equal(added[0, 0], 0)
    for draw in added[1:n_passes]:
        np.testing.assert_allclose(draw, added[0], atol=1e-5)
    # One function of the intensity, in the field around the scan as well.
    field = added[0][:, image == BACKGROUND]
    np.testing.assert_allclose(field, field[:, :1].repeat(field.shape[1], 1), atol=1e-5)
    odds = np.exp(weighed[:n_passes].astype(np.float64))
    mean = (odds / odds.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-5)
    if name != "unet":
        _assert_same(logits_of(evidence, (8, 8, 8))[1], found)


def test_prediction_leaves_model_and_image_alone():
    model = _model("bayesian_vnet").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    image = _volume((16, 15, 14))
    copy = image.copy()
    state = torch.get_rng_state()
    _predict(model, image)
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())
    assert model.training and all(p.requires_grad for p in model.parameters())
    np.testing.assert_array_equal(image, copy)
    assert torch.get_rng_state().equal(state)


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_is_near_float32():
    model = _model("bayesian_vnet")
    image = _volume((16, 16, 16))
    parts: list[TileResult] = []
    sampling = Sampling(SEED, 2, (16, 16, 16))
    predictor = Predictor(
        model, N_CLASSES, sampling, torch.device("cpu"), torch.bfloat16
    )
    predictor(image, BACKGROUND, parts.append)
    assert parts[0].probabilities.dtype == np.float32
    exact = _predict(model, image, 2, (16, 16, 16))
    assert np.abs(parts[0].probabilities - exact.probabilities).mean() < 0.01


@pytest.mark.parametrize("shape", [(20, 17, 23), (33, 40, 9), (3, 4, 5)])
def test_instance_norm_is_predicted_by_blended_windows(shape):
    model = _model("unet", norm="instance", dropout_rate=0.2)
    image = _volume(shape)
    found = _predict(model, image, 2, (16, 16, 16), batch_size=2)
    assert np.isfinite(found.probabilities).all()
    np.testing.assert_allclose(found.probabilities.sum(0), 1, rtol=0, atol=1e-5)
    assert found.counts.sum(1).tolist() == [image.size] * 2
    again = _predict(model, image, 2, (16, 16, 16), batch_size=1)
    _assert_same(again, found)


def test_one_window_of_instance_norm_is_a_plain_pass():
    model = _model("unet", norm="instance")
    image = _volume((16, 16, 16))
    found = _predict(model, image, 0, (16, 16, 16))
    with torch.no_grad():
        logits = model(torch.from_numpy(image)[None, None])
    plain = torch.softmax(logits, 1)[0].numpy()
    np.testing.assert_allclose(found.probabilities, plain, rtol=0, atol=1e-5)

"""Images made from label maps: what is drawn, and what must never change."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from nobrainer.data import axes
from nobrainer.data.axes import along_axes, centred_places, spline_weights
from nobrainer.data.mapping import read_mapping
from nobrainer.data.preprocess import zscore
from nobrainer.data.synthesis import Anatomy, draws, synthesise
from nobrainer.data.synthesis.deformation import Places, draw_places, look_up
from nobrainer.data.synthesis.draws import Draws
from nobrainer.data.synthesis.field_of_view import draw_kept
from nobrainer.data.synthesis.intensities import draw_look
from nobrainer.data.synthesis.scanner import (
    acquire,
    add_noise,
    draw_ghosts,
    draw_voxel_sizes,
    draw_wave,
)
from nobrainer.errors import InputError
from nobrainer.io import read_labels
from nobrainer.json_records import build_record, parse_json, to_json
from nobrainer.recipe import Synthesis
from nobrainer.volume import Volume, conform

MAPS = Path(__file__).parents[3] / "shared" / "data" / "labelmaps"
MM = (1.0, 1.0, 1.0)
STILL = Synthesis(
    rotation_deg=0,
    scale=0,
    shear=0,
    translation_mm=0,
    warp_mm=0,
    flip=0,
    contrasts={"T1": 1.0},
    prior_spread=0,
    texture=0,
    background=0,
    bias=0,
    blur_mm=0,
    coarse=0,
    noise=0,
    gamma=1,
    crop=0,
    strip=0,
)
CLASSES = {2: 1, 41: 2, 3: 3, 42: 4, 4: 5, 43: 5}


def head(n=24):
    """White matter in cortex in soft tissue; a ventricle on the left alone."""
    axis = torch.arange(n) - (n - 1) / 2
    i, j, k = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = (i**2 + j**2 + k**2).sqrt() / n
    left = i < 0
    labels = torch.zeros(n, n, n, dtype=torch.int64)
    labels[radius < 0.48] = 507
    labels[radius < 0.42] = 24
    labels[(radius < 0.38) & left] = 3
    labels[(radius < 0.38) & ~left] = 42
    labels[(radius < 0.28) & left] = 2
    labels[(radius < 0.28) & ~left] = 41
    labels[((i + n / 8) ** 2 + j**2 + k**2).sqrt() < n / 12] = 4
    return labels


LABELS = head()
ANATOMY = Anatomy.of(LABELS.unique().tolist(), CLASSES)
HEAD = torch.from_numpy(ANATOMY.positions(LABELS.numpy()))[None]
CLASS_OF = torch.tensor([CLASSES.get(value, 0) for value in ANATOMY.values])
TARGET = CLASS_OF[HEAD.long()]


def draw(synthesis=STILL, seeds=(0,), maps=HEAD, **options):
    return synthesise(maps, ANATOMY, synthesis, seeds, spacing_mm=MM, **options)


def test_sides_come_from_names_and_pairs():
    anatomy = Anatomy.of([2, 16, 25, 900, 902, 1001], {25: 1, 902: 2}, [(900, 901)])
    # Partners are there although no map has them, 0 although nobody listed it.
    assert anatomy.values == (0, 2, 16, 25, 41, 57, 900, 901, 902, 1001, 2001)
    assert anatomy.partners == (0, 4, 2, 5, 1, 3, 7, 6, 8, 10, 9)
    assert anatomy.groups == (0, 1, 2, 3, 1, 3, 6, 6, 8, 9, 9)
    assert anatomy.classes == (0, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0)
    assert anatomy.tissues[:4] == ("background", "white matter", "brain-stem", "lesion")
    assert anatomy.tissues[6:] == ("", "", "", "cortex", "cortex")
    assert anatomy.nameless == (902,)


def test_with_every_step_left_out_the_map_comes_back():
    found = draw()
    signal = {0: 0, 2: 0.85, 41: 0.85, 3: 0.6, 42: 0.6, 4: 0.2, 24: 0.2, 507: 0.6}
    table = torch.tensor([signal.get(value, 0.2) for value in ANATOMY.values])
    assert torch.equal(found.image[0, 0], table[HEAD[0].long()])
    assert torch.equal(found.label, TARGET)
    assert found.image.shape == (1, 1, 24, 24, 24)
    assert found.label.dtype == torch.int64


def test_flip_swaps_left_and_right_exactly():
    found = draw(replace(STILL, flip=1))
    swap = torch.tensor([0, 2, 1, 4, 3, 5])
    assert torch.equal(found.label, swap[TARGET.flip(1)])
    assert torch.equal(found.image, draw().image.flip(2))
    assert not torch.equal(found.label, TARGET)
    # A block is mirrored where it is.
    place = torch.tensor([[3, 8, 4]])
    block = draw(replace(STILL, flip=1), origins=place, block_shape=(8, 6, 10))
    assert torch.equal(block.label, swap[TARGET[:, 3:11, 8:14, 4:14].flip(1)])


def test_a_block_is_that_part_of_the_head_and_background_beyond():
    place = torch.tensor([[-2, 20, 9], [0, 0, 0]])
    found = draw(
        seeds=(0, 1), which=torch.tensor([0, 0]), origins=place, block_shape=(6, 8, 4)
    )
    wide = torch.nn.functional.pad(TARGET, (8,) * 6)
    assert torch.equal(found.label[0], wide[0, 6:12, 28:36, 17:21])
    assert torch.equal(found.label[1], TARGET[0, :6, :8, :4])
    assert not found.image[0, 0, :2].any()
    # Without a place it is drawn among those inside; the head touches no face.
    drawn = draw(
        seeds=range(20), which=torch.zeros(20).long(), block_shape=(23, 24, 24)
    )
    first = (drawn.label[:, 2] > 0).any(-1).any(-1)
    assert 4 < int(first.sum()) < 16


def test_turned_heads_keep_their_labels_and_volumes():
    moving = replace(STILL, rotation_deg=40, warp_mm=0.5, warp_length_mm=10)
    found = draw(moving, seeds=range(6), maps=HEAD.expand(6, -1, -1, -1))
    volumes = torch.stack([x.flatten().bincount(minlength=6) for x in found.label])
    assert set(found.label.unique().tolist()) == set(TARGET.unique().tolist())
    expected = TARGET.flatten().bincount(minlength=6)
    ratio = volumes[:, 1:4] / expected[1:4]
    assert ratio.min() > 0.75 and ratio.max() < 1.3
    assert not torch.equal(found.label[0], found.label[1])
    # Image and labels move together: every voxel has the signal of its class.
    white = (found.label == 1) | (found.label == 2)
    assert torch.equal(white, found.image[:, 0] == 0.85)


def test_size_and_shift_are_those_asked_for():
    def centre_and_volume(synthesis):
        found = draw(synthesis, seeds=range(40), which=torch.zeros(40).long())
        brain = (found.label > 0).float()
        axis = torch.arange(24) - 11.5
        centre = (brain.sum((2, 3)) * axis).sum(1) / brain.sum((1, 2, 3))
        return centre, brain.sum((1, 2, 3)) / (TARGET > 0).sum()

    centre, volume = centre_and_volume(replace(STILL, translation_mm=3))
    assert 2 < float(centre.abs().max()) < 3.3
    assert float(centre.std()) == pytest.approx(3 / math.sqrt(3), rel=0.3)
    centre, volume = centre_and_volume(replace(STILL, scale=0.2))
    assert float(centre.abs().max()) < 0.3
    assert 0.8**3 - 0.05 < float(volume.min()) < 0.9
    assert 1.1 < float(volume.max()) < 1.2**3 + 0.05


def test_the_deformation_can_be_undone():
    free = replace(STILL, warp_mm=6, warp_length_mm=12, rotation_deg=30, shear=0.1)
    draws = Draws(range(8), torch.device("cpu"))
    flipped = torch.zeros(8, dtype=torch.bool)
    found = draw_places(free, draws, (32, 32, 32), MM, flipped)
    places = found.all().double()
    # A few planes at a time, as maps are read, are the same ones.
    some = found.part(slice(5, 9)).all().double()
    assert torch.allclose(some, places[:, :, 5:9], atol=1e-4)
    inner = (slice(None), slice(None), slice(0, -1), slice(0, -1), slice(0, -1))
    steps = torch.stack(
        [places.diff(dim=axis)[..., :31, :31, :31] for axis in (2, 3, 4)]
    )
    assert steps.shape[1:] == places[inner].shape
    jacobian = torch.linalg.det(steps.permute(1, 3, 4, 5, 2, 0))
    assert float(jacobian.min()) > 0
    assert float(jacobian.max()) > 1.5
    assert float(jacobian.mean()) == pytest.approx(1, abs=0.15)


def test_maps_are_read_at_the_nearest_voxel_and_are_0_beyond_their_faces():
    maps = torch.arange(1, 2 * 40 * 3 * 4 + 1).view(2, 40, 3, 4)
    steps = [torch.arange(float(n)) for n in (40, 3, 4)]
    lattice = torch.stack(torch.meshgrid(*steps, indexing="ij"))[None]
    places = Places(lattice.expand(2, -1, -1, -1, -1), torch.eye(40))
    origins = torch.tensor([[0.4, -0.4, 0.0], [2.0, 0.0, -1.2]])
    found = look_up(maps, torch.tensor([1, 0]), places, origins)
    assert torch.equal(found[0], maps[1])
    assert torch.equal(found[1, :38, :, 1:], maps[0, 2:, :, :3])
    assert not found[1, 38:].any() and not found[1, :, :, 0].any()


def test_what_no_image_of_a_batch_needs_is_left_out():
    keen = replace(STILL, strip=0.5, imperfect=0.5)
    draws = Draws(range(8), torch.device("cpu"))
    look = draw_look(ANATOMY, keen, draws)
    shown = HEAD.long().expand(8, -1, -1, -1)
    bare = look._replace(is_stripped=torch.zeros(8, dtype=torch.bool))
    assert draw_kept(bare, shown, keen, draws, MM) is None
    kept = draw_kept(look, shown, keen, draws, MM)
    assert kept is not None and kept[~look.is_stripped].all()
    assert not kept[look.is_stripped].all((1, 2, 3)).any()


def test_velocities_have_the_standard_deviation_asked_for():
    splines = spline_weights(centred_places(30, 1.0, torch.device("cpu")), 11, 5.0)
    assert splines.shape == (30, 11)
    assert torch.allclose(splines.norm(dim=1), torch.ones(30))
    # The points reach past both ends, so that no place is at the border of a spline.
    assert float(splines[0, 0]) == float(splines[-1, -1]) == 0


def test_means_are_drawn_about_the_tissues_of_a_contrast():
    seeds, which = range(300), torch.zeros(300).long()
    draws = Draws(seeds, torch.device("cpu"))
    look = draw_look(
        ANATOMY, replace(STILL, contrasts={"T2": 1}, prior_spread=0.05), draws
    )
    white = ANATOMY.values.index(2)
    assert float(look.means[:, white].mean()) == pytest.approx(0.38, abs=0.01)
    assert float(look.means[:, white].std()) == pytest.approx(0.05, abs=0.007)
    assert torch.equal(look.means[:, white], look.means[:, ANATOMY.values.index(41)])
    assert not torch.equal(look.means[:, white], look.means[:, ANATOMY.values.index(3)])
    mixed = replace(STILL, contrasts={"random": 3, "T1": 1}, texture=0.1)
    look = draw_look(ANATOMY, mixed, draws)
    means = look.means[:, white]
    assert float((means - 0.85).abs().lt(1e-6).float().mean()) == pytest.approx(
        0.25, abs=0.08
    )
    rest = means[(means - 0.85).abs() > 1e-6]
    assert float(rest.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(rest.std()) == pytest.approx(1 / math.sqrt(12), abs=0.04)
    assert float(look.spreads[:, white].mean()) == pytest.approx(0.05, abs=0.01)
    assert len(which) == 300


def test_texture_has_the_drawn_spread():
    found = draw(replace(STILL, texture=0.1), seeds=[5])
    draws = Draws([5], torch.device("cpu"))
    for _ in range(2):  # Place and shift, which come first.
        draws.between(0, 1, 3)
    look = draw_look(ANATOMY, replace(STILL, texture=0.1), draws)
    for value in (2, 3):
        inside = found.image[0, 0][value == LABELS]
        spread = float(look.spreads[0, ANATOMY.values.index(value)])
        assert float(inside.std()) == pytest.approx(spread, rel=0.1)
    assert not found.image[0, 0][LABELS == 0].any()


def test_noise_is_rician():
    draws = Draws([1], torch.device("cpu"))
    for signal, noise in ((0.0, 0.2), (0.5, 0.2)):
        image = torch.full((1, 60, 60, 60), signal)
        found = add_noise(image, torch.full((1, 1, 1, 1), noise), draws)
        second = signal**2 + 2 * noise**2
        assert float(found.square().mean()) == pytest.approx(second, rel=0.01)
        if not signal:  # A Rayleigh distribution.
            mean = noise * math.sqrt(math.pi / 2)
            assert float(found.mean()) == pytest.approx(mean, rel=0.01)


def test_coarse_scans_keep_constants_and_ramps():
    coarse = replace(STILL, coarse=1, resolution_mm=4, slice_mm=6, blur_mm=0.5)
    draws = Draws(range(12), torch.device("cpu"))
    none = torch.zeros(12, 1, 1, 1)
    flat, _ = acquire(torch.full((12, 40, 40, 40), 0.7), none, coarse, draws, MM)
    assert torch.allclose(flat, torch.tensor(0.7), atol=1e-4)
    ramp = (torch.arange(40.0) / 40).expand(12, 40, 40, 40)
    found, _ = acquire(ramp, none, coarse, draws, MM)
    assert torch.allclose(found[..., 12:28], ramp[..., 12:28], atol=1e-3)
    # Details go where voxels are large.
    noise = draws.normal(40, 40, 40)
    left = acquire(noise, none, coarse, draws, MM)[0].std((1, 2, 3))
    assert left.max() < 0.95 and left.min() < 0.3


def test_slices_are_as_thick_as_drawn():
    draws = Draws(range(400), torch.device("cpu"))
    sizes = draw_voxel_sizes(
        replace(STILL, coarse=0.5, resolution_mm=3, slice_mm=7), draws, torch.tensor(MM)
    )
    grid = (sizes == 1).all(1)
    cubic = (sizes[:, 0] == sizes[:, 1]) & (sizes[:, 0] == sizes[:, 2]) & ~grid
    thick = (sizes == 1).sum(1) == 2
    assert (grid | cubic | thick).all()
    shares = [float(x.float().mean()) for x in (grid, cubic, thick)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.07)
    assert 2.9 < float(sizes[cubic].max()) <= 3
    assert 6.8 < float(sizes[thick].max()) <= 7
    assert (sizes[thick] > 1).sum(0).min() > 15


def test_a_stripped_head_has_brain_alone():
    clean = replace(STILL, strip=1, imperfect=0)
    found = draw(clean, seeds=range(12), which=torch.zeros(12).long())
    inside = (LABELS > 0) & (LABELS != 507)
    assert not found.image[:, 0][:, ~inside].any()
    assert torch.equal(found.label, TARGET.expand(12, -1, -1, -1))
    # Some lose the fluid around it, too.
    has_fluid = found.image[:, 0][:, LABELS == 24].any(1)
    assert 1 <= int(has_fluid.sum()) <= 11
    rough = draw(
        replace(clean, imperfect=1), seeds=range(4), which=torch.zeros(4).long()
    )
    kept = rough.image[:, 0] > 0
    wrong = (kept != inside).float().mean((1, 2, 3))
    assert wrong.min() > 0.001 and wrong.max() < 0.2
    # Where the image was cut away there is nothing to find.
    assert not rough.label[~kept].any()


def test_a_cut_field_of_view_loses_what_was_drawn():
    found = draw(
        replace(STILL, crop=1, crop_share=0.35, background=1),
        seeds=range(30),
        which=torch.zeros(30).long(),
    )
    seen = found.image[:, 0] > 0
    per_face = []
    for axis in range(3):
        line = seen.any(dim=1 + (axis + 1) % 3).any(dim=1 + (axis + 1) % 2)
        per_face += [line.float().argmax(1), line.flip(1).float().argmax(1)]
    lost = torch.stack(per_face)
    assert 6 <= lost.max() <= 9  # 0.35 of 23 steps is 8.05.
    assert 0.3 < float((lost == 0).float().mean()) < 0.7


def test_ghosts_and_spikes():
    draws = Draws(range(20), torch.device("cpu"))
    on = replace(STILL, ghosts=1, spikes=1)
    matrices = draw_ghosts(on, draws, (16, 18, 20))
    point = torch.zeros(20, 16, 18, 20)
    point[:, 3, 4, 5] = 1
    seen = along_axes(point, matrices)
    # The head and two copies along one axis, of which none is stronger than a quarter.
    assert ((seen > 0).sum((1, 2, 3)) == 3).all()
    copies = (seen.sum((1, 2, 3)) - 1) / 2
    assert 0.15 < float(copies.max()) <= 0.25
    wave = draw_wave(on, draws, (16, 16, 16))
    strongest = torch.fft.rfftn(wave[0]).abs().flatten().topk(8).values.square().sum()
    everything = torch.fft.rfftn(wave[0]).abs().square().sum()
    assert float(strongest / everything) > 0.5
    assert float(wave.abs().max()) <= 0.15


def test_the_seed_makes_the_image_whatever_the_batch():
    usual = replace(Synthesis(), ghosts=0.5, spikes=0.5)
    both = draw(usual, seeds=(3, 4), which=torch.tensor([0, 0]))
    again = draw(usual, seeds=(3, 4), which=torch.tensor([0, 0]))
    assert torch.equal(both.image, again.image)
    alone = draw(usual, seeds=(4,))
    assert torch.equal(both.label[1], alone.label[0])
    assert torch.allclose(both.image[1], alone.image[0], atol=1e-4)
    assert not torch.allclose(both.image[0], alone.image[0], atol=1e-2)


def test_an_image_does_not_depend_on_the_number_of_threads():
    maps = torch.from_numpy(ANATOMY.positions(head(64).numpy()))[None]
    usual, before = Synthesis(), torch.get_num_threads()
    block = (16, 16, 16)

    def make(n_threads):
        torch.set_num_threads(n_threads)
        return [
            synthesise(maps, ANATOMY, usual, [s], spacing_mm=MM, block_shape=block)
            for s in range(12)
        ]

    try:
        one, two = make(1), make(2)
    finally:
        torch.set_num_threads(before)
    # Sums that several threads share would have other last digits.
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first.label, second.label)
        assert torch.equal(first.normalised, second.normalised)


@pytest.mark.parametrize("seed", range(4))
def test_a_whole_head_is_normalised_as_a_scan_is(seed):
    free = Synthesis()
    lasting = ("contrasts", "texture", "noise", "gamma", "strip", "imperfect")
    # What is left out in the figures of the head is left out here.
    options = {name: getattr(free, name) for name in lasting} | {"imperfect": 0}
    found = draw(replace(STILL, **options), seeds=[seed])
    expected = zscore(found.image[0, 0].numpy(), clip=False)
    gap = np.abs(found.normalised[0, 0].numpy() - expected)
    # The noise of the one is not that of the other.
    assert gap.max() < 0.03 * np.abs(expected).max()


WAITS = {"item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__"}
WAITS |= {"__int__", "__index__", "masked_select", "unique", "bincount"}
MAKES = {"arange", "rand", "randn", "eye", "linspace", "zeros", "ones", "tensor"}


class Watch(TorchFunctionMode):
    """Refuses what would wait for a device or land on another one."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = function.__name__
        assert name not in WAITS, name
        if name in MAKES:
            assert (kwargs or {}).get("device") is not None, name
        if name == "__getitem__" and isinstance(args[1], torch.Tensor):
            assert args[1].dtype != torch.bool
        return function(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_or_leaves_it(monkeypatch):
    usual = replace(Synthesis(), ghosts=0.5, spikes=0.5)
    quick = draw(usual, seeds=(3, 4)).normalised
    # As on a GPU, where what a CPU leaves out is computed.
    for module in (axes, draws):
        monkeypatch.setattr(module, "answers_at_once", lambda device: False)
    with Watch():
        found = draw(usual, seeds=(3, 4)).normalised
    assert torch.allclose(found, quick, atol=1e-5)


def test_the_record_survives_json():
    record = Synthesis(pairs=((900, 901),), contrasts={"T2": 0.5, "random": 0.5})
    text = to_json(asdict(record))
    assert build_record(Synthesis, parse_json(text, "synthesis"), "synthesis") == record


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.2}, "synthesis.flip must be >= 0 and <= 1, got 1.2"),
        ({"scale": 1}, "synthesis.scale must be below 1"),
        ({"crop_share": 0.6}, "synthesis.crop_share must be below 0.5, got 0.6"),
        ({"noise": -0.1}, "synthesis.noise must be >= 0, got -0.1"),
        ({"gamma": 0.5}, "synthesis.gamma must be >= 1, got 0.5"),
        ({"slice_mm": 0}, "synthesis.slice_mm must be a number > 0"),
        ({"warp_mm": math.nan}, "synthesis.warp_mm must be >= 0, got nan"),
        ({"contrasts": {"T1w": 1}}, "unknown contrast 'T1w': did you mean 'T1'"),
        ({"contrasts": {"T1": 0}}, "one that is above 0"),
        ({"contrasts": {"T1": -1}}, "T1: -1"),
        ({"pairs": ((1, -2),)}, "synthesis.pairs"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        Synthesis(**options)


class Middle(Draws):
    """Every number is in the middle of its range, and everything happens."""

    def between(self, low, high, *shape):
        return torch.full((1, *shape), (low + high) / 2)

    def happens(self, probability, *shape):
        return torch.ones(1, *shape, dtype=torch.bool)


def test_thick_slices_are_those_that_prediction_makes_of_a_thick_scan():
    noise = np.random.default_rng(0).normal(size=(15, 60, 10)).astype(np.float32)
    thin = Volume(data=noise, affine=np.eye(4))
    thick = conform(thin, "RAS", (1, 5, 1))
    seen = conform(thick, "RAS", (1, 1, 1)).data
    # Slices between 1 and 9 mm along the second of three axes: the middle is 5 mm.
    coarse = replace(STILL, coarse=1, slice_mm=9.0)
    none = torch.zeros(1, 1, 1, 1)
    middle = Middle([0], torch.device("cpu"))
    (made,), size_mm = acquire(torch.from_numpy(noise)[None], none, coarse, middle, MM)
    assert thick.data.shape == (15, 12, 10)
    assert size_mm.tolist() == [[1, 5, 1]]
    inner = np.s_[:, 12:-12]  # At the ends one repeats what lies there, the other not.
    np.testing.assert_allclose(made.numpy()[inner], seen[inner], atol=1e-3)
    assert seen[inner].std() == pytest.approx(0.3, abs=0.1)


@pytest.mark.skipif(not MAPS.is_dir(), reason="needs the shared label maps")
def test_a_published_map_of_a_whole_head():
    volume = conform(read_labels(MAPS / "training_seg_09.nii.gz"))
    data = volume.data[::4, ::4, ::4]
    mapping, _ = read_mapping("aseg")
    anatomy = Anatomy.of(np.unique(volume.data).tolist(), mapping)
    assert all(anatomy.tissues)
    assert anatomy.nameless == ()
    maps = torch.from_numpy(anatomy.positions(data))[None]
    found = synthesise(
        maps,
        anatomy,
        Synthesis(),
        [0, 1],
        spacing_mm=(4, 4, 4),
        which=torch.tensor([0, 0]),
    )
    assert found.image.isfinite().all()
    assert set(found.label.unique().tolist()) <= set(mapping.values())

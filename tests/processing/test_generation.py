"""Generators of images, as a user fits, uses and keeps them."""

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import nobrainer as nb
from nobrainer.errors import InputError
from nobrainer.processing.generation import Generation
from nobrainer.processing.segmentation import Segmentation

TINY = {
    "latent_size": 4,
    "fmap_base": 8,
    "fmap_max": 8,
    "resolution_schedule": [4],
    "steps_per_phase": 100,
}


def stripes():
    """Images that are bright on one side, by a share that differs."""
    shares = torch.linspace(0.5, 1, 8)[:, None, None, None, None]
    image = torch.zeros(8, 1, 4, 4, 4)
    image[:, :, 2:] = 1
    return DataLoader(TensorDataset(3 + shares * image), batch_size=4)


@pytest.fixture(scope="module")
def fitted():
    return Generation("progressivegan", TINY).fit(
        stripes(), penalty=32.0, averaging=0.9, learning_rate=1e-2, verbose=False
    )


@pytest.fixture(scope="module")
def labelled(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    args = TINY | {"resolution_schedule": [4, 8], "steps_per_phase": [2, 3]}
    dataset = nb.Dataset.from_files(pairs).binarize().batch(2)
    made = Generation("progressivegan", args, folder / "checkpoints")
    return made.fit(dataset, verbose=False), dataset, folder


def test_images_resemble_those_it_learned_from(fitted):
    made = [np.asarray(image.dataobj) for image in fitted.generate(16, seed=0)]
    assert made[0].shape == (4, 4, 4)
    assert made[0].dtype == np.float32
    dark, bright = (
        np.array([x[part].mean() for x in made]) for part in ([0, 1], [2, 3])
    )
    assert dark.mean() == pytest.approx(3, abs=0.1)
    assert bright.mean() == pytest.approx(3.75, abs=0.15)
    assert min(x.min() for x in made) >= 3
    assert max(x.max() for x in made) <= 4


def test_a_seed_gives_the_same_images_however_many(fitted):
    one, (first, second) = fitted.generate(1, seed=5), fitted.generate(2, 5)
    assert np.array_equal(one[0].dataobj, first.dataobj)
    assert not np.array_equal(first.dataobj, second.dataobj)
    assert not np.array_equal(fitted.generate(1)[0].dataobj, first.dataobj)


def test_epochs_say_how_long_and_the_history_has_a_row_for_each(fitted):
    # 100 steps of 4 of 8 images.
    assert len(fitted.history_) == 50
    args = TINY | {"resolution_schedule": [4, 8], "steps_per_phase": 4}
    loader = [torch.rand(2, 1, 8, 8, 8) for _ in range(2)]
    with pytest.warns(UserWarning, match="end the training at 4 voxels a side"):
        short = Generation("progressivegan", args).fit(loader, 2, verbose=False)
    assert [row["step"] for row in short.history_] == [2, 4]
    (image,) = short.generate(1, seed=0)
    assert image.shape == (4, 4, 4)
    assert image.header.get_zooms() == (2, 2, 2)


def test_scans_with_labels_teach_images_with_labels(labelled):
    generator, dataset, folder = labelled
    pairs = generator.generate(2, seed=1, labels=True)
    for image, label in pairs:
        assert image.shape == label.shape == (8, 8, 8)
        # The balls lie in fields of view of the same size; the middle of the cube is 0.
        side = max(dataset.volume_shape)
        assert image.header.get_zooms() == pytest.approx([side / 8] * 3)
        assert np.allclose(image.affine @ [3.5, 3.5, 3.5, 1], [0, 0, 0, 1])
        assert set(np.unique(label.dataobj)) <= {0, 1}
    taught = nb.Dataset.from_files(pairs, (8, 8, 8))
    assert next(iter(taught.dataloader))["image"].shape == (2, 1, 8, 8, 8)
    shown = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert shown == ["last.safetensors", "phase-1.png", "phase-2.png"]
    assert generator.recipe_.images.n_classes == 2
    assert {file.role for file in generator.recipe_.provenance.files} == {
        "train-image",
        "train-label",
    }


def test_real_images_lie_on_the_grid_of_generated_ones(labelled):
    generator, dataset, _ = labelled
    (image, label), *rest = generator.real_images(dataset, verbose=False)
    (made,) = generator.generate(1, seed=0)
    assert len(rest) == len(dataset) - 1
    assert np.array_equal(image.affine, made.affine)
    images = generator.recipe_.images
    values = np.asarray(image.dataobj)
    assert values.min() >= images.low - 1e-5
    assert values.max() <= images.high + 1e-5
    inside = np.asarray(label.dataobj) == 1
    # A ball is brighter than what lies around it, and in the middle.
    assert values[inside].mean() > values[~inside].mean() + 1
    assert inside[3:5, 3:5, 3:5].all()


def test_what_is_saved_comes_back_and_is_told_from_a_model(labelled, tmp_path):
    generator, _, _ = labelled
    generator.state_figures({"ms_ssim_real": 0.5})
    folder = generator.save(tmp_path / "generator")
    again = Generation.load(folder)
    assert again.recipe_ == generator.recipe_
    assert again.labels_ == generator.labels_
    ours, theirs = (g.generate(1, 3, labels=True)[0] for g in (generator, again))
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.dataobj, other.dataobj)
    # The critic is not kept.
    n_kept = sum(p.numel() for p in generator.model_.generator.parameters())
    assert (folder / "weights.safetensors").stat().st_size < 4 * n_kept + 10_000
    assert "| MS-SSIM of real images | 0.5 |" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match=r"load it with Generation\.load"):
        Segmentation.load(folder)
    with pytest.raises(InputError, match="unknown figure of a generator"):
        generator.state_figures({"ms_sim_real": 0.5})


def test_label_maps_give_images_without_learning(pairs, tmp_path):
    maps = [label for _, label in pairs[:2]]
    dataset = nb.Dataset.from_label_maps(maps)
    generator = Generation("label_synthesis").fit(dataset, verbose=False)
    generator.save(tmp_path / "maps")
    again = Generation.load(tmp_path / "maps")
    (image, label), other = again.generate(2, seed=0, labels=True)
    assert image.shape == nib.load(maps[0]).shape
    assert np.array_equal(image.dataobj, generator.generate(1, seed=0)[0].dataobj)
    assert not np.array_equal(image.dataobj, other[0].dataobj)
    assert set(np.unique(label.dataobj)) == {0, 1}
    assert "It keeps their label maps." in (tmp_path / "maps/README.md").read_text()
    with pytest.raises(InputError, match=r"give Dataset\.from_label_maps"):
        Generation("label_synthesis").fit(nb.Dataset.from_files(pairs), verbose=False)


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([torch.rand(2, 1, 6, 6, 6)], r"shape \(1, 6, 6, 6\): give \(1, 4, 4, 4\)"),
        ([torch.rand(2, 2, 4, 4, 4)], r"shape \(2, 4, 4, 4\)"),
        ([torch.rand(2, 4, 4, 4)], r"must give tensors \(B, 1, R, R, R\)"),
        ([{"label": torch.zeros(1)}], "must give tensors"),
        ([torch.rand(1, 1, 4, 4, 4)], "has 1 image"),
        ([torch.ones(3, 1, 4, 4, 4)], "is constant"),
        ([torch.full((3, 1, 4, 4, 4), np.nan)], "not finite"),
        ([], "0 shapes"),
    ],
)
def test_images_that_cannot_be_used_are_refused(batches, said):
    with pytest.raises(InputError, match=said):
        Generation("progressivegan", TINY).fit(batches, verbose=False)


def test_larger_images_are_averaged_down():
    loader = [{"image": torch.rand(3, 1, 16, 16, 16)}]
    fitted = Generation("dcgan", {"resolution": 8, "n_filters": 2, "steps": 1}).fit(
        loader, verbose=False
    )
    assert fitted.generate(1, seed=0)[0].shape == (8, 8, 8)


def test_unfitted_or_unlabelled_generators_say_what_to_do(fitted):
    with pytest.raises(InputError, match="not fitted: call fit or load first"):
        Generation().generate()
    with pytest.raises(InputError, match="makes no labels"):
        fitted.generate(1, labels=True)
    with pytest.raises(InputError, match="did you mean 'fmap_max'"):
        Generation("progressivegan", {"fmap_mx": 3})


def test_samples_are_drawn_in_three_planes(labelled, fitted):
    generator, _, _ = labelled
    assert [len(generator.draw(3, seed=0).axes), len(fitted.draw(2).axes)] == [12, 6]

"""What programs for nobrainer 1 and 2 call: old names, and the pages of the book."""

import csv
import json
import math
import re
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import zarr
from scipy import ndimage
from torch.utils.data import DataLoader, TensorDataset

import nobrainer
from balls import SHAPE, write_ball
from nobrainer import models
from nobrainer.compat import OLD_NAMES
from nobrainer.errors import InputError
from nobrainer.io import nifti_to_zarr, zarr_to_nifti
from nobrainer.models import available_models, list_available_models
from nobrainer.models import get as get_model
from nobrainer.models.listing import print_models
from nobrainer.models.unet import UNet
from nobrainer.prediction import predict
from nobrainer.processing.dataset import Dataset, PatchDataset, extract_patches
from nobrainer.processing.generation import Generation
from nobrainer.processing.segmentation import Segmentation
from nobrainer.training import fit as training_fit
from nobrainer.training import get_device
from nobrainer.training.engine import default_device

BLOCK_SHAPE = (16, 16, 16)
MODEL = {"in_channels": 1, "channels": (4, 8), "strides": (2,)}
Pairs = list[tuple[str, str]]


@pytest.mark.parametrize(("old", "place"), OLD_NAMES.items())
def test_an_old_name_gives_what_stands_for_it(old: str, place: str) -> None:
    package, _, name = old.rpartition(".")
    module, _, ours = place.partition(".")
    found = getattr(import_module(package), name)
    assert found is getattr(import_module(f"{package}.{module}"), ours)
    # A name of our own needs no second one.
    assert name not in vars(import_module(package))


def test_a_package_with_old_names_still_lacks_others() -> None:
    for package in (models, nobrainer.training, nobrainer.processing):
        with pytest.raises(AttributeError, match="list_availabel_models"):
            _ = package.list_availabel_models


def test_programs_find_what_they_import() -> None:
    assert list_available_models is print_models
    assert get_device is default_device


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.h5", b"\x89HDF\r\n\x1a\n", "a model of Keras.* cannot be read: train"),
        ("model/saved_model.pb", b"", "a model of Keras"),
        ("model/model.pth", b"PK\x03\x04", "weights of PyTorch alone.*prediction"),
        ("model.pth", b"PK\x03\x04", "weights of PyTorch alone"),
    ],
)
def test_models_of_before_are_told_what_can_be_read(
    file: str, content: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    given = tmp_path / Path(file).parts[0]
    for load in (Segmentation.load, Generation.load):
        with pytest.raises(InputError, match=f"^{re.escape(str(given))}: .*{words}"):
            load(given)


# --- the pages; those that train, on scans so small that they take no time


@pytest.fixture(scope="module")
def filepaths(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    folder = tmp_path_factory.mktemp("pages")
    pairs = [write_ball(folder, number) for number in range(4)]
    return [(str(image), str(label)) for image, label in pairs]


@pytest.fixture(scope="module")
def heads(sample_csv: Path) -> Pairs:
    """The ten embedded heads, read from their table as the programs read it."""
    with sample_csv.open() as table:
        header, *rows = csv.reader(table)
    assert header == ["features", "labels"]
    return [(image, label) for image, label in rows]


def dataset(filepaths: Pairs) -> Dataset:
    made = Dataset.from_files(filepaths[:3], block_shape=BLOCK_SHAPE, n_classes=2)
    # Not in the programs, which leave the number of patches as it is.
    return made.batch(2).binarize().patches(per_volume=48)


@pytest.fixture(scope="module")
def trained(filepaths: Pairs) -> Segmentation:
    seg = Segmentation("unet", model_args=MODEL, multi_gpu=False)
    return seg.fit(dataset(filepaths), epochs=2)


def dice(found: nib.Nifti1Image, label_path: str) -> float:
    ours = np.asarray(found.dataobj) > 0
    true = np.asarray(nib.load(label_path).dataobj) > 0
    return 2 * (ours & true).sum() / (ours.sum() + true.sum())


def test_page_1_lists_models(capsys: pytest.CaptureFixture[str]) -> None:
    list_available_models()
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert set(available_models()) < set(names)
    assert "progressivegan" in names
    assert get_model("unet") is UNet
    assert get_device() == torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_page_2_counts_voxels_of_structures(heads: Pairs) -> None:
    assert len(heads) == 10
    image, labels = (nib.load(path) for path in heads[0])
    assert image.shape == labels.shape
    values = np.asarray(labels.dataobj)
    voxel_ml = math.prod(labels.header.get_zooms()) / 1000
    # Hippocampi, white matter and cortex of each side, as large as an adult's.
    for left, right, least_ml, most_ml in ((17, 53, 2, 5), (2, 41, 150, 300)):
        for value in (left, right):
            assert least_ml < (values == value).sum() * voxel_ml < most_ml
    of_all = {0, 2, 3, 4, 7, 8, 10, 11, 12, 13, 17, 18, 26, 41, 42, 43, 53, 54}
    assert of_all <= set(np.unique(values).tolist())
    assert 0.1 < (values > 0).mean() < 0.25


def test_page_3_cuts_patches(heads: Pairs) -> None:
    volume, label = (nib.load(path).get_fdata() for path in heads[0])
    asked = {"block_shape": BLOCK_SHAPE, "n_patches": 5}
    brain = extract_patches(volume, label, binarize=True, **asked)
    assert [patch.shape for pair in brain for patch in pair] == [BLOCK_SHAPE] * 10
    assert {value for _, patch in brain for value in np.unique(patch)} == {0, 1}
    hippocampi = extract_patches(volume, label, binarize={17, 53}, **asked)
    shares = [patch.mean() for _, patch in hippocampi]
    # The first patch lies anywhere, others near the hippocampi; a patch has 33 ml.
    assert shares[0] < 0.02
    assert 0 < max(shares) < 0.2
    few = Dataset.from_files(heads[:3], block_shape=BLOCK_SHAPE, n_classes=2)
    few = few.batch(2).binarize()
    assert (len(few.data), few.block_shape, few.batch_size) == (3, BLOCK_SHAPE, 2)
    assert sorted(few.volume_shape) == sorted(volume.shape)
    streamed = few.streaming(patches_per_volume=5)
    assert streamed._patches_per_volume == 5
    assert len(streamed.dataloader.dataset) == 15
    for one in (few, streamed):
        batch = next(iter(one.dataloader))
        assert batch["image"].shape == (2, 1, *BLOCK_SHAPE)
        assert batch["image"].dtype == torch.float32
        assert batch["label"].shape == (2, *BLOCK_SHAPE)
        assert batch["label"].max() == 1


@pytest.mark.filterwarnings("error::nobrainer.errors.UnusualScanWarning")
def test_page_4_segments_in_three_lines(
    filepaths: Pairs, trained: Segmentation
) -> None:
    ds = dataset(filepaths)
    assert (len(ds.data), ds.block_shape, ds.batch_size) == (3, BLOCK_SHAPE, 2)
    image, label = filepaths[3]
    prediction = trained.predict(image, block_shape=BLOCK_SHAPE)
    assert isinstance(prediction, nib.Nifti1Image)
    assert prediction.shape == SHAPE
    assert dice(prediction, label) > 0.95


def test_page_6_generates_heads(heads: Pairs) -> None:
    coarse = []
    for path, _ in heads[:5]:
        volume = nib.load(path).get_fdata().astype(np.float32)
        small = ndimage.zoom(volume, [4 / size for size in volume.shape], order=1)
        small -= small.min()
        coarse.append(small / small.max())
    loader = DataLoader(
        TensorDataset(torch.from_numpy(np.stack(coarse)[:, None])),
        batch_size=2,
        shuffle=True,
    )
    args = {"latent_size": 32, "fmap_base": 32, "fmap_max": 32}
    args |= {"resolution_schedule": [4], "steps_per_phase": 100}
    generator = Generation("progressivegan", model_args=args)
    generator.fit(loader, epochs=10)
    assert len(generator.history_) == 10
    made = [np.asarray(image.dataobj) for image in generator.generate(2)]
    assert [image.shape for image in made] == [(4, 4, 4)] * 2
    assert all(0 <= image.min() < image.max() <= 1 for image in made)


def test_page_7_trains_by_hand_and_by_fit(filepaths: Pairs) -> None:
    images, labels = [], []
    for image, label in filepaths[:3]:
        volume, truth = (nib.load(path).get_fdata() for path in (image, label))
        for patch, classes in extract_patches(
            volume, truth, block_shape=BLOCK_SHAPE, n_patches=12, binarize=True
        ):
            images.append(patch)
            labels.append(classes)
    loader = DataLoader(
        TensorDataset(
            torch.tensor(np.stack(images)[:, None], dtype=torch.float32),
            torch.tensor(np.stack(labels), dtype=torch.long),
        ),
        batch_size=2,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    network = {"in_channels": 1, "n_classes": 2, **MODEL}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        by_hand, by_fit = (get_model("unet")(**network) for _ in range(2))
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=3e-3)
    criterion = torch.nn.CrossEntropyLoss()
    for _ in range(4):
        for batch, classes in loader:
            optimizer.zero_grad()
            criterion(by_hand(batch), classes).backward()
            optimizer.step()
    history = training_fit(
        model=by_fit,
        loader=loader,
        criterion=torch.nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(by_fit.parameters(), lr=3e-3),
        max_epochs=4,
        gpus=0,
    )
    losses = [row["loss"] for row in history]
    assert len(losses) == 4 and losses[-1] < losses[0] / 2
    for model in (by_hand, by_fit):
        prediction = predict(
            inputs=filepaths[3][0], model=model, block_shape=BLOCK_SHAPE, batch_size=4
        )
        assert dice(prediction, filepaths[3][1]) > 0.9
    volume = nib.load(filepaths[3][0]).get_fdata()
    of_array = predict(inputs=volume, model=by_fit, block_shape=BLOCK_SHAPE)
    assert np.array_equal(of_array.dataobj, prediction.dataobj)


@pytest.mark.filterwarnings("error::nobrainer.errors.UnusualScanWarning")
def test_page_8_saves_and_loads(
    filepaths: Pairs, trained: Segmentation, tmp_path: Path
) -> None:
    trained.save(str(tmp_path / "my_model"))
    metadata = json.loads((tmp_path / "my_model" / "croissant.json").read_text())
    assert "unet" in json.dumps(metadata)
    loaded = Segmentation.load(str(tmp_path / "my_model"))
    assert loaded.base_model == "unet"
    assert loaded.model_args["channels"] == [4, 8]
    assert (loaded.n_classes_, loaded.block_shape_) == (2, BLOCK_SHAPE)
    before, after = (
        np.asarray(seg.predict(filepaths[3][0], block_shape=BLOCK_SHAPE).dataobj)
        for seg in (trained, loaded)
    )
    assert np.array_equal(before, after)
    dataset(filepaths).to_croissant(str(tmp_path / "dataset_croissant.json"))
    files = json.loads((tmp_path / "dataset_croissant.json").read_text())
    assert all(Path(path).name in json.dumps(files) for path in filepaths[0])


def test_page_9_goes_to_zarr_and_back(heads: Pairs, tmp_path: Path) -> None:
    groups = {}
    for kind, path in zip(("image", "label"), heads[0], strict=True):
        found = nib.load(path)
        nii, groups[kind] = (str(tmp_path / (kind + end)) for end in (".nii.gz", ".z"))
        nib.save(nib.Nifti1Image(np.asarray(found.dataobj), found.affine), nii)
        nifti_to_zarr(nii, groups[kind], chunk_shape=(64, 64, 64), levels=2)
    store = zarr.open_group(groups["image"], mode="r")
    original = nib.load(tmp_path / "image.nii.gz")
    fine, coarse = (store[level] for level in sorted(store.keys()))
    assert (fine.shape, fine.dtype) == (original.shape, original.get_data_dtype())
    assert fine.chunks == (64, 64, 64)
    assert coarse.shape == tuple(-(-size // 2) for size in original.shape)
    provenance = json.loads(json.dumps(dict(store.attrs)["nobrainer_provenance"]))
    assert provenance["source_file"] == "image.nii.gz"
    assert provenance["chunk_shape"] == [64, 64, 64]
    zarr_to_nifti(groups["image"], str(tmp_path / "again.nii.gz"), level=0)
    again = nib.load(tmp_path / "again.nii.gz")
    assert np.abs(again.get_fdata() - original.get_fdata()).max() == 0
    assert np.array_equal(again.affine, original.affine)
    patches = PatchDataset(
        data=[groups], block_shape=BLOCK_SHAPE, patches_per_volume=5, binarize=True
    )
    assert len(patches) == 5
    batch = next(iter(DataLoader(patches, batch_size=2, shuffle=True)))
    assert batch["image"].shape == (2, 1, *BLOCK_SHAPE)
    assert batch["label"].shape == (2, *BLOCK_SHAPE)
    assert set(batch["label"].unique().tolist()) <= {0, 1}


def test_page_10_trains_on_what_there_is(filepaths: Pairs) -> None:
    few = dataset(filepaths).patches(per_volume=2)
    for multi_gpu in (False, True):
        seg = Segmentation("unet", model_args=MODEL, multi_gpu=multi_gpu)
        if multi_gpu and torch.cuda.device_count() < 2:
            with pytest.warns(UserWarning, match="training on one device"):
                seg.fit(few, epochs=1)
        else:
            seg.fit(few, epochs=1)
        assert len(seg.history_) == 1

"""What programs for nobrainer 1 and 2 call: old names, and the pages of the book."""

import json
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import nobrainer
from balls import SHAPE, write_ball
from nobrainer import models
from nobrainer.compat import OLD_NAMES
from nobrainer.models import available_models, list_available_models
from nobrainer.models import get as get_model
from nobrainer.models.listing import print_models
from nobrainer.models.unet import UNet
from nobrainer.prediction import predict
from nobrainer.processing.dataset import Dataset, extract_patches
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
    for package in (models, nobrainer.training):
        with pytest.raises(AttributeError, match="list_availabel_models"):
            _ = package.list_availabel_models


def test_programs_find_what_they_import() -> None:
    assert list_available_models is print_models
    assert get_device is default_device


# --- the pages, on scans so small that they take no time


@pytest.fixture(scope="module")
def filepaths(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    folder = tmp_path_factory.mktemp("pages")
    pairs = [write_ball(folder, number) for number in range(4)]
    return [(str(image), str(label)) for image, label in pairs]


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


@pytest.mark.filterwarnings("ignore::nobrainer.errors.UnusualScanWarning")
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


@pytest.mark.filterwarnings("ignore::nobrainer.errors.UnusualScanWarning")
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

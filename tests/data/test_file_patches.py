"""Patches of files: of each its window alone is read, and it is the right one."""

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from nobrainer.errors import InputError
from nobrainer.io import nifti_to_zarr
from nobrainer.processing.dataset import PatchDataset

SHAPE = (12, 10, 14)
AFFINE = np.diag([2.0, 2, 2, 1])
BLOCK = (4, 3, 5)


def write(folder, data, name, slope=1, affine=AFFINE):
    image = nib.Nifti1Image(data, affine)
    image.header.set_slope_inter(slope, 0)
    path = folder / name
    nib.save(image, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each intensity is half of its voxel's number; hippocampi at two ends."""
    folder = tmp_path_factory.mktemp("files")
    numbers = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    labels = np.full(SHAPE, 2, np.uint8)
    labels[:3], labels[-3:], labels[5] = 17, 53, 0
    image = write(folder, numbers, "a.nii.gz", slope=0.5)
    label = write(folder, labels, "a_dseg.nii.gz")
    return folder, image, label, numbers, labels


@pytest.fixture(scope="module")
def groups(files):
    folder, image, label, *_ = files
    return {
        "image": nifti_to_zarr(image, folder / "a.zarr", (4, 4, 4), levels=2),
        "label": nifti_to_zarr(label, folder / "l.zarr", (4, 4, 4), levels=2),
    }


@pytest.mark.parametrize("kind", ["zarr", "nii.gz"])
def test_a_patch_is_a_window_of_image_and_label(files, groups, kind):
    _, image, label, numbers, labels = files
    entry = groups if kind == "zarr" else {"image": str(image), "label": str(label)}
    dataset = PatchDataset([entry], BLOCK, 40)
    assert len(dataset) == 40
    origins = set()
    for item in dataset:
        first = round(item["image"].min().item() / 0.5)
        origin = np.unravel_index(first, SHAPE)
        place = tuple(slice(a, a + n) for a, n in zip(origin, BLOCK, strict=True))
        assert np.array_equal(item["image"][0], numbers[place] * 0.5)
        assert np.array_equal(item["label"], labels[place])
        assert item["image"].dtype == torch.float32
        assert item["label"].dtype == torch.int64
        origins.add(first)
    assert len(origins) > 30


def test_binarize_takes_what_it_names(groups):
    def shares(binarize):
        items = PatchDataset([groups], SHAPE, 1, binarize=binarize)
        return items[0]["label"].float().mean().item()

    assert shares(True) == pytest.approx(11 / 12)
    assert shares({17, 53}) == pytest.approx(6 / 12)
    assert shares([17]) == pytest.approx(3 / 12)
    assert shares(lambda labels: labels == 53) == pytest.approx(3 / 12)
    assert shares(False) == pytest.approx((3 * 17 + 3 * 53 + 5 * 2) / 12)


def test_batches_of_scans_in_turn_and_of_an_epoch(files, groups):
    _, image, label, *_ = files
    entries = [groups, {"image": image, "label": label}]
    dataset = PatchDataset(entries, BLOCK, 3, binarize=True, seed=5)

    def epoch(number):
        dataset.set_epoch(number)
        return list(DataLoader(dataset, batch_size=4))

    batches = epoch(0)
    assert [len(batch["label"]) for batch in batches] == [4, 2]
    assert batches[0]["image"].shape == (4, 1, *BLOCK)
    assert batches[0]["source"] == [str(groups["image"]), str(image)] * 2
    assert torch.equal(batches[1]["image"], epoch(0)[1]["image"])
    assert not torch.equal(batches[1]["image"], epoch(1)[1]["image"])


def test_only_the_chunks_of_the_patch_are_read(files, tmp_path):
    """All chunks but the first one are damaged, and a read of them would fail."""
    _, image, label, *_ = files
    groups = {
        "image": nifti_to_zarr(image, tmp_path / "a.zarr", (6, 10, 14)),
        "label": nifti_to_zarr(label, tmp_path / "l.zarr", (6, 10, 14)),
    }
    for group in groups.values():
        file = group / "0/c/0/0/0"
        content = bytearray(file.read_bytes())
        index = np.frombuffer(bytes(content[-36:-4]), "<u8").reshape(2, 2)
        content[int(index[1, 0]) + 20] ^= 255
        file.write_bytes(content)
    dataset = PatchDataset([groups], BLOCK, 30)
    read = damaged = 0
    for index in range(30):
        try:
            item = dataset[index]
        except InputError as error:
            assert "its voxels are damaged" in str(error)
            damaged += 1
        else:
            assert item["image"].max() < 0.5 * np.prod(SHAPE) / 2
            read += 1
    # Of the 9 places along the first axis, 3 lie in the first chunk alone: about 10.
    assert (read, damaged) == (9, 21)


def test_a_small_scan_is_filled_up(groups):
    item = PatchDataset([groups], (12, 10, 16), 1)[0]
    assert (item["label"] == 0).sum() == 140 + 2 * 120
    assert (item["image"] == 0).sum() == 1 + 2 * 120


def test_what_is_no_pair(files, groups, tmp_path):
    _, image, label, _, labels = files
    moved = write(tmp_path, labels, "moved.nii", affine=AFFINE + np.eye(4, k=3))
    thirds = write(tmp_path, labels / np.float32(3), "thirds.nii")
    holes = write(tmp_path, np.full(SHAPE, np.nan, np.float32), "holes.nii")
    for entry, problem in (
        ({"image": image}, "give dicts with image and label"),
        ((image, label), "give dicts with image and label"),
        ({"image": image, "label": moved}, "lies on another grid than"),
        ({"image": "no.nii", "label": label}, "no such file"),
        ({"image": image, "label": image.parent}, "is no Zarr group"),
    ):
        with pytest.raises(InputError, match=problem):
            PatchDataset([entry], BLOCK)
    with pytest.raises(InputError, match="no scans"):
        PatchDataset([], BLOCK)
    with pytest.raises(InputError, match="binarize"):
        PatchDataset([groups], BLOCK, binarize="17")
    with pytest.raises(InputError, match="labels must be whole numbers"):
        PatchDataset([{"image": image, "label": thirds}], SHAPE)[0]
    with pytest.raises(InputError, match="holds NaN"):
        PatchDataset([{"image": holes, "label": label}], SHAPE)[0]

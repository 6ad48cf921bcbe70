"""Scans are written into a store once, whole or not at all; patches come from it."""

import os
import signal

import nibabel as nib
import numpy as np
import pytest
import torch

from nobrainer.data.convert import to_int16
from nobrainer.data.zarr_store.table import read_rows
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from scans import BLOCK, IDS, SHAPE, batches, write_scan


@pytest.fixture(scope="module")
def store(pairs, tmp_path_factory):
    """A store of the three scans; tests leave it as it is."""
    path = tmp_path_factory.mktemp("stores") / "heads.zarr"
    return Dataset.from_files(pairs).to_zarr(path)


def voxel_files(store):
    """The bytes of every file that holds voxels, by its path in the store."""
    files = [*store.glob("images/c/**/*"), *store.glob("labels/values/0/c/**/*")]
    return {
        file.relative_to(store): file.read_bytes() for file in files if file.is_file()
    }


def rows_of(store):
    return {row.scan: row for row in read_rows(store / "scans.tsv")}


@pytest.mark.parametrize(
    "targets",
    [
        lambda d: d.binarize(),
        lambda d: d.binarize({3, 41}),
        lambda d: d.binarize(lambda values: values > 40),
        lambda d: d.relabel({2: 1, 3: 1, 17: 2, 41: 3, 9999: 0}),
        lambda d: d.relabel({2: 1, 41: 2, 3: 0, 17: 0, 9999: 0}).augment("strong"),
    ],
)
def test_patches_are_those_of_the_files(pairs, store, targets):
    def ready(dataset):
        return targets(dataset).patches(per_volume=6).batch(2).shuffle()

    of_files = ready(Dataset.from_files(pairs, BLOCK)).loader(seed=3)
    dataset = ready(Dataset.from_zarr(store, block_shape=BLOCK))
    of_store = dataset.loader(seed=3)
    slope = max(row.slope for row in rows_of(store).values())
    for one, other in zip(batches(of_store, 1), batches(of_files, 1), strict=True):
        assert torch.equal(one["label"], other["label"])
        # Half a step of the integers, which augmentation may enlarge.
        most = 0.51 if dataset.config.augment == "none" else 4
        assert (one["image"] - other["image"]).abs().max() < most * slope
        assert one["image"].std() > 0.1


def test_patches_do_not_depend_on_workers(store):
    dataset = Dataset.from_zarr(store, block_shape=BLOCK).binarize()
    dataset = dataset.patches(per_volume=2)
    for one, other in zip(dataset.loader(), dataset.loader(num_workers=1), strict=True):
        assert torch.equal(one["image"], other["image"])


def test_scans_of_different_grids_lie_in_one_array(tmp_path):
    pairs = [
        write_scan(tmp_path, "sub-1"),
        write_scan(tmp_path, "sub-2", spacing=2.0),
    ]
    dataset = Dataset.from_files(pairs, BLOCK).spacing((1, 1, 2))
    store = dataset.to_zarr(tmp_path / "s.zarr")
    classes = {value: number for number, value in enumerate(IDS)}
    found = Dataset.from_zarr(store, block_shape=BLOCK).relabel(classes)
    same = [*dataset.relabel(classes).iterate()]
    shapes = [scan.image.shape for scan in same]
    assert shapes == [(18, 16, 10), (36, 32, 20)]
    assert found.volume_shape == (18, 16, 10)
    rows = rows_of(store).values()
    for one, other, row in zip(found.iterate(), same, rows, strict=True):
        assert np.array_equal(one.label, other.label)
        assert np.abs(one.image - other.image).max() <= 0.51 * row.slope
        assert np.array_equal(one.affine, other.affine)
        assert one.voxel_mm == other.voxel_mm
        assert one.background == pytest.approx(other.background, abs=row.slope)
        assert one.floor == one.image.min()
        assert one.spread == pytest.approx(other.spread, rel=1e-4)


def test_the_table_tells_people_sessions_splits_and_files(tmp_path):
    entries = []
    for number, split in ((1, "train"), (2, "train"), (3, "test")):
        folder = tmp_path / f"sub-{number}" / "ses-b"
        image, label = write_scan(folder, f"sub-{number}_ses-b")
        entries.append({"image": image, "label": label, "split": split})
    entries[1] |= {"subject": "Ann", "session": "later"}
    store = Dataset.from_files(entries).to_zarr(tmp_path / "s.zarr")
    rows = [*rows_of(store).values()]
    assert [row.subject for row in rows] == ["sub-1", "Ann", "sub-3"]
    assert [row.session for row in rows] == ["ses-b", "later", "ses-b"]
    assert rows[0].image.name == "sub-1/ses-b/sub-1_ses-b_T1w.nii.gz"
    assert rows[0].label_values == IDS
    # Six stripes, each 3 x 8 x 20 voxels, of which the first has the value 0.
    assert rows[0].label_voxels == (np.prod(SHAPE) - 5 * 480, *[480] * 5)
    assert Dataset.from_zarr(store, "train").subjects == ["sub-1", "Ann"]
    assert Dataset.from_zarr(store, "test").subjects == ["sub-3"]
    with pytest.raises(InputError, match="'val': its splits are test, train"):
        Dataset.from_zarr(store, "val")
    entries[1]["subject"] = "sub-3"
    with pytest.raises(InputError, match="sub-3: has scans in the splits train and te"):
        Dataset.from_files(entries).to_zarr(tmp_path / "other.zarr")


def test_the_same_scans_give_the_same_bytes(pairs, store, tmp_path):
    """Whatever the number of processes."""
    again = Dataset.from_files(pairs).to_zarr(tmp_path / "s.zarr", workers=2)
    assert voxel_files(again) == voxel_files(store)
    assert len(voxel_files(store)) == 6


def test_a_killed_conversion_goes_on_where_it_stopped(pairs, store, tmp_path):
    path = tmp_path / "s.zarr"
    dataset = Dataset.from_files(pairs)
    child = os.fork()
    if child == 0:
        dataset.to_zarr(
            path, progress=lambda n, _: os.kill(os.getpid(), signal.SIGKILL)
        )
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with pytest.raises(InputError, match="is not finished: convert the same scans"):
        Dataset.from_zarr(path)
    first = next(path.glob("images/c/0/0/0/0"))
    written = first.stat().st_mtime_ns
    # What a killed process leaves of the scan that it was at: voxels without a row.
    (path / "images/c/1/0/0").mkdir(parents=True)
    (path / "images/c/1/0/0/0").write_bytes(b"half")
    done = []
    dataset.to_zarr(path, progress=lambda *state: done.append(state))
    assert done == [(2, 3), (3, 3)]
    assert first.stat().st_mtime_ns == written
    assert voxel_files(path) == voxel_files(store)
    assert not (path / "rows").exists()


def test_scans_that_come_later_are_added(pairs, tmp_path):
    path = tmp_path / "s.zarr"
    Dataset.from_files(pairs[:1]).to_zarr(path)
    first = voxel_files(path)
    done = []
    Dataset.from_files(pairs).to_zarr(path, progress=lambda *s: done.append(s))
    assert done == [(2, 3), (3, 3)]
    assert first.items() < voxel_files(path).items()
    assert [row.index for row in rows_of(path).values()] == [0, 1, 2]
    # Nothing is left to do; a table that says more is heard nevertheless.
    Dataset.from_files(pairs[2:]).to_zarr(path, progress=lambda *s: done.append(s))
    assert len(done) == 2 and len(rows_of(path)) == 3
    image, label = pairs[2]
    entry = {"image": image, "label": label, "split": "test"}
    Dataset.from_files([entry]).to_zarr(path)
    assert [row.split for row in rows_of(path).values()] == [None, None, "test"]


def test_a_bad_scan_does_not_stop_the_others(pairs, tmp_path):
    bad, label = write_scan(tmp_path, "sub-9")
    bad.write_bytes(bad.read_bytes()[:-9])
    path = tmp_path / "s.zarr"
    with pytest.raises(InputError) as error:
        Dataset.from_files([pairs[0], (bad, label), pairs[1]]).to_zarr(path)
    first, last = str(error.value).splitlines()
    assert first.startswith(f"{bad}: ")
    assert last.startswith(f"{path}: has 2 of 3 scans and is not finished: correct")
    with pytest.raises(InputError, match="is not finished"):
        Dataset.from_zarr(path)
    Dataset.from_files(pairs[:2]).to_zarr(path)
    assert len(Dataset.from_zarr(path)) == 2


def test_what_cannot_be_stored_is_refused(pairs, store, tmp_path):
    dataset = Dataset.from_files(pairs)
    with pytest.raises(InputError, match="leave out relabel and binarize"):
        dataset.binarize().to_zarr(tmp_path / "s.zarr")
    with pytest.raises(InputError, match="has no labels: give them"):
        Dataset.from_files([pairs[0][0]]).to_zarr(tmp_path / "s.zarr")
    memory = (np.arange(512.0).reshape(8, 8, 8), np.eye(4))
    with pytest.raises(InputError, match="is not a file"):
        Dataset.from_files([(memory, memory)]).to_zarr(tmp_path / "s.zarr")
    with pytest.raises(InputError, match="no label maps alone"):
        Dataset.from_label_maps([pairs[0][1]]).to_zarr(tmp_path / "s.zarr")
    with pytest.raises(InputError, match=r"heads\.zarr: is a store: give the files"):
        Dataset.from_zarr(store).to_zarr(tmp_path / "s.zarr")
    with pytest.raises(InputError, match="is not a folder: create it first"):
        dataset.to_zarr(tmp_path / "missing" / "s.zarr")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(InputError, match="full: is no store"):
        dataset.to_zarr(tmp_path / "full")
    assert not (tmp_path / "s.zarr").exists()


def test_a_store_keeps_its_preprocessing(pairs, store, tmp_path):
    dataset = Dataset.from_zarr(store).binarize()
    with pytest.raises(InputError, match="normalize zscore, not minmax"):
        dataset.normalize("minmax").prepare()
    with pytest.raises(InputError, match=r"spacing_mm \(1.0, 1.0, 1.0\), not \(2.0, "):
        Dataset.from_files(pairs).spacing((2, 2, 2)).to_zarr(store)
    coarse = write_scan(tmp_path, "sub-9", spacing=0.5)
    path = Dataset.from_files(pairs[:1]).to_zarr(tmp_path / "s.zarr")
    # The median of its own voxels would be another: the store's counts.
    Dataset.from_files([coarse]).to_zarr(path)
    assert rows_of(path)["sub-9_T1w"].shape == (9, 8, 10)
    large = write_scan(tmp_path, "sub-8", spacing=3.0)
    with pytest.raises(InputError, match=r"has 54 x 48 x 60 voxels .* 18 x 16 x 20: "):
        Dataset.from_files([large]).to_zarr(path)


def test_a_name_stands_for_one_scan(pairs, tmp_path):
    path = Dataset.from_files(pairs[:1]).to_zarr(tmp_path / "s.zarr")
    other = write_scan(tmp_path / "elsewhere", "sub-0", offset=9)
    with pytest.raises(InputError, match="has a scan of its name, sub-0_T1w, from oth"):
        Dataset.from_files([other]).to_zarr(path)
    assert len(Dataset.from_zarr(path)) == 1


def test_rounding_is_half_a_step_and_never_too_coarse(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (9, 9, 9)).astype(np.float32)
    codes, slope, intercept = to_int16(image)
    assert (codes.min(), codes.max()) == (-(2**15), 2**15 - 1)
    assert slope == pytest.approx(np.ptp(image) / 65535)
    found = codes.astype(np.float32) * slope + intercept
    assert np.abs(found - image).max() <= 0.501 * slope
    image_file, label = write_scan(tmp_path, "sub-1")
    volume = nib.load(image_file)
    data = volume.get_fdata()
    data[0, 0, 0] = 1e8
    nib.save(nib.Nifti1Image(data.astype(np.float32), volume.affine), image_file)
    dataset = Dataset.from_files([(image_file, label)])
    with pytest.raises(InputError, match="16-bit integers would round them by 1"):
        dataset.normalize("none").to_zarr(tmp_path / "none.zarr")
    # Clipped as in training, the outlier is gone.
    store = dataset.to_zarr(tmp_path / "s.zarr")
    assert rows_of(store)["sub-1_T1w"].rounding < 1e-4


def test_a_store_that_cannot_be_written_says_so(pairs, tmp_path, monkeypatch):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(InputError, match=r"s.zarr: cannot be made"):
        Dataset.from_files(pairs).to_zarr(folder / "s.zarr")

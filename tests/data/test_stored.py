"""The voxels at which patches of a stored scan are centred, read label by label."""

import nibabel as nib
import numpy as np

from nobrainer.processing.dataset import Dataset


def test_label_values_of_a_class_count_by_their_voxels(tmp_path):
    labels = np.zeros((30, 40, 50), np.int16)
    labels[:10] = 7  # 20000 voxels, of which 5000 are listed
    labels[20, :10] = 900  # 500 voxels, all of them listed
    image = np.random.default_rng(0).normal(0, 1, labels.shape).astype(np.float32)
    pair = tmp_path / "sub-1_T1w.nii", tmp_path / "sub-1_dseg.nii"
    for data, path in zip((image, labels), pair, strict=True):
        nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    store = Dataset.from_files([pair]).to_zarr(tmp_path / "s.zarr")
    found = Dataset.from_zarr(store)

    [one] = found.binarize().prepare()
    [members] = one.list_centres(np.random.default_rng(0)).voxels
    values = labels.ravel()[members]
    # 5000 voxels of 20500, each as likely as any other: 20000 and 500 of 4.1.
    assert [np.count_nonzero(values == value) for value in (7, 900)] == [4878, 122]
    assert len(np.unique(members)) == 5000

    [one] = found.relabel({7: 2, 900: 1}).prepare()
    centres = one.list_centres(np.random.default_rng(0))
    assert [len(members) for members in centres.voxels] == [500, 5000]
    assert np.allclose(centres.shares, [500 / 20500, 20000 / 20500])
    assert (labels.ravel()[centres.voxels[0]] == 900).all()
    assert one.count_voxels(3).tolist() == [60000 - 20500, 500, 20000]
    again = one.list_centres(np.random.default_rng(0))
    assert np.array_equal(again.voxels[1], centres.voxels[1])

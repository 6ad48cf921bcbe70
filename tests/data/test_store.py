"""Scans are prepared once, and kept in memory and on disk."""

import numpy as np
import torch

from nobrainer.recipe import PreprocessConfig
from scans import SHAPE, images


def test_volumes_are_read_once(dataset):
    done = []
    first = dataset.prepare(progress=lambda *state: done.append(state))
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert dataset.prepare() is first
    assert dataset.loader().dataset.volumes[0] is first[0]
    assert dataset.prepare(PreprocessConfig(normalize="none")) is not first


def test_beyond_the_budget_volumes_are_mapped_from_disk(dataset, tmp_path):
    expected = images(dataset.loader())
    voxels = np.prod(SHAPE)
    # Room for the first scan: 4 bytes of image and 1 of label per voxel.
    small = dataset.cache(memory_gb=5 * voxels / 1e9, directory=tmp_path)
    kept = small.prepare()
    assert [isinstance(p.image, np.memmap) for p in kept] == [False, True, True]
    assert len(list(tmp_path.rglob("*.npy"))) == 4
    assert torch.equal(images(small.loader()), expected)
    assert torch.equal(images(small.loader(num_workers=1)), expected)
    del small
    assert list(tmp_path.iterdir()) == []

"""Batches of small patches are cut several at once, and are the same ones."""

import torch
from torch.utils.data import Dataset

from nobrainer.data.loading import PatchLoader


class Counted(Dataset):
    """Patches that hold their number; it counts how many were cut."""

    def __init__(self, side):
        self.side, self.n_cut = side, 0

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.n_cut += 1
        return {"image": torch.full((1, *(self.side,) * 3), float(index))}


def how_many_were_cut(side, **options):
    """How many patches were cut when each batch of two came; they must be in order."""
    patches = Counted(side)
    cut = []
    for number, batch in enumerate(PatchLoader(patches, batch_size=2, **options)):
        assert batch["image"][:, 0, 0, 0, 0].tolist() == [2 * number, 2 * number + 1]
        cut.append(patches.n_cut)
    assert len(cut) == 20
    return cut


def test_small_patches_are_cut_several_batches_at_once():
    # The first one comes at once; then 2**19 voxels at a time, or what is left.
    assert how_many_were_cut(32) == [2, *[18] * 8, *[34] * 8, *[40] * 3]


def test_large_patches_are_cut_one_batch_after_the_other():
    assert how_many_were_cut(66) == [*range(2, 42, 2)]


def test_other_processes_cut_when_they_can():
    # What they count does not come back here.
    assert how_many_were_cut(4, num_workers=1) == [0] * 20


def test_an_epoch_of_nothing_is_empty():
    assert [*PatchLoader([], batch_size=2)] == []

"""Checkpoint files: what they hold, and which are refused."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from balls import ball
from nobrainer.errors import InputError
from nobrainer.processing.segmentation import Segmentation
from nobrainer.recipe import FORMAT_VERSION
from nobrainer.training.checkpoint import LAST
from trainings import fit, same_weights


def test_checkpoint_is_tensors_and_json_alone(train, tmp_path):
    fit(train, folder=tmp_path)
    raw = (tmp_path / LAST).read_bytes()
    n_header = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n_header])
    assert set(header.pop("__metadata__")) > {"recipe", "history", "labels"}
    spans = sorted(entry["data_offsets"] for entry in header.values())
    # The tensors fill the rest without a gap: there is no room for a pickle.
    assert spans[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert spans[-1][1] == len(raw) - 8 - n_header


def test_checkpoint_loads_as_a_model(train, tmp_path):
    fitted = fit(train, folder=tmp_path, model="bayesian_vnet", epochs=2)
    loaded = Segmentation.load(tmp_path / LAST)
    assert same_weights(loaded, fitted)
    assert loaded.history_ == fitted.history_
    assert loaded.labels_ == fitted.labels_
    assert loaded.recipe_.training == fitted.recipe_.training
    scan = ball(9)[0], np.eye(4)
    for ours, theirs in zip(
        fitted.predict(scan, n_samples=2, seed=1),
        loaded.predict(scan, n_samples=2, seed=1),
        strict=True,
    ):
        assert np.array_equal(ours.dataobj, theirs.dataobj)
    # It can be saved as a bundle, which then says the same.
    again = Segmentation.load(loaded.save(tmp_path / "bundle"))
    assert same_weights(again, fitted)


def test_no_checkpoints_unless_asked(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(train)
    assert list(tmp_path.iterdir()) == []
    fit(train, folder="here")
    assert [path.name for path in (tmp_path / "here").iterdir()] == [LAST]


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.5, 0.999])
def test_truncated_checkpoint_is_refused(train, tmp_path, share):
    fit(train, folder=tmp_path)
    path = tmp_path / LAST
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError, match=rf"{LAST}: cannot read the checkpoint"):
        Segmentation.load(path)
    with pytest.raises(InputError, match=rf"{LAST}: cannot read the checkpoint"):
        fit(train, folder=tmp_path, resume=True)


def test_files_that_are_no_checkpoint_are_refused(train, tmp_path):
    bundle = fit(train).save(tmp_path / "bundle")
    with pytest.raises(InputError, match=r"weights\.safetensors: is not a checkpoint"):
        Segmentation.load(bundle / "weights.safetensors")
    pickled = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(2)}, pickled)
    with pytest.raises(InputError, match=r"model\.pt: holds weights of PyTorch"):
        Segmentation.load(pickled)
    with pytest.raises(InputError, match=r"nothing\.safetensors"):
        Segmentation.load(tmp_path / "nothing.safetensors")


def test_checkpoint_of_the_future_is_refused(train, tmp_path):
    fit(train, folder=tmp_path)
    path = tmp_path / LAST
    raw = path.read_bytes()
    now, future = (
        rf"\"format_version\": {n}".encode()
        for n in (FORMAT_VERSION, FORMAT_VERSION + 1)
    )
    assert raw.count(now) == 1
    path.write_bytes(raw.replace(now, future))
    with pytest.raises(InputError, match=rf"{LAST}: .*format version .*upgrade"):
        Segmentation.load(path)


def test_changed_checkpoint_is_refused(train, tmp_path):
    fit(train, folder=tmp_path)
    path = tmp_path / LAST
    raw = bytearray(path.read_bytes())
    for place in (len(raw) - 1, len(raw) - 400, raw.index(b"history") + 30):
        changed = raw.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InputError, match=LAST):
            Segmentation.load(path)

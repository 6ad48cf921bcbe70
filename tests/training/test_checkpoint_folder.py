"""The folder of the checkpoints: what survives a failure."""

import errno
import resource
import tempfile
from pathlib import Path

import pytest

from nobrainer.errors import InputError
from nobrainer.processing.segmentation import Segmentation
from nobrainer.training import loop
from nobrainer.training.checkpoint import LAST
from trainings import FailsAt, fit


def test_earlier_checkpoints_are_not_replaced(train, tmp_path):
    fit(train, folder=tmp_path)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(InputError, match=r"earlier training: go on with resume=True"):
        fit(train, folder=tmp_path)
    assert (tmp_path / LAST).read_bytes() == before


def test_a_full_disk_keeps_the_old_checkpoint_and_the_training(train, tmp_path):
    fit(train, folder=tmp_path, epochs=1)
    before = (tmp_path / LAST).read_bytes()
    whole = fit(train, epochs=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.warns(UserWarning, match=rf"{LAST}: cannot write the checkpoint"):
            resumed = fit(train, folder=tmp_path, epochs=2, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    assert (tmp_path / LAST).read_bytes() == before
    assert len(resumed.history_) == len(whole.history_) == 2


def test_a_folder_that_takes_no_checkpoint_is_refused_before_training(
    train, tmp_path, monkeypatch
):
    def fail(_self, _data):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", fail)
    loss = FailsAt()
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system"):
        fit(train, folder=tmp_path, loss=loss)
    assert loss.calls == 0


def test_what_killed_trainings_leave_is_cleared(train, tmp_path):
    (tmp_path / f".{LAST}.999999").write_text("half a checkpoint")
    fit(train, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_an_interrupted_training_keeps_its_weights_where_there_is_room(
    train, tmp_path, monkeypatch
):
    class Interrupts(FailsAt):
        def __call__(self, logits, label):
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().__call__(logits, label)

    write = loop.write_checkpoint

    def write_elsewhere(checkpoint, path):
        if path.parent.name in full:
            raise InputError(f"{path}: no space")
        write(checkpoint, path)

    monkeypatch.setattr(loop, "write_checkpoint", write_elsewhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, full = tmp_path / "checkpoints", {"checkpoints"}
    with pytest.raises(KeyboardInterrupt, match="the weights so far are in") as caught:
        fit(train, folder=folder, loss=Interrupts())
    (kept,) = tmp_path.glob("nobrainer-*/interrupted.safetensors")
    assert str(caught.value).endswith(f"are in {kept}")
    assert Segmentation.load(kept).recipe_.model.name == "vnet"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(KeyboardInterrupt, match="weights so far are lost"):
        fit(train, folder=folder, loss=Interrupts())


def test_unusable_checkpoint_folder_is_refused_before_training(train, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        loss = FailsAt()
        with pytest.raises(InputError, match=r"file.*: cannot be a folder"):
            fit(train, folder=folder, loss=loss)
        assert loss.calls == 0

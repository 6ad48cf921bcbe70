"""Where the shell writes: places that cannot be written, or are full."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

import nobrainer as nb
from commands import nobrainer_
from nobrainer.cli.outputs import save_model
from nobrainer.errors import InputError


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    for command in (
        ("train", "--data", "missing.csv", "--output-dir"),
        ("calibrate", "--data", "missing.csv", "--model", model, "--output-dir"),
        ("demo", "--output-dir"),
    ):
        result = nobrainer_(*command, scans / "scans.csv" / "below")
        assert result.exit_code == 2
        assert "missing.csv" not in result.stderr
        assert "Not a directory" in result.stderr and result.stderr.count("\n") == 1


def test_a_model_is_kept_elsewhere_when_its_place_is_full(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = nb.bundle.place._write

    def write_elsewhere(path: Path, data: bytes) -> None:
        if path.is_relative_to(tmp_path / "full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(nb.bundle.place, "_write", write_elsewhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trained = nb.Segmentation.load(model)
    with pytest.raises(InputError, match="No space left on device") as caught:
        save_model(trained, tmp_path / "full" / "model", overwrite=False)
    kept = str(caught.value).splitlines()[1].partition(": the model is kept here")[0]
    again = nb.Segmentation.load(kept)
    for name, tensor in trained.model_.state_dict().items():
        assert tensor.equal(again.model_.state_dict()[name])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    with pytest.raises(InputError, match=r"No space left on device[^\n]*$"):
        save_model(trained, tmp_path / "full" / "model", overwrite=False)

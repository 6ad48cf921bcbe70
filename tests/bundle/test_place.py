import itertools
import os
import resource
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bundles import ALL_NAMES, assert_same, contents
from nobrainer.bundle import check_place, load, place, save
from nobrainer.errors import InputError


@contextmanager
def _files_limited_to(size):
    """No file of this process may grow beyond `size` bytes: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_empty_directory_is_used_and_missing_parents_are_made(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_same(load(save(bundle, tmp_path / "empty")), bundle)
    assert_same(load(save(bundle, tmp_path / "a" / "b")), bundle)


def test_the_current_directory_and_links_are_used(bundle, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    assert_same(load(save(bundle, tmp_path / "link")), bundle)
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    save(bundle, ".")
    assert_same(load(tmp_path / "there"), bundle)


def test_permissions_follow_the_umask(bundle, tmp_path):
    umask = os.umask(0o022)
    try:
        folder = save(bundle, tmp_path / "model")
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "recipe.json").stat().st_mode & 0o777 == 0o644


def test_a_model_is_replaced_only_on_request(bundle, saved, tmp_path):
    before = contents(saved)
    newer = replace(bundle, history=bundle.history[:1])
    with pytest.raises(InputError, match=r"model: a model is already there"):
        save(newer, saved)
    assert contents(saved) == before
    save(newer, saved, overwrite=True)
    assert_same(load(saved), newer)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "foreign",
    [
        ("thesis.txt",),
        ("weights.safetensors",),
        ("recipe.json",),
        ("recipe.json", "README.md"),
        ("recipe.json", "SHA256SUMS", "weights.safetensors"),
        (*ALL_NAMES, "notes.md"),
    ],
)
def test_a_foreign_directory_is_never_touched(bundle, tmp_path, foreign, overwrite):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in foreign:
        (folder / name).write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="mine: holds files that are not a model's"):
        save(bundle, folder, overwrite=overwrite)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_is_kept(bundle, tmp_path, overwrite):
    (tmp_path / "model").write_text("precious")
    with pytest.raises(InputError, match="model: is a file"):
        save(bundle, tmp_path / "model", overwrite=overwrite)
    with pytest.raises(InputError, match="cannot be written"):
        save(bundle, tmp_path / "model" / "below", overwrite=overwrite)
    assert contents(tmp_path) == {Path("model"): b"precious"}


def test_a_full_disk_leaves_nothing_behind(bundle, tmp_path):
    with _files_limited_to(500), pytest.raises(InputError, match="model: the model"):
        save(bundle, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_place_is_tried_before_there_is_a_model_for_it(saved, tmp_path):
    check_place(tmp_path / "a" / "model", overwrite=False)
    check_place(saved, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(InputError, match="a model is already there"):
        check_place(saved, overwrite=False)
    with pytest.raises(InputError, match=r"recipe\.json/model: cannot be written"):
        check_place(saved / "recipe.json" / "model", overwrite=False)
    # The name beside it, for the time of saving, is longer.
    with pytest.raises(InputError, match="File name too long"):
        check_place(tmp_path / ("m" * 253), overwrite=False)


def test_a_full_disk_leaves_the_old_model(bundle, saved, tmp_path):
    before = contents(tmp_path)
    with _files_limited_to(500), pytest.raises(InputError, match="cannot be written"):
        save(bundle, saved, overwrite=True)
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("interruption", [OSError(5, "I/O error"), KeyboardInterrupt()])
def test_the_old_model_comes_back_when_the_swap_fails(
    bundle, saved, tmp_path, monkeypatch, interruption
):
    before = contents(tmp_path)
    rename = Path.rename
    monkeypatch.setattr(place, "exchange", lambda new, target: False)

    def fail_for_the_new_one(self, target):
        if self.name.endswith(".new"):
            raise interruption
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises((InputError, KeyboardInterrupt)):
        save(replace(bundle, history=()), saved, overwrite=True)
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_by_the_name_of_a_models_file_is_kept(bundle, saved):
    (saved / "history.jsonl").unlink()
    (saved / "history.jsonl").mkdir()
    (saved / "history.jsonl" / "thesis.txt").write_text("precious")
    before = contents(saved)
    with pytest.raises(InputError, match=r"not a model's \(history\.jsonl\)"):
        save(bundle, saved, overwrite=True)
    assert contents(saved) == before


def _save_killed(bundle, folder, at, can_exchange):
    """Save in a copy of this process that is killed before a step of it, from 1.

    Returns: whether it came to that.
    """
    pid = os.fork()
    if pid == 0:
        steps = itertools.count(1)

        def watched(function):
            def call(*args, **kwargs):
                if next(steps) == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        exchange = place.exchange if can_exchange else lambda *_: False
        place.exchange = watched(exchange)
        place._write = watched(place._write)
        for name in ("mkdir", "rename", "rmdir"):
            setattr(Path, name, watched(getattr(Path, name)))
        save(bundle, folder, overwrite=True)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_save_that_is_killed_at_any_step_leaves_a_whole_model(
    bundle, saved, tmp_path, can_exchange
):
    step = 1
    while _save_killed(bundle, saved, step, can_exchange):
        assert_same(load(saved), bundle)
        step += 1
    # Seven files, and more. The last one has cleared what the others left.
    assert step > 10
    assert_same(load(saved), bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

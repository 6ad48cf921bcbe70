"""Whole programs in processes of their own: the tutorial, failures, two processes."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock
from scipy.ndimage import distance_transform_edt

from balls import SHAPE, write_ball
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.segmentation import Segmentation
from nobrainer.training.checkpoint import BEST, INTERRUPTED, LAST, read_checkpoint

pytestmark = pytest.mark.slow(seconds=200)

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "bayesian_uncertainty.py"
ORIGINAL = ROOT.parent / "shared" / "tutorial.py"
BLOCK = (16, 16, 16)
MODEL = {"base_filters": 4, "levels": 2}
MAPS = ("label", "variance", "entropy")


# --- the tutorial


def test_example_is_the_program_that_users_write():
    if not ORIGINAL.exists():
        pytest.skip("the original is not beside this checkout")
    assert EXAMPLE.read_bytes() == ORIGINAL.read_bytes()


KEEP_RESULTS = """
import runpy, sys
import nibabel as nib
names = runpy.run_path(sys.argv[1], run_name="__main__")
for name in ("label", "variance", "entropy"):
    nib.save(names[f"{name}_img"], f"{sys.argv[2]}/{name}.nii")
names["seg"].save(f"{sys.argv[2]}/model")
"""


@pytest.fixture(scope="session")
def tutorial(sample_csv, tmp_path_factory, worker_id):
    """A folder with what the tutorial printed and made; it runs once for all."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    folder = shared / "tutorial"
    with FileLock(shared / "tutorial.lock"):
        if not folder.exists():
            empty = shared / "empty"
            empty.mkdir()
            folder.mkdir()
            done = subprocess.run(
                [sys.executable, "-c", KEEP_RESULTS, EXAMPLE, folder],
                cwd=empty,
                capture_output=True,
                text=True,
            )
            (folder / "out").write_text(done.stdout)
            (folder / "err").write_text(done.stderr)
            left = [path.name for path in empty.iterdir()]
            (folder / "end.json").write_text(json.dumps([done.returncode, left]))
    return folder


@pytest.fixture(scope="session")
def eval_pair(sample_csv):
    return sample_csv.read_text().splitlines()[4].split(",")


def test_tutorial_ends_well_and_says_little(tutorial):
    assert json.loads((tutorial / "end.json").read_text()) == [0, []]
    lines = (tutorial / "err").read_text().splitlines()
    assert len(lines) == 4, lines
    assert lines[0].startswith("nobrainer data: ")
    starts = [line[: len("epoch 1: loss")] for line in lines[1:]]
    assert starts == [f"epoch {number}: loss" for number in (1, 2, 3)]


def test_tutorial_prints_what_it_made(tutorial, eval_pair):
    out = (tutorial / "out").read_text()
    assert out.startswith("Dataset ready: 3 subjects\n")
    assert "Bayesian VNet training complete!" in out
    shape = nib.load(eval_pair[0]).shape
    for kind in ("Label", "Variance", "Entropy"):
        assert f"{kind} shape: {shape}" in out
    figures = [float(x) for x in re.findall(r"  \w+: (\S+)", out)]
    shares = [float(x) for x in re.findall(r"average \w+: (\S+)%", out)]
    for name, (low, high, mean, spread) in zip(
        ("variance", "entropy"), (figures[:4], figures[4:]), strict=True
    ):
        data = np.asarray(nib.load(tutorial / f"{name}.nii").dataobj)
        found = data.min(), data.max(), data.mean(), data.std()
        assert (low, high, mean, spread) == pytest.approx(found, abs=1e-6)
        assert 0 <= low < mean < high
        assert spread > 0
    assert figures[1] <= 0.25
    assert 0.5 < figures[5] <= np.log(2) + 1e-6
    assert all(0 < share < 50 for share in shares)


def test_tutorial_predicts_on_the_grid_of_the_scan(tutorial, eval_pair):
    scan = nib.load(eval_pair[0])
    for name, dtype in zip(MAPS, (np.uint8, np.float32, np.float32), strict=True):
        image = nib.load(tutorial / f"{name}.nii")
        assert image.shape == scan.shape
        assert np.allclose(image.affine, scan.affine, atol=1e-4)
        assert image.get_data_dtype() == dtype


def brain_and(tutorial, eval_pair, name):
    truth = np.asarray(nib.load(eval_pair[1]).dataobj) > 0
    return truth, np.asarray(nib.load(tutorial / f"{name}.nii").dataobj)


def test_tutorial_finds_the_brain(tutorial, eval_pair):
    truth, label = brain_and(tutorial, eval_pair, "label")
    assert set(np.unique(label)) == {0, 1}
    dice = 2 * np.sum(truth & (label > 0)) / (truth.sum() + label.sum())
    assert dice >= 0.85


def test_tutorial_is_unsure_at_the_boundary(tutorial, eval_pair):
    truth, entropy = brain_and(tutorial, eval_pair, "entropy")
    inside, outside = distance_transform_edt(truth), distance_transform_edt(~truth)
    depth = np.maximum(inside, outside)
    near, deep = depth <= 2, depth > 5
    assert entropy[near].mean() >= 3 * entropy[deep & truth].mean()
    assert entropy[near].mean() >= 3 * entropy[deep & ~truth].mean()


def test_tutorial_has_no_seams(tutorial, eval_pair):
    whole = Segmentation.load(tutorial / "model").predict(eval_pair[0], n_samples=0)
    blocks = Segmentation.load(tutorial / "model").predict(
        eval_pair[0], block_shape=(32, 32, 32), n_samples=0
    )
    assert np.array_equal(whole.dataobj, blocks.dataobj)
    label = nib.as_closest_canonical(nib.load(tutorial / "label.nii"))
    data = np.asarray(label.dataobj).astype(int)
    at_faces = beside = 0
    for axis in range(3):
        jumps = np.abs(np.diff(np.moveaxis(data, axis, 0), axis=0)).sum((1, 2))
        # Between voxels 32 n - 1 and 32 n; the planes beside see the same anatomy.
        faces = np.arange(31, len(jumps) - 1, 32)
        at_faces += jumps[faces].sum()
        beside += (jumps[faces - 1].sum() + jumps[faces + 1].sum()) / 2
    assert 0 < at_faces < 1.2 * beside


# --- failures


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    return [write_ball(folder, number) for number in range(3)]


def build(pairs):
    data = Dataset.from_files(pairs, BLOCK).batch(2).binarize()
    return data.shuffle().augment().patches(per_volume=16)


TRAIN = """
import json, sys
from nobrainer import Dataset, Segmentation

pairs, folder, args, how = map(json.loads, sys.argv[1:])
data = Dataset.from_files(pairs, (16, 16, 16)).batch(2).binarize()
data = data.shuffle().augment().patches(per_volume=16)
train, validate = data.split(1)
Segmentation("bayesian_vnet", args, folder).fit(train, validate, **how)
"""


@pytest.fixture
def start():
    """Starts trainings, each in a process group of its own that ends with the test."""
    processes = []

    def begin(pairs, folder, **options):
        given = [[str(path) for path in pair] for pair in pairs], str(folder), MODEL
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, *map(json.dumps, (*given, options))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A suite run in the background of a shell ignores it, and its children do.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_for_epoch(process, folder, epoch):
    """Until the checkpoint says that the epoch is done."""
    path = folder / LAST
    while process.poll() is None:
        # A file that is replaced while it is read is reported as changed.
        with suppress(InputError):
            if path.exists() and len(read_checkpoint(path).history) >= epoch:
                return
        time.sleep(0.005)
    raise AssertionError(process.stderr.read())


def end(process, timeout=60):
    _, text = process.communicate(timeout=timeout)
    return process.returncode, text


def interrupt(process):
    """Press Ctrl-C as often as it takes; a terminal sends it to the workers, too."""
    while True:
        os.killpg(process.pid, signal.SIGINT)
        try:
            return end(process, timeout=10)
        except subprocess.TimeoutExpired:
            # Python loses it where it hits the moment in which a worker is forked.
            continue


def test_killed_training_resumes_to_the_same_bits(start, pairs, tmp_path):
    process = start(pairs, tmp_path, epochs=4, num_workers=2)
    wait_for_epoch(process, tmp_path, 2)
    os.killpg(process.pid, signal.SIGKILL)
    assert end(process)[0] == -signal.SIGKILL
    done = len(read_checkpoint(tmp_path / LAST).history)
    assert 2 <= done < 4
    train, validate = build(pairs).split(1)
    resumed, straight = (
        Segmentation("bayesian_vnet", MODEL, folder).fit(
            train, validate, epochs=4, resume=folder is not None
        )
        for folder in (tmp_path, None)
    )
    assert len(resumed.history_) == 4
    for a, b in zip(resumed.history_, straight.history_, strict=True):
        assert a["loss"] == b["loss"]
        assert a["validation_dice"] == b["validation_dice"]
    ours, theirs = (s.model_.state_dict() for s in (resumed, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_interrupted_training_says_where_its_weights_are(start, pairs, tmp_path):
    process = start(pairs, tmp_path, epochs=1000, num_workers=2)
    wait_for_epoch(process, tmp_path, 1)
    code, text = interrupt(process)
    assert code == -signal.SIGINT
    last = text.splitlines()[-1]
    assert "KeyboardInterrupt: interrupted in epoch" in last
    assert str(tmp_path / INTERRUPTED) in last
    assert "resume=True goes on after epoch" in last
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {LAST, BEST, INTERRUPTED}
    for name in names:
        loaded = Segmentation.load(tmp_path / name)
        assert loaded.predict(pairs[0][0], n_samples=0).shape == SHAPE
    checkpoint = read_checkpoint(tmp_path / INTERRUPTED)
    resume_after = int(re.search(r"after epoch (\d+)", last)[1])
    assert len(checkpoint.history) == resume_after
    assert len(read_checkpoint(tmp_path / LAST).history) == resume_after


# --- two processes


TWICE = """
import json, os, sys
import torch
from nobrainer import Dataset, Segmentation

pairs, folder, args = map(json.loads, sys.argv[1:])
data = Dataset.from_files(pairs, (16, 16, 16)).batch(2).binarize()
train, validate = data.patches(per_volume=8).split(1)
common = dict(devices=2, opt_args={"lr": 0.02}, verbose=False)
sums = []
for number, options in enumerate((
    dict(epochs=4, accumulate=2, gradient_clip=1.0),
    dict(epochs=100_000, max_minutes=0.02),
)):
    seg = Segmentation("bayesian_vnet", args, f"{folder}-{number}")
    seg.fit(train, validate, **common, **options)
    state = seg.model_.state_dict().values()
    sums.append([t.double().sum().item() for t in state])
    rank = torch.distributed.get_rank()
    scores = [row["validation_dice"] for row in seg.history_]
    seen = dict(sums=sums, scores=scores, world=torch.distributed.get_world_size())
    with open(f"{os.path.dirname(folder)}/rank-{rank}.json", "w") as file:
        json.dump(seen, file)
seg.save(f"{os.path.dirname(folder)}/model")
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_one_model(pairs, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWICE)
    folder = tmp_path / "checkpoints-1"
    names = [[str(path) for path in pair] for pair in pairs]
    given = names, str(tmp_path / "checkpoints"), MODEL
    done = subprocess.run(
        [sys.executable, script, *map(json.dumps, given)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank-{n}.json").read_text()) for n in (0, 1)]
    assert ranks[0] == ranks[1]
    assert ranks[0]["world"] == 2
    assert {path.name for path in folder.iterdir()} == {LAST, BEST}
    checkpoint = read_checkpoint(folder / LAST)
    assert [row["validation_dice"] for row in checkpoint.history] == ranks[0]["scores"]
    weights = Segmentation.load(folder / BEST).model_.state_dict().values()
    assert [t.double().sum().item() for t in weights] == ranks[0]["sums"][1]
    model = Segmentation.load(tmp_path / "model")
    saved = model.model_.state_dict().values()
    assert [t.double().sum().item() for t in saved] == ranks[0]["sums"][1]
    # Both are means over the patches of both processes.
    n_voxels = 2 * math.prod(nib.load(pairs[0][0]).shape)
    for row in model.history_:
        from_prior = row["loss"] - row["data_loss"]
        assert from_prior == pytest.approx(row["kl"] / n_voxels, rel=1e-4)


FOREVER = """
import json, sys
from nobrainer import Dataset, Segmentation

pairs, folder, args = map(json.loads, sys.argv[1:])
data = Dataset.from_files(pairs, (16, 16, 16)).batch(2).binarize().patches(per_volume=4)
Segmentation("vnet", args, folder).fit(data, epochs=100_000, devices=2, num_workers=1)
"""


def test_no_process_of_a_training_outlives_the_first_one(pairs, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(FOREVER)
    folder = tmp_path / "checkpoints"
    names = [[str(path) for path in pair] for pair in pairs]
    given = names, str(folder), {"base_filters": 2, "levels": 1}
    process = psutil.Popen([sys.executable, script, *map(json.dumps, given)])
    try:
        deadline = time.monotonic() + 60
        while not (folder / LAST).exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        started = process.children(recursive=True)
        # The second process and, but for the moment between two epochs, loaders.
        assert started
    finally:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(started, timeout=20)
    assert not left

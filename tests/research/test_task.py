"""A study of real networks, small ones, from the first to the last step."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import landscape_study
import nobrainer as nb
from nobrainer.errors import InputError
from nobrainer.research.folder import JOURNAL, SPLIT
from nobrainer.research.journal import read_journal
from nobrainer.research.space import family_space
from nobrainer.research.task import SegmentationTask

pytestmark = pytest.mark.slow(seconds=60)

SMALL = {
    "max_experiments": 2,
    "budget_hours": 0.1,
    "proposer": "random",
    "seed": 3,
    "train_minutes": 0.01,
    "n_draws": 2,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Five subjects of two sessions each: ten heads of 10 mm."""
    folder = tmp_path_factory.mktemp("heads")
    source = Path(nb.get_data(folder, "embedded", resolution_mm=10.0))
    pairs = [line.split(",") for line in source.read_text().splitlines()[1:]]
    lines = ["features,labels"]
    for n, pair in enumerate(pairs):
        names = []
        for path, kind in zip(map(Path, pair), ("T1w", "dseg"), strict=True):
            name = folder / f"sub-{n // 2:02d}_ses-{n % 2}_{kind}.nii.gz"
            path.rename(name)
            names.append(str(name))
        lines.append(",".join(names))
    (folder / "scans.csv").write_text("\n".join(lines) + "\n")
    return folder / "scans.csv"


@pytest.fixture(scope="module")
def study(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "of" / "meshnets"
    snapshot = nb.research.run(folder, "bayesian_meshnet", data=table, **SMALL)
    return folder, snapshot


def subjects(pairs):
    return {Path(image).name.split("_")[0] for image, *_ in pairs}


def test_subjects_are_in_one_part_only(study):
    split = json.loads((study[0] / SPLIT).read_text())
    parts = [subjects(split[name]) for name in ("train", "validate", "test")]
    assert [len(part) for part in parts] == [3, 1, 1]
    assert set.union(*parts) == {f"sub-{n:02d}" for n in range(5)}
    assert [len(split[name]) for name in ("train", "validate", "test")] == [6, 2, 2]


def test_all_runs_are_judged_and_the_test_split_once(study):
    folder, snapshot = study
    rows = read_journal(folder / JOURNAL)
    assert [row.state for row in rows] == ["done"] * len(rows)
    assert [row.role for row in rows[:3]] == ["baseline", "repeat", "proposal"]
    for row in rows:
        assert {"dice", "nll", "aurc", "train_s", "judge_s"} <= {*row.figures}
        assert all(map(math.isfinite, row.figures.values()))
        assert row.peak_memory_bytes > 10**8 and row.size.parameters > 10**4
        assert row.curve[-1][0] == 1.0
    # The same recipe, another seed: another network.
    assert rows[0].figures["nll"] != rows[1].figures["nll"]
    tested = subjects(json.loads((folder / SPLIT).read_text())["test"])
    found = {name.split("_")[0] for name in snapshot.test.subjects["champion"]}
    assert found == tested


def test_the_best_model_knows_where_it_comes_from(study):
    folder, snapshot = study
    model = nb.Segmentation.load(folder / "best")
    made = model.recipe_.provenance
    champion = snapshot.standing.champion
    assert made.search.run == champion
    assert made.search.n_runs == len(snapshot.rows)
    assert made.search.test == snapshot.test.figures["champion"]
    assert made.search.validation["dice"] == snapshot.standing.means[champion]["dice"]
    used = {Path(record.name).name.split("_")[0] for record in made.files}
    assert not used & subjects(json.loads((folder / SPLIT).read_text())["test"])
    assert "search.test.dice" in (folder / "best/croissant.json").read_text()
    assert "test split" in (folder / "best/README.md").read_text()
    report = (folder / "report.html").read_text()
    assert f"{snapshot.test.figures['champion']['dice']:.3f}" in report


def test_judging_is_that_of_evaluate(study):
    folder, snapshot = study
    split = json.loads((folder / SPLIT).read_text())
    model = nb.Segmentation.load(folder / "best")
    data = model.dataset([(Path(a), Path(b)) for a, b, _ in split["test"]])
    figures = nb.summarise(model.evaluate(data, n_samples=2, seed=0, surfaces=False))
    scored = snapshot.test.figures["champion"]
    assert scored["dice"] == pytest.approx(figures["dice"], abs=1e-6)
    assert scored["nll"] == pytest.approx(figures["nll/foreground"], abs=1e-6)
    # A value for each subject, not for each of its scans.
    assert set(snapshot.test.subjects["champion"]) == {row[2] for row in split["test"]}
    mean = np.mean([*snapshot.test.subjects["champion"].values()])
    assert scored["dice"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 4}, "was begun with seed=3, now it is 4"),
        ({"train_minutes": 1.0}, "was begun with train_minutes=0.01"),
        ({"model_family": "meshnet"}, "was begun with family='bayesian_meshnet'"),
        ({"objectives": ("dice", "nll")}, "was begun with objectives"),
    ],
)
def test_a_study_goes_on_as_it_began_or_not_at_all(study, table, changed, words):
    folder, _ = study
    before = {p: p.read_bytes() for p in folder.glob("*.*")}
    given = {"model_family": "bayesian_meshnet", "data": table, **SMALL, **changed}
    with pytest.raises(InputError, match=words):
        nb.research.run(folder, **given)
    assert {p: p.read_bytes() for p in folder.glob("*.*")} == before


def test_other_scans_are_refused(study, table, tmp_path):
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with pytest.raises(InputError, match="begun with other scans"):
        nb.research.run(study[0], "bayesian_meshnet", data=fewer, **SMALL)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"proposer": "tbe"}, "did you mean 'tpe'"),
        ({"pruner": "ascha"}, "did you mean 'asha'"),
        ({"objectives": ("dise",)}, "did you mean 'dice'"),
        ({"model_family": "bayesian_vnets"}, "did you mean 'bayesian_vnet'"),
        ({"budget_hours": 0}, "budget_hours must be a number > 0"),
        ({"max_experiments": 0}, "max_experiments must be a whole number >= 1"),
        ({"memory_gb": -1}, "memory_gb must be a number > 0"),
        ({"storage": "nonsense"}, "must be a database's URL"),
        ({"data": "nowhere.csv"}, "nowhere.csv: no such file"),
    ],
)
def test_bad_arguments_leave_nothing_behind(tmp_path, table, changed, words):
    folder = tmp_path / "new"
    with pytest.raises(InputError, match=words):
        nb.research.run(folder, **{"data": table, **SMALL, **changed})
    assert not (folder / "study.json").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, table):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"not a study's \(thesis\.tex\)"):
        nb.research.run(tmp_path, data=table, **SMALL)
    assert [path.name for path in tmp_path.iterdir() if path.suffix] == ["thesis.tex"]


def test_two_subjects_are_too_few(tmp_path, table):
    few = tmp_path / "few.csv"
    few.write_text("\n".join(table.read_text().splitlines()[:5]))
    with pytest.raises(InputError, match="3 subjects or more"):
        nb.research.run(tmp_path / "study", data=few, **SMALL)


def test_values_become_arguments_of_the_training(table):
    lines = table.read_text().splitlines()[1:]
    pairs = tuple(tuple(line.split(",")) for line in lines)
    settings = landscape_study.settings(epochs=2, n_draws=3)
    task = SegmentationTask(
        family_space("bayesian_vnet"), pairs[:4], pairs[4:6], settings
    )
    # 4 scans of 64 patches in batches of 2, twice.
    assert task.n_steps({}) == 256
    small = {"base_filters": 8, "levels": 2, "block_shape": "32x32x32"}
    large = {**small, "block_shape": "64x64x64"}
    assert task.size(large).step_flop == 8 * task.size(small).step_flop
    assert task.size(large).parameters == task.size(small).parameters
    more = replace(task, settings=replace(settings, n_draws=6))
    assert more.size(small).judge_flop == 2 * task.size(small).judge_flop
    segmentations = task.space.setting(small)
    assert segmentations.model_args == {"base_filters": 8, "levels": 2}

"""What a folder of results says of how they were made."""

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import nobrainer as nb
from balls import write_ball
from commands import nobrainer_
from nobrainer.errors import InputError
from nobrainer.provenance import Method
from nobrainer.provenance import Result as Record
from nobrainer.results import Results
from result_folders import SCANS, contents, record_of, run, said, scan, stamps, unfinish


def test_a_folder_says_which_model_made_it_and_from_which_files(
    two_models: Path, whole: dict[str, Path]
) -> None:
    out = whole["predict"]
    method = json.loads((out / "provenance.json").read_text())
    sums = (two_models / "model" / "SHA256SUMS").read_bytes()
    assert method == {
        "command": "predict",
        "version": nb.__version__,
        "model": "model",
        "model_sha256": hashlib.sha256(sums).hexdigest(),
        "network": "bayesian_vnet",
        "n_samples": 2,
        "seed": 0,
        "precision": "float32",
        "coverage": None,
        "options": {"class_numbers": False},
        "format_version": 1,
        "n_passes": 2,
    }
    record = Record.from_json(record_of(out, 1).read_text())
    data = scan(two_models, 1).read_bytes()
    (of_input,) = record.inputs
    assert of_input.name == "sub-1_T1w.nii"
    assert of_input.sha256 == hashlib.sha256(data).hexdigest()
    assert of_input.size_bytes == len(data)
    assert record.method.to_json() == (out / "provenance.json").read_text()
    assert record.started <= record.ended and record.device
    written = {f"sub-1_T1w_{kind}" for kind in ("label.nii.gz", "entropy.nii.gz")}
    assert written < set(record.files) and len(record.files) == 5
    assert not [p for p in out.rglob(".*") if p.is_file()]


def test_the_coverage_of_the_intervals_is_said(
    two_models: Path, tmp_path: Path
) -> None:
    table = tmp_path / "held-out.csv"
    pairs = [write_ball(tmp_path, number) for number in range(4, 8)]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("features", "labels"), *pairs])
    calibrated = tmp_path / "calibrated"
    done = nobrainer_(
        *("calibrate", "--data", table, "--model", two_models / "model"),
        *("--n-samples", 2, "--output-dir", calibrated, "--coverage", 0.75),
    )
    assert done.exit_code == 0, done.stderr
    out = tmp_path / "out"
    assert run("qc", two_models, out, "--model", calibrated, numbers=[0]).exit_code == 0
    method = Method.from_json((out / "provenance.json").read_text())
    assert method.coverage == 0.75
    columns = json.loads((out / "structures.json").read_text())
    for end in ("low", "high"):
        words = columns[f"conformal_{end}_mm3"]["Description"]
        assert "at least 75 % have their true volume inside" in words
    # Intervals are for the number of draws that they were fitted with.
    few = tmp_path / "few"
    run("predict", two_models, few, "--model", calibrated, numbers=[0], n_samples=3)
    assert Method.from_json((few / "provenance.json").read_text()).coverage is None


@pytest.mark.parametrize("command", ["predict", "qc"])
@pytest.mark.parametrize(
    ("options", "n_samples", "words"),
    [
        (("--seed", 7), 2, "seed 0 there, 7 now"),
        ((), 3, "--n-samples 2 there, 3 now"),
        (("--model", "other"), 2, "model model (sha256 "),
    ],
)
def test_results_of_another_method_are_not_mixed_in(
    command: str,
    options: tuple[object, ...],
    n_samples: int,
    words: str,
    two_models: Path,
    whole: dict[str, Path],
) -> None:
    out, before = whole[command], stamps(whole[command])
    options = tuple(two_models / o if o == "other" else o for o in options)
    refused = run(command, two_models, out, *options, n_samples=n_samples)
    assert refused.exit_code == 2 and refused.stdout == ""
    (line,) = said(refused)
    assert f"{out}: holds results of another method" in line and words in line
    assert "give another --output-dir, or --overwrite" in line
    # To replace a part would leave a mixture.
    part = run(
        *(command, two_models, out, *options, "--overwrite"),
        numbers=[0, 1],
        n_samples=n_samples,
    )
    assert part.exit_code == 2
    assert "for 2 scans that are not given" in part.stderr
    assert stamps(out) == before


def test_another_command_another_folder(
    two_models: Path, whole: dict[str, Path]
) -> None:
    refused = run("qc", two_models, whole["predict"])
    assert (
        refused.exit_code == 2 and "(command predict there, qc now)" in refused.stderr
    )


def test_a_method_that_began_meanwhile_is_not_mixed_with(
    two_models: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    method = Method.from_json((whole["predict"] / "provenance.json").read_text())
    image = scan(two_models, 0)
    both = [
        Results(tmp_path, one, "cpu", overwrite=False)
        for one in (method, replace(method, seed=7))
    ]
    for results in both:
        results.open(["a"], [])
    with both[0].work("a", [image], []):
        pass
    with (
        pytest.raises(InputError, match="seed 0 there, 7 now"),
        both[1].work("b", [image], []) as work,
    ):
        work.begin()
    assert [path.name for path in (tmp_path / "provenance").glob("*.json")] == [
        "a.json"
    ]
    assert (tmp_path / "provenance.json").read_text() == method.to_json()


def test_another_version_is_another_method(
    two_models: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole["qc"], out)
    method = Method.from_json((out / "provenance.json").read_text())
    older = replace(method, version="0.0.1", model="renamed")
    assert method.unlike(replace(method, model="renamed")) == []
    (out / "provenance.json").write_text(older.to_json())
    refused = run("qc", two_models, out)
    assert refused.exit_code == 2
    assert f"version 0.0.1 there, {nb.__version__} now" in refused.stderr
    assert run("qc", two_models, out, "--overwrite").exit_code == 0
    assert contents(out) == contents(whole["qc"])


def test_a_folder_records_the_draws_that_were_made_beside_those_asked_for(
    tmp_path: Path,
) -> None:
    pairs = [write_ball(tmp_path, number) for number in (1, 2)]
    dataset = nb.Dataset.from_files(pairs, (16, 16, 16)).patches(per_volume=1)
    least = {"base_filters": 1, "levels": 1}
    ensemble = nb.Ensemble("vnet", least, n_members=2).fit(dataset, verbose=False)
    model = ensemble.save(tmp_path / "model")
    out = tmp_path / "maps"
    ask = ("--model", model, "--output-dir", out)
    files = [pair[0] for pair in pairs]
    warned = "warning: the ensemble has 2 members"
    result = nobrainer_("predict", *files, *ask, "--n-samples", 10)
    # Once for both scans.
    assert result.exit_code == 0 and result.stderr.count(warned) == 1
    assert "there are 2 draws, not 10" in result.stderr
    records = [out / "provenance.json", *(out / "provenance").glob("*.json")]
    assert len(records) == 3
    for path in records:
        text = json.loads(path.read_text())
        method = text.get("method", text)
        assert (method["n_samples"], method["n_passes"]) == (10, 2)
        # As it was before this was recorded; the same command goes on there.
        del method["n_passes"]
        path.write_text(json.dumps(text))
    result = nobrainer_("predict", *files, *ask)
    assert result.exit_code == 0 and warned not in result.stderr
    assert "2 of 2 scans were done before" in result.stderr
    again = (*files, "--model", model, "--output-dir", tmp_path / "qc")
    result = nobrainer_("qc", *again, "--n-samples", 4)
    assert result.stderr.count(warned) == 1


def test_a_record_is_read_strictly(whole: dict[str, Path]) -> None:
    text = (whole["qc"] / "provenance.json").read_text()
    with pytest.raises(InputError, match="did you mean 'seed'"):
        Method.from_json(text.replace('"seed"', '"sed"'))
    with pytest.raises(InputError, match=r"provenance\.seed must be int"):
        Method.from_json(text.replace('"seed": 0', '"seed": "0"'))


def test_a_damaged_method_names_its_file(two_models: Path, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text("{")
    refused = run("predict", two_models, tmp_path)
    assert refused.exit_code == 2
    assert f"{tmp_path / 'provenance.json'}: " in refused.stderr


def test_rank_and_evaluate_say_it_too(two_models: Path, tmp_path: Path) -> None:
    table = tmp_path / "next.tsv"
    args = ("--model", two_models / "model", "--n-samples", 2)
    files = [scan(two_models, number) for number in (2, 0)]
    assert nobrainer_("rank", *files, *args, "--output", table).exit_code == 0
    record = Record.from_json((tmp_path / "next_provenance.json").read_text())
    assert record.method.options == {"strategy": "entropy"}
    assert [one.name for one in record.inputs] == [file.name for file in files]

    out = tmp_path / "test"
    args = ("evaluate", "--data", two_models / "scans.csv", *args, "--output-dir", out)
    args = (*args, "--allow-seen")
    first = nobrainer_(*args)
    assert first.exit_code == 0
    path = out / "provenance" / "evaluation.json"
    record = Record.from_json(path.read_text())
    assert [one.name for one in record.inputs][:2] == [
        "sub-0_T1w.nii",
        "sub-0_mask.nii",
    ]
    assert len(record.inputs) == 2 * len(SCANS)
    before = stamps(out)
    again = nobrainer_(*args)
    assert again.exit_code == 0 and again.stdout == first.stdout
    assert said(again) == [
        "the evaluation was done before and is not done again (--overwrite does)"
    ]
    assert stamps(out) == before
    fewer = tmp_path / "fewer.csv"
    rows = (two_models / "scans.csv").read_text().splitlines(keepends=True)
    fewer.write_text("".join(rows[:-1]))
    other = nobrainer_(*args, "--data", fewer)
    assert other.exit_code == 2 and "made from 8 files, not from 6" in other.stderr
    mixed = nobrainer_(*args, "--seed", 1)
    assert mixed.exit_code == 2 and "seed 0 there, 1 now" in mixed.stderr
    # One that was killed while it wrote is done again.
    before = (out / "metrics.tsv").read_bytes()
    unfinish(path)
    (out / "metrics.tsv").write_text("half")
    assert nobrainer_(*args).exit_code == 0
    assert (out / "metrics.tsv").read_bytes() == before

"""`nobrainer rank`: which scans to label next."""

import json
from pathlib import Path

import nobrainer as nb
from commands import HELD_OUT, errors_of, nobrainer_, rows_of, scans_of


def test_rank_prints_the_order_of_the_api(balls: Path, tmp_path: Path) -> None:
    files = scans_of(balls, HELD_OUT)
    missing = tmp_path / "missing.nii"
    args = (
        *("rank", missing, *files, "--model", balls / "brain", "--n-samples", 3),
        *("--strategy", "pairwise_dice", "--seed", 5),
    )
    table = tmp_path / "new" / "next.tsv"
    result = nobrainer_(*args, "--output", table)
    assert result.exit_code == 1
    (line,) = errors_of(result.stderr)
    assert line.startswith(f"nobrainer: error: {missing}: no such file")
    segmentation = nb.Segmentation.load(balls / "brain")
    ranked = segmentation.rank(files, "pairwise_dice", n_samples=3, seed=5)
    assert result.stdout == nb.ranking.to_tsv(ranked)
    assert table.read_text() == result.stdout
    assert {row["subject"] for row in rows_of(table)} == {file.stem for file in files}
    scores = [float(row["score"]) for row in rows_of(table)]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(files)
    taken = nobrainer_(*args, "--output", table)
    assert taken.exit_code == 2 and "next.tsv: exists already" in taken.stderr
    assert nobrainer_(*args, "--output", table, "--overwrite").exit_code == 1
    folder_there = nobrainer_(*args, "--output", tmp_path, "--overwrite")
    assert folder_there.exit_code == 2 and "is a directory" in folder_there.stderr
    as_json = json.loads(nobrainer_(*args, "--json").stdout)
    assert [one["name"] for one in as_json] == [one.name for one in ranked]
    near = nobrainer_(
        "rank", *files, "--model", balls / "brain", "--strategy", "entrpy"
    )
    assert near.exit_code == 2 and "did you mean 'entropy'" in near.stderr


def test_a_ranking_of_nothing_has_no_table(balls: Path, tmp_path: Path) -> None:
    args = ("rank", tmp_path / "none.nii", "--model", balls / "brain")
    result = nobrainer_(*args, "--output", tmp_path / "next.tsv")
    assert result.exit_code == 1 and "none.nii: no such file" in result.stderr
    assert result.stdout == "" and not (tmp_path / "next.tsv").exists()
    assert json.loads(nobrainer_(*args, "--json").stdout) == []

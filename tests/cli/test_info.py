"""`nobrainer info`: how a model was made."""

import json
from pathlib import Path

from commands import nobrainer_


def test_info_tells_what_train_was_asked_for(model: Path) -> None:
    story = json.loads(nobrainer_("info", model, "--json").stdout)
    recipe = story["recipe"]
    assert recipe["model"]["name"] == "bayesian_vnet"
    assert recipe["model"]["args"]["base_filters"] == 2
    assert recipe["data"]["block_shape"] == [16, 16, 16]
    assert recipe["data"]["patches_per_volume"] == 16
    assert recipe["training"]["opt_args"] == {"lr": 0.02}
    roles = [file["role"] for file in recipe["provenance"]["files"]]
    assert roles.count("train-image") == 2 and roles.count("validate-label") == 1
    assert story["labels"] == ["background", "foreground"]
    assert [row["epoch"] for row in story["history"]] == [1, 2, 3, 4, 5, 6]


def test_info_prints_a_table(model: Path) -> None:
    lines = nobrainer_("info", model).stdout.splitlines()
    assert lines[0] == "model"
    assert "  base_filters         2" in lines
    assert (
        "  files                train-image 2, train-label 2, validate-image 1, "
        "validate-label 1" in lines
    )

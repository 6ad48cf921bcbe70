import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nobrainer.bids.dataset import check_places
from nobrainer.errors import InputError

VALIDATOR = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))


def test_the_description_links_to_the_data_set(derivative: Path, data: Path) -> None:
    found = json.loads((derivative / "dataset_description.json").read_text())
    assert found["DatasetType"] == "derivative"
    assert found["GeneratedBy"][0]["Name"] == "nobrainer"
    assert found["DatasetLinks"] == {"raw": data.resolve().as_uri()}
    assert found["SourceDatasets"] == [{"URL": data.resolve().as_uri()}]


@pytest.mark.skipif(VALIDATOR is None, reason="bids-validator-deno is not installed")
def test_the_official_validator_finds_no_error(grouped: Path) -> None:
    run = subprocess.run(
        [str(VALIDATOR), str(grouped), "--format", "json"],
        capture_output=True,
        text=True,
    )
    issues = json.loads(run.stdout)["issues"]["issues"]
    assert [one for one in issues if one["severity"] == "error"] == []
    assert run.returncode == 0


def test_results_do_not_go_among_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for inside in (data, data / "sub-01", data / "derivatives", data / "code" / "x"):
        with pytest.raises(InputError, match=r"is only read|holds the data set"):
            check_places(data, inside)
    with pytest.raises(InputError, match="holds the data set"):
        check_places(data, tmp_path)
    link = tmp_path / "link"
    link.symlink_to(data)
    with pytest.raises(InputError, match="is only read"):
        check_places(data, link / "out")
    check_places(data, data / "derivatives" / "nobrainer")
    check_places(data, tmp_path / "out")

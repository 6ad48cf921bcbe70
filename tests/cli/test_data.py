"""`nobrainer data`: the table of the subjects for a first run."""

import json
from pathlib import Path

from commands import nobrainer_


def test_data_prints_the_table(sample_csv: Path) -> None:
    plain = nobrainer_("data", "--source", "embedded")
    assert plain.stdout == f"{sample_csv}\n"
    as_json = nobrainer_("data", "--source", "embedded", "--json")
    assert json.loads(as_json.stdout) == {"csv": str(sample_csv)}
    assert nobrainer_("data", "--source", "nowhere").exit_code == 2

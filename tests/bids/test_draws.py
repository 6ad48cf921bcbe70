"""The volumes in each draw go into a table and come back."""

from pathlib import Path

import numpy as np
import pytest

from brains import model_of_brains, noise
from nobrainer.bids.draws import draws_to_tsv, read_draws
from nobrainer.errors import InputError


def test_the_volumes_of_all_parts_come_back(tmp_path: Path) -> None:
    prediction = model_of_brains().predict(noise(), n_samples=3, seed=1, verbose=False)
    path = tmp_path / "draws.tsv"
    path.write_text(draws_to_tsv(prediction))
    found = read_draws(path)
    names = ["wm", "ctx", "ventricle", "csf", "wm R", "ctx R", "brain", "intracranial"]
    assert list(found) == names
    assert np.array_equal(found["wm R"], prediction.volumes_mm3[:, 5])
    assert found["brain"].mean() == pytest.approx(prediction.totals[0].volume_mm3)
    assert found["intracranial"].shape == (3,)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a\tb\n1\ttwo\n", "must hold numbers alone"),
        ("a\tb\n1\t\n", "must hold numbers alone"),
        ("a\tb\n1\tnan\n", "some without a volume"),
        ("a\tb\n", "has no draws"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "draws.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"draws\.tsv: .*{what}"):
        read_draws(path)

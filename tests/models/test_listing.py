"""The list of models that people choose from."""

from collections.abc import Iterator

import pytest
from torch import nn

from nobrainer.generators import GENERATORS
from nobrainer.models import MODELS, describe_models, print_models


@pytest.fixture
def own_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))

    @MODELS.register("my_net")
    class Net(nn.Module):
        """A network \x1b[2Jof mine.

        With more to say.
        """

    yield


def test_every_model_has_a_line_that_says_what_it_is() -> None:
    lines = describe_models()
    names = [line.name for line in lines]
    assert names == [*sorted(MODELS), *sorted(GENERATORS)]
    generators = [line.name for line in lines if line.kind == "generation"]
    assert generators == sorted(GENERATORS)
    kinds = {line.name: line.kind for line in lines}
    assert kinds["kwyk"] == "Bayesian segmentation"
    assert kinds["unet"] == "segmentation"
    assert kinds["ensemble"] == "ensemble"
    assert all(line.summary and "\n" not in line.summary for line in lines)
    assert len({line.summary for line in lines}) == len(lines)


@pytest.mark.usefixtures("own_network")
def test_models_are_printed_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_models()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(MODELS) + len(GENERATORS)
    (own,) = [line for line in lines if line.startswith("my_net ")]
    assert own.endswith("  registered by you      A network \\x1b[2Jof mine.")
    (unet,) = [line for line in lines if line.startswith("unet ")]
    assert unet.index("segmentation") == own.index("registered by you")

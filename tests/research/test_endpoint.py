"""Which language model the environment names, and that its key is hidden."""

from typing import Any

import pytest

from nobrainer.errors import InputError
from nobrainer.research.endpoint import Endpoint

KEY = "sk-a-Secret_key.1+/=42"


def test_repr_of_an_endpoint_hides_the_key() -> None:
    endpoint = Endpoint("openai", "http://localhost", "a-model", KEY)
    assert KEY not in repr(endpoint) and "a-model" in repr(endpoint)


OPENAI = {"OPENAI_API_KEY": KEY, "NOBRAINER_LLM_MODEL": "m"}
ANTHROPIC = {"ANTHROPIC_API_KEY": KEY, "NOBRAINER_LLM_MODEL": "m"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (OPENAI, ("openai", "https://api.openai.com/v1", KEY, 60)),
        (ANTHROPIC, ("anthropic", "https://api.anthropic.com", KEY, 60)),
        (
            {"OPENAI_BASE_URL": "http://[::1]:8000/v1/", "NOBRAINER_LLM_MODEL": "m"},
            ("openai", "http://[::1]:8000/v1", "", 60),
        ),
        (
            OPENAI | ANTHROPIC | {"NOBRAINER_LLM_PROVIDER": "openai"},
            ("openai", "https://api.openai.com/v1", KEY, 60),
        ),
        (
            ANTHROPIC | {"OPENAI_API_KEY": " ", "NOBRAINER_LLM_TIMEOUT_S": "2.5"},
            ("anthropic", "https://api.anthropic.com", KEY, 2.5),
        ),
    ],
)
def test_environment_chooses_the_endpoint(
    environ: dict[str, str], expected: tuple[Any, ...]
) -> None:
    found = Endpoint.from_environment(environ)
    assert (found.provider, found.address, found.key, found.timeout_s) == expected
    assert found.model == "m"


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "OPENAI_API_KEY or ANTHROPIC_API_KEY"),
        ({"OPENAI_API_KEY": KEY}, "NOBRAINER_LLM_MODEL"),
        (OPENAI | ANTHROPIC, "NOBRAINER_LLM_PROVIDER"),
        (OPENAI | {"NOBRAINER_LLM_PROVIDER": "openia"}, "NOBRAINER_LLM_PROVIDER"),
        (OPENAI | {"NOBRAINER_LLM_PROVIDER": "anthropic"}, "ANTHROPIC_API_KEY"),
        (ANTHROPIC | {"NOBRAINER_LLM_PROVIDER": "openai"}, "OPENAI_API_KEY"),
        (OPENAI | {"OPENAI_BASE_URL": "api.openai.com"}, "OPENAI_BASE_URL"),
        (OPENAI | {"OPENAI_BASE_URL": "http://h:port/v1"}, "OPENAI_BASE_URL"),
        (OPENAI | {"OPENAI_BASE_URL": f"https://u:{KEY}@h"}, "OPENAI_BASE_URL"),
        (ANTHROPIC | {"ANTHROPIC_BASE_URL": "file:///etc"}, "ANTHROPIC_BASE_URL"),
        (OPENAI | {"OPENAI_API_KEY": f"{KEY}\nX: y"}, "OPENAI_API_KEY"),
        (OPENAI | {"OPENAI_API_KEY": f"'{KEY}'"}, "OPENAI_API_KEY"),
        (OPENAI | {"NOBRAINER_LLM_TIMEOUT_S": "soon"}, "NOBRAINER_LLM_TIMEOUT_S"),
        (OPENAI | {"NOBRAINER_LLM_TIMEOUT_S": "nan"}, "NOBRAINER_LLM_TIMEOUT_S"),
        (OPENAI | {"NOBRAINER_LLM_TIMEOUT_S": "0"}, "NOBRAINER_LLM_TIMEOUT_S"),
    ],
)
def test_a_wrong_environment_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(InputError, match=f"^{named} must ") as caught:
        Endpoint.from_environment(environ)
    assert KEY not in str(caught.value)

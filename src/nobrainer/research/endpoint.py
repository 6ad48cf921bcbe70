"""A language model and how to reach it, from the variables of the environment."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from nobrainer.errors import InputError

_ADDRESSES = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
}
_MODEL, _PROVIDER = "NOBRAINER_LLM_MODEL", "NOBRAINER_LLM_PROVIDER"
_TIMEOUT = "NOBRAINER_LLM_TIMEOUT_S"
_DEFAULT_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Endpoint:
    """A language model and how to reach it; its `repr` hides the key.

    provider: "openai" or "anthropic": the protocol that the server speaks.
    address: base URL, without a slash at its end.
    model: name of the model.
    key: the secret that the server asks for; "" for none.
    timeout_s: seconds for one proposal, with all its tries and the waits between them.
    """

    provider: str
    address: str
    model: str
    key: str = field(repr=False)
    timeout_s: float = _DEFAULT_TIMEOUT_S

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Endpoint":
        """Make the endpoint that the environment's variables describe.

        OPENAI_API_KEY or ANTHROPIC_API_KEY: the key. A server of your own that speaks
            OpenAI's protocol needs none.
        OPENAI_BASE_URL or ANTHROPIC_BASE_URL: address of the server, if it is not the
            provider's own.
        NOBRAINER_LLM_MODEL: name of the model.
        NOBRAINER_LLM_PROVIDER: openai or anthropic; needed where both are set.
        NOBRAINER_LLM_TIMEOUT_S: seconds for one proposal, above 0 and at most 3600;
            60 where it is not set.

        Args:
            environ: the variables, such as `os.environ`.

        Raises:
            InputError: a variable is missing or wrong; the message names it.
        """
        given = {name: text.strip() for name, text in environ.items() if text.strip()}
        provider = _find_provider(given)
        prefix = provider.upper()
        model = given.get(_MODEL, "")
        if not model:
            raise InputError(
                f"{_MODEL} must be set: to the name of a model that the endpoint serves"
            )
        key = given.get(f"{prefix}_API_KEY", "")
        if not re.fullmatch(r"[!#-&(-\[\]-~]*", key):
            # The message leaves out the value: a key must not be shown.
            raise InputError(
                f"{prefix}_API_KEY must be printable ASCII without spaces, quotes and "
                "backslashes: copy it anew"
            )
        address = given.get(f"{prefix}_BASE_URL") or _ADDRESSES[provider]
        return cls(
            provider,
            _check_address(f"{prefix}_BASE_URL", address),
            model,
            key,
            _read_timeout_s(given.get(_TIMEOUT)),
        )


def _find_provider(given: Mapping[str, str]) -> str:
    """Choose the provider by name, or the only one that the environment describes."""
    named = given.get(_PROVIDER, "")
    if named and named not in _ADDRESSES:
        raise InputError(
            f"{_PROVIDER} must be openai or anthropic, got {named!r}: correct it"
        )
    usable = {
        "openai": "OPENAI_API_KEY" in given or "OPENAI_BASE_URL" in given,
        "anthropic": "ANTHROPIC_API_KEY" in given,
    }
    if named == "anthropic" and not usable[named]:
        raise InputError(f"ANTHROPIC_API_KEY must be set where {_PROVIDER}=anthropic")
    if named == "openai" and not usable[named]:
        raise InputError(
            f"OPENAI_API_KEY must be set where {_PROVIDER}=openai, or OPENAI_BASE_URL "
            "for a server without keys"
        )
    if named:
        return named
    found = [name for name, is_usable in usable.items() if is_usable]
    if len(found) == 2:
        raise InputError(
            f"{_PROVIDER} must be set to openai or anthropic: the environment has both"
        )
    if not found:
        raise InputError(
            "OPENAI_API_KEY or ANTHROPIC_API_KEY must be set (or OPENAI_BASE_URL for a "
            "server without keys) to ask a language model: or take the proposer 'tpe'"
        )
    return found[0]


def _check_address(variable: str, address: str) -> str:
    """Check a base URL and return it without a slash at its end."""
    try:
        parts = urlsplit(address)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_good = is_good and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise InputError(f"{variable} must be an http or https URL: correct it")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # The message leaves out the value, which may hold a password.
        raise InputError(
            f"{variable} must hold no password, query or fragment: put the key into "
            f"{variable.replace('BASE_URL', 'API_KEY')}"
        )
    return address.rstrip("/")


def _read_timeout_s(text: str | None) -> float:
    if text is None:
        return _DEFAULT_TIMEOUT_S
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s <= 3600:
        raise InputError(f"{_TIMEOUT} must be from 0 to 3600 seconds, got {text!r}")
    return timeout_s

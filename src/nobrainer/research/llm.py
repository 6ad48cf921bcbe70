"""Ask a language model what to try next; it names values and nothing is executed.

Speaks to any endpoint of OpenAI's chat completions or Anthropic's messages. What the
environment holds decides which: `Endpoint.from_environment` says how.
"""

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import requests

from nobrainer.errors import InputError
from nobrainer.glossary import OF_RUNS
from nobrainer.research.journal import STATES, Row
from nobrainer.research.space import Space

_ADDRESSES = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
}
_MODEL, _PROVIDER = "NOBRAINER_LLM_MODEL", "NOBRAINER_LLM_PROVIDER"
_TIMEOUT = "NOBRAINER_LLM_TIMEOUT_S"
_DEFAULT_TIMEOUT_S = 60.0
_N_TRIES = 3
_WAIT_S = 1.0
_MOST_ANSWER_BYTES = 1 << 20
_MOST_ANSWER_CHARACTERS = 20_000
_MOST_ANSWER_TOKENS = 4096
_NOTE_CHARACTERS = 300
_BUSY = (408, 429, 500, 502, 503, 504, 529)
_TASK = """\
You help to search for the best training recipe of a Bayesian network that segments \
3-D brain MRI. You are given the space of its parameters and the journal of all runs \
so far. Propose the values that you expect to teach or improve the most, new ones in \
every case. Values that ran out of memory or time, diverged or crashed tell you what \
to keep away from. Answer with one JSON object and nothing else:
{"values": {"<each parameter of the space>": <value>, ...}, "reason": "<why, in one \
sentence>"}"""


class AnswerError(Exception):
    """The language model gave no values that can be used; says why, in one line."""


class _TryAgainError(Exception):
    """This try failed, another may not.

    `wait_s`: how long to wait first; `answer`: what the model said, if it spoke.
    """

    def __init__(self, why: str, *, wait_s: float = 0.0, answer: str = "") -> None:
        super().__init__(why)
        self.wait_s = wait_s
        self.answer = answer


@dataclass(frozen=True)
class Endpoint:
    """A language model and how to reach it; its `repr` hides the key.

    provider: "openai" or "anthropic", whose protocol it speaks.
    address: base URL, without a last slash.
    timeout_s: for a proposal, all its tries and the waits between them.
    """

    provider: str
    address: str
    model: str
    key: str = field(repr=False)
    timeout_s: float = _DEFAULT_TIMEOUT_S

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Endpoint":
        """The endpoint that the environment's variables name.

        OPENAI_API_KEY and OPENAI_BASE_URL, or ANTHROPIC_API_KEY and
        ANTHROPIC_BASE_URL: a key, and where the server is not the provider's own. A
        server of one's own that speaks OpenAI's protocol needs no key.
        NOBRAINER_LLM_MODEL: name of the model.
        NOBRAINER_LLM_PROVIDER: openai or anthropic; needed where both are set.
        NOBRAINER_LLM_TIMEOUT_S: as `timeout_s`; 60 where it is not set.

        Raises:
            InputError: a variable is missing or wrong; names it.
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
            # Without its value: a key must not be shown.
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


def ask_for_values(
    endpoint: Endpoint,
    space: Space,
    rows: Sequence[Row],
    objectives: Sequence[str],
    *,
    is_new: Callable[[dict[str, Any]], bool],
) -> tuple[dict[str, Any], str]:
    """Show the model the space and the whole journal and let it name values.

    An answer that cannot be used is told back, at most twice; a server that is busy
    is waited for as long as it asks, within the endpoint's time-out.

    Args:
        rows: the journal, with the rows under way.
        is_new: whether values were not tried yet.

    Returns: values that `space.check` accepts, and the model's reason, one line.

    Raises:
        AnswerError: the model could not be reached, or named no such values.
    """
    deadline = time.monotonic() + endpoint.timeout_s
    talk = [{"role": "user", "content": describe_study(space, rows, objectives)}]
    why = ""
    for turn in range(_N_TRIES):
        try:
            answer = _send(endpoint, talk, deadline - time.monotonic())
            return _read_answer(endpoint, answer, space, is_new)
        except AnswerError as error:
            raise AnswerError(_tidy(endpoint, str(error))) from None
        except _TryAgainError as error:
            why = _tidy(endpoint, str(error))
            left_s = deadline - time.monotonic()
            if turn + 1 == _N_TRIES or error.wait_s >= left_s:
                break
            time.sleep(error.wait_s)
            if error.answer:
                talk += [
                    {"role": "assistant", "content": error.answer},
                    {"role": "user", "content": f"That cannot be used: {why}\n{_TASK}"},
                ]
    raise AnswerError(why)


def describe_study(space: Space, rows: Sequence[Row], objectives: Sequence[str]) -> str:
    """What the model is shown: the space, the objectives and a line for each row."""
    aims = ", ".join(f"{OF_RUNS[name].direction} {name}" for name in objectives)
    states = "\n".join(f"{name}: {STATES[name]}" for name in STATES)
    journal = "\n".join(_describe_row(row) for row in rows)
    return (
        f"Model family: {space.family}\nObjectives on validation scans: {aims}\n\n"
        f"Space (TOML):\n{space.to_toml()}\n\nStates of a run:\n{states}\n\n"
        f"Journal, one run a line:\n{journal or 'no runs yet'}\n\n{_TASK}"
    )


def _describe_row(row: Row) -> str:
    shown = {
        "run": row.number,
        "role": row.role,
        "of": row.of,
        "seed": row.seed,
        "proposer": row.proposer,
        "state": row.state,
        "reason": row.reason[:_NOTE_CHARACTERS],
        "values": row.values,
        "figures": {n: float(f"{v:.5g}") for n, v in row.figures.items()},
        "peak_memory_mib": row.peak_memory_bytes >> 20,
        "seconds": round(row.seconds),
    }
    return json.dumps(shown, separators=(",", ":"))


def _find_provider(given: Mapping[str, str]) -> str:
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
    """The base URL without a last slash."""
    try:
        parts = urlsplit(address)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_good = is_good and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise InputError(f"{variable} must be an http or https URL: correct it")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Without its value, which may hold a password.
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


def _send(endpoint: Endpoint, talk: list[dict[str, str]], limit_s: float) -> str:
    """Post the talk and return what the model says, within the limit.

    In a thread of its own, because no setting of `requests` bounds the name look-up
    or an answer that drips; a thread that is given up ends with its connection.
    """
    if limit_s <= 0:
        raise AnswerError(_late(endpoint))
    outcome: SimpleQueue[str | AnswerError | _TryAgainError] = SimpleQueue()

    def work() -> None:
        try:
            outcome.put(_post(endpoint, talk, limit_s))
        except (AnswerError, _TryAgainError) as error:
            outcome.put(error)

    Thread(target=work, daemon=True, name="language-model").start()
    try:
        result = outcome.get(timeout=limit_s)
    except Empty:
        raise AnswerError(_late(endpoint)) from None
    if isinstance(result, str):
        return result
    raise result


def _late(endpoint: Endpoint) -> str:
    return f"no usable answer within {endpoint.timeout_s:g} s"


def _post(endpoint: Endpoint, talk: list[dict[str, str]], limit_s: float) -> str:
    """One request; the text of its answer."""
    until = time.monotonic() + limit_s
    path = {"openai": "/chat/completions", "anthropic": "/v1/messages"}
    body: dict[str, Any] = {"model": endpoint.model, "messages": talk}
    if endpoint.provider == "anthropic":
        body["max_tokens"] = _MOST_ANSWER_TOKENS

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if endpoint.provider == "anthropic":
            request.headers["x-api-key"] = endpoint.key
            request.headers["anthropic-version"] = "2023-06-01"
        elif endpoint.key:
            request.headers["Authorization"] = f"Bearer {endpoint.key}"
        return request

    try:
        with requests.post(
            endpoint.address + path[endpoint.provider],
            json=body,
            auth=sign,  # or a .netrc would replace the key
            stream=True,
            timeout=limit_s,
            allow_redirects=False,  # the key is for this host
        ) as response:
            _check_status(response, until)
            content = _read_body(response, until)
    except requests.Timeout:
        raise AnswerError(_late(endpoint)) from None
    except requests.ConnectionError as error:
        if time.monotonic() >= until:
            raise AnswerError(_late(endpoint)) from None
        refused = "refused" in str(error)
        why = "connection refused" if refused else "no connection"
        raise _TryAgainError(why, wait_s=_WAIT_S) from None
    except requests.RequestException as error:
        raise _TryAgainError(f"broken answer ({type(error).__name__})") from None
    return _find_text(endpoint.provider, content)


def _check_status(response: requests.Response, until: float) -> None:
    """Raise what the status says, with the server's words."""
    if response.status_code == 200:
        return
    raw = _parse(_read_body(response, until))
    try:
        why = f"HTTP {response.status_code}, {raw['error']['message']}"
    except (KeyError, TypeError):
        why = f"HTTP {response.status_code}"
    if response.status_code not in _BUSY:
        raise AnswerError(why)
    raise _TryAgainError(why, wait_s=_wait_asked_s(response.headers.get("Retry-After")))


def _wait_asked_s(text: str | None) -> float:
    """Seconds to wait by a Retry-After header: a number of seconds or a date.

    Source: RFC 9110, section 10.2.3.
    """
    if text is None:
        return _WAIT_S
    try:
        wait_s = float(text)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return _WAIT_S
    return max(wait_s, 0.0) if math.isfinite(wait_s) else _WAIT_S


def _read_body(response: requests.Response, until: float) -> bytes:
    content = b""
    for chunk in response.iter_content(1 << 8):
        content += chunk
        if len(content) > _MOST_ANSWER_BYTES:
            raise AnswerError(f"answer of more than {_MOST_ANSWER_BYTES >> 20} MiB")
        if time.monotonic() > until:
            break
    return content


def _find_text(provider: str, content: bytes) -> str:
    """What the model says in the body of an answer."""
    raw = _parse(content)
    try:
        if provider == "openai":
            text = raw["choices"][0]["message"]["content"]
        else:
            text = "".join(
                block["text"] for block in raw["content"] if block["type"] == "text"
            )
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str) or not text.strip():
        raise _TryAgainError("answer without text of a model")
    if len(text) > _MOST_ANSWER_CHARACTERS:
        raise AnswerError(f"answer of more than {_MOST_ANSWER_CHARACTERS} characters")
    return text


def _parse(content: bytes) -> Any:
    """JSON, or None for what is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _read_answer(
    endpoint: Endpoint,
    answer: str,
    space: Space,
    is_new: Callable[[dict[str, Any]], bool],
) -> tuple[dict[str, Any], str]:
    """The values and the reason of an answer, checked."""
    raw = _find_object(answer)
    if raw is None:
        raise _TryAgainError(
            'no JSON object with "values" in the answer', answer=answer
        )
    if not isinstance(raw["values"], dict):
        raise _TryAgainError('"values" must be a JSON object', answer=answer)
    try:
        values = space.check(raw["values"])
    except InputError as error:
        raise _TryAgainError(str(error), answer=answer) from None
    if not is_new(values):
        raise _TryAgainError("these values were tried before", answer=answer)
    return values, _tidy(endpoint, str(raw.get("reason", "")))


def _find_object(text: str) -> dict[str, Any] | None:
    """The last JSON object with "values" in a text with or without words around it."""
    decoder, found, start = json.JSONDecoder(), None, text.find("{")
    while start >= 0:
        try:
            raw, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            found = raw if "values" in raw else found
        start = text.find("{", end)
    return found


def _tidy(endpoint: Endpoint, text: str) -> str:
    """One short line without control characters and without the key."""
    # Spaces for control characters: else they could hide the key from the search.
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    if endpoint.key:
        line = line.replace(endpoint.key, "[key]")
    return line[:_NOTE_CHARACTERS]

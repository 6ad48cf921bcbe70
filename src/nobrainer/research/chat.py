"""Talk to a language model by HTTP: post the messages, get its answer.

Speaks OpenAI's chat completions and Anthropic's messages.
"""

import json
import math
import time
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import requests

from nobrainer.research.endpoint import Endpoint

_WAIT_S = 1.0
"""Seconds to wait where a busy server does not say how long."""
_MOST_ANSWER_BYTES = 1 << 20
_MOST_ANSWER_CHARACTERS = 20_000
_MOST_ANSWER_TOKENS = 4096
_BUSY = (408, 429, 500, 502, 503, 504, 529)
"""HTTP status codes after which another try may succeed."""


class AnswerError(Exception):
    """The language model gave no values that can be used; the message says why."""


class TryAgainError(Exception):
    """This try failed, but another one may succeed.

    Args:
        why: why it failed, in one line.
        wait_s: seconds to wait before the next try.
        answer: what the model said; "" where it gave no answer.
    """

    def __init__(self, why: str, *, wait_s: float = 0.0, answer: str = "") -> None:
        super().__init__(why)
        self.wait_s = wait_s
        self.answer = answer


def send(endpoint: Endpoint, talk: list[dict[str, str]], limit_s: float) -> str:
    """Post the messages of a conversation and return the model's answer.

    The request runs in a thread of its own, because no setting of `requests` limits
    the time of a name look-up or of an answer that arrives byte by byte. A thread that
    is given up ends with its connection.

    Args:
        endpoint: the language model and how to reach it.
        talk: the messages so far, each with "role" and "content".
        limit_s: seconds within which the answer must be there.

    Raises:
        AnswerError: there is no answer in time, or another try would fail, too.
        TryAgainError: this request failed, but another one may succeed.
    """
    if limit_s <= 0:
        raise AnswerError(_late(endpoint))
    outcome: SimpleQueue[str | AnswerError | TryAgainError] = SimpleQueue()

    def work() -> None:
        try:
            outcome.put(_post(endpoint, talk, limit_s))
        except (AnswerError, TryAgainError) as error:
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
    """The message for an answer that did not come in time."""
    return f"no usable answer within {endpoint.timeout_s:g} s"


def _post(endpoint: Endpoint, talk: list[dict[str, str]], limit_s: float) -> str:
    """Send one request and return the text of its answer."""
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
            auth=sign,  # without it a .netrc would replace the key
            stream=True,
            timeout=limit_s,
            allow_redirects=False,  # the key is meant for this host alone
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
        raise TryAgainError(why, wait_s=_WAIT_S) from None
    except requests.RequestException as error:
        raise TryAgainError(f"broken answer ({type(error).__name__})") from None
    return _find_text(endpoint.provider, content)


def _check_status(response: requests.Response, until: float) -> None:
    """Raise the error that the HTTP status means, with the server's own message."""
    if response.status_code == 200:
        return
    raw = _parse(_read_body(response, until))
    try:
        why = f"HTTP {response.status_code}, {raw['error']['message']}"
    except (KeyError, TypeError):
        why = f"HTTP {response.status_code}"
    if response.status_code not in _BUSY:
        raise AnswerError(why)
    raise TryAgainError(why, wait_s=_wait_asked_s(response.headers.get("Retry-After")))


def _wait_asked_s(text: str | None) -> float:
    """Seconds to wait according to a Retry-After header: a number or a date.

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
    """Read what a server sends, until the time is up; refuse what is too long."""
    content = b""
    for chunk in response.iter_content(1 << 8):
        content += chunk
        if len(content) > _MOST_ANSWER_BYTES:
            raise AnswerError(f"answer of more than {_MOST_ANSWER_BYTES >> 20} MiB")
        if time.monotonic() > until:
            break
    return content


def _find_text(provider: str, content: bytes) -> str:
    """Find the model's text in the body of an answer."""
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
        raise TryAgainError("answer without text of a model")
    if len(text) > _MOST_ANSWER_CHARACTERS:
        raise AnswerError(f"answer of more than {_MOST_ANSWER_CHARACTERS} characters")
    return text


def _parse(content: bytes) -> Any:
    """Parse JSON; None for anything else."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None

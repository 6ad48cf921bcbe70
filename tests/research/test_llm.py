"""What a language model proposes, from a real server that also misbehaves."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nobrainer.research.endpoint import Endpoint
from nobrainer.research.journal import Row
from nobrainer.research.proposers import (
    MODEL_SHARE,
    PROPOSERS,
    Proposal,
    propose_by_model,
    propose_tpe,
)
from nobrainer.research.ranges import Choice, Integer
from nobrainer.research.space import Space, family_space

SPACE = family_space("bayesian_vnet")
DICE = ("dice",)
KEY = "sk-a-Secret_key.1+/=42"
GOOD = {"base_filters": 16, "levels": 2, "prior_type": "laplace", "kl_weight": 0.0001}
GOOD |= {"dropout_rate": 0.1, "learning_rate": 0.002, "block_shape": "64x64x64"}
TRIED = GOOD | {"levels": 3}
ROWS = [
    Row(0, "baseline", 0, {"levels": 3}, 0, "", state="done", figures={"dice": 0.71}),
    Row(
        number=1,
        role="proposal",
        of=1,
        values=GOOD | {"base_filters": 32},
        seed=0,
        proposer="tpe",
        state="memory",
        reason="used more than 3.0 GB",
        peak_memory_bytes=3 << 30,
        seconds=12.3,
    ),
    Row(2, "proposal", 2, TRIED, 0, "tpe", state="done", figures={"dice": 0.8123456}),
    Row(3, "repeat", 2, TRIED, 1, "tpe", state="running"),
]
Reply = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Gives the replies in turn, the last one for ever, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    """Speaks both protocols as far as the script says."""

    server: Server

    def do_POST(self) -> None:
        server = self.server
        server.paths.append(self.path)
        server.headers.append({k.lower(): v for k, v in self.headers.items()})
        length = int(self.headers["Content-Length"])
        server.bodies.append(json.loads(self.rfile.read(length)))
        server.replies[min(len(server.bodies), len(server.replies)) - 1](self)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def raw(body: bytes, status: int = 200, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def say(text: Any) -> Reply:
    """An answer of a model behind the protocol of OpenAI."""
    return raw(json.dumps({"choices": [{"message": {"content": text}}]}).encode())


def answer(values: Any, reason: Any = "a hunch") -> Reply:
    return say(json.dumps({"values": values, "reason": reason}))


def fail(status: int, message: str = "no", **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message}}).encode()
    return raw(body, status, **headers)


def slow(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)
    answer(GOOD)(handler)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte of the body every 50 ms, for longer than anyone waits."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(60):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def drip_header(handler: BaseHTTPRequestHandler) -> None:
    """The same before the body begins: no time-out between bytes sees it."""
    for _ in range(60):
        handler.wfile.write(b"H")
        handler.wfile.flush()
        time.sleep(0.05)


def huge(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(64):
        handler.wfile.write(b'{"a": "' + b"x" * (1 << 16))


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def ask(
    server: Server, *replies: Reply, timeout_s: float = 10.0, seed: int = 0
) -> Proposal:
    server.replies = list(replies)
    endpoint = Endpoint("openai", f"{server.url}/v1", "a-model", KEY, timeout_s)
    proposal = propose_by_model(endpoint, SPACE, ROWS, DICE, seed)
    assert proposal is not None
    return proposal


def assert_fell_back(proposal: Proposal, why: str, seed: int = 0) -> None:
    tpe = propose_tpe(SPACE, ROWS, DICE, seed)
    assert tpe is not None
    note = f"language model failed: {why}; tpe instead"
    assert proposal == replace(tpe, note=note)


def test_openai_protocol_carries_the_whole_journal(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What `requests` would log in with, in place of the key.
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("NOBRAINER_LLM_PROVIDER", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1/")
    monkeypatch.setenv("NOBRAINER_LLM_MODEL", "a-model")
    server.replies = [answer(GOOD, "narrow\nfits\x1b[31m")]
    proposal = PROPOSERS["llm"]()(SPACE, ROWS, ("dice", "nll"), 0)
    assert proposal == Proposal(GOOD, "llm", "narrow fits [31m")
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["content-type"] == "application/json"
    body = server.bodies[0]
    assert body["model"] == "a-model"
    [message] = body["messages"]
    assert message["role"] == "user"
    text = message["content"]
    assert SPACE.to_toml() in text
    assert "maximize dice, minimize nll" in text
    lines = [json.loads(ln) for ln in text.splitlines() if ln.startswith('{"run"')]
    assert [line["run"] for line in lines] == [0, 1, 2, 3]
    assert lines[1] == {
        "run": 1,
        "role": "proposal",
        "of": 1,
        "seed": 0,
        "proposer": "tpe",
        "state": "memory",
        "reason": "used more than 3.0 GB",
        "values": GOOD | {"base_filters": 32},
        "figures": {},
        "peak_memory_mib": 3072,
        "seconds": 12,
    }
    assert lines[2]["figures"] == {"dice": 0.81235}
    assert (lines[3]["role"], lines[3]["seed"]) == ("repeat", 1)


def test_anthropic_protocol(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    monkeypatch.setenv("NOBRAINER_LLM_MODEL", "a-model")
    monkeypatch.setenv("NOBRAINER_LLM_PROVIDER", "anthropic")
    said = json.dumps({"values": GOOD, "reason": "why not"})
    blocks = [{"type": "thinking", "thinking": "{}"}, {"type": "text", "text": said}]
    server.replies = [raw(json.dumps({"content": blocks}).encode())]
    proposal = PROPOSERS["llm"]()(SPACE, ROWS, DICE, 0)
    assert proposal == Proposal(GOOD, "llm", "why not")
    assert server.paths == ["/v1/messages"]
    assert server.headers[0]["x-api-key"] == KEY
    assert server.headers[0]["anthropic-version"] == "2023-06-01"
    assert "authorization" not in server.headers[0]
    body = server.bodies[0]
    assert body["max_tokens"] > 500 and body["model"] == "a-model"
    assert '"run":3' in body["messages"][0]["content"]


def test_a_server_without_keys_gets_none(server: Server) -> None:
    server.replies = [answer(GOOD)]
    endpoint = Endpoint("openai", server.url, "a-model", "")
    proposal = propose_by_model(endpoint, SPACE, ROWS, DICE, 0)
    assert proposal is not None and proposal.proposer == "llm"
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"values": VALUES, "reason": "a hunch"}\n```',
        'I think {about} it.\n{"values": VALUES, "reason": "a hunch"}\nGood luck!',
        '<think>{"values": {}}</think>{"reason": "a hunch", "values": VALUES}',
    ],
)
def test_json_may_stand_among_words(server: Server, text: str) -> None:
    proposal = ask(server, say(text.replace("VALUES", json.dumps(GOOD))))
    assert proposal == Proposal(GOOD, "llm", "a hunch")
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (GOOD | {"levels": 9}, "levels must be one of 2, 3, 4, got 9"),
        (GOOD | {"learning_rate": float("nan")}, "from 0.0001 to 0.01, got nan"),
        (GOOD | {"learning_rate": 10**400}, "learning_rate must be a number from"),
        (GOOD | {"code": "import os"}, "unknown parameter of bayesian_vnet 'code'"),
        ({"levels": 2}, "base_filters is missing"),
        ([], '"values" must be a JSON object'),
        (TRIED, "these values were tried before"),
    ],
)
def test_values_that_cannot_be_used_are_told_back(
    server: Server, values: Any, why: str
) -> None:
    proposal = ask(server, answer(values), answer(GOOD))
    assert proposal == Proposal(GOOD, "llm", "a hunch")
    first, second, third = server.bodies[1]["messages"]
    assert first == server.bodies[0]["messages"][0]
    assert second["role"] == "assistant" and '"values"' in second["content"]
    assert third["role"] == "user" and why in third["content"]


def test_three_tries_and_no_more(server: Server) -> None:
    proposal = ask(server, say("Sorry, no."))
    assert_fell_back(proposal, 'no JSON object with "values" in the answer')
    assert len(server.bodies) == 3
    assert [m["role"] for m in server.bodies[2]["messages"]] == [
        *("user", "assistant") * 2,
        "user",
    ]


@pytest.mark.parametrize(
    "reply",
    [
        raw(b"<html>hello</html>"),
        raw(b"\xff\xfe\x00garbage"),
        raw(b""),
        raw(b"[" * 100_000),
        raw(b'{"choices": []}'),
        raw(b'{"choices": [{"message": {"content": [1]}}]}'),
        say(None),
        say("  "),
    ],
)
def test_garbage_is_asked_again_and_then_left(server: Server, reply: Reply) -> None:
    assert ask(server, reply, answer(GOOD)).proposer == "llm"
    assert server.bodies[0] == server.bodies[1]
    assert_fell_back(ask(server, reply), "answer without text of a model")


def test_deep_and_long_answers_are_left(server: Server) -> None:
    deep = say('{"values":' * 1900)
    assert_fell_back(ask(server, deep), 'no JSON object with "values" in the answer')
    started = time.monotonic()
    assert_fell_back(ask(server, huge), "answer of more than 1 MiB")
    long = say("x" * 30_000)
    assert_fell_back(ask(server, long), "answer of more than 20000 characters")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("reply", [slow, drip, drip_header])
def test_time_out_bounds_the_whole(server: Server, reply: Reply) -> None:
    started = time.monotonic()
    proposal = ask(server, reply, timeout_s=0.6)
    assert time.monotonic() - started < 1.3
    assert_fell_back(proposal, "no usable answer within 0.6 s")


def test_refused_and_broken_connections(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    endpoint = Endpoint("openai", url, "a-model", KEY, 0.5)
    proposal = propose_by_model(endpoint, SPACE, ROWS, DICE, 0)
    assert proposal is not None
    assert_fell_back(proposal, "connection refused")
    assert ask(server, hang_up, answer(GOOD)).proposer == "llm"


@pytest.mark.parametrize("as_date", [False, True])
def test_rate_limit_is_waited_for_as_long_as_the_server_says(
    server: Server, as_date: bool
) -> None:
    # A date has whole seconds: two from now are between one and two.
    delay = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    started = time.monotonic()
    proposal = ask(server, fail(429, Retry_After=delay), answer(GOOD))
    assert proposal.proposer == "llm"
    assert 0.9 < time.monotonic() - started < 3


def test_no_wait_goes_beyond_the_time_out(server: Server) -> None:
    started = time.monotonic()
    proposal = ask(server, fail(429, "slow down", Retry_After="3600"))
    assert_fell_back(proposal, "HTTP 429, slow down")
    assert time.monotonic() - started < 1
    assert len(server.bodies) == 1


def test_server_errors_are_tried_again_and_refusals_are_not(server: Server) -> None:
    again = [fail(500, Retry_After="0"), fail(503, Retry_After="0"), answer(GOOD)]
    assert ask(server, *again).proposer == "llm"
    for status in (400, 401, 403, 404):
        server.bodies.clear()
        proposal = ask(server, fail(status, "go away"), answer(GOOD))
        assert_fell_back(proposal, f"HTTP {status}, go away")
        assert len(server.bodies) == 1


def test_redirects_do_not_get_the_key(server: Server) -> None:
    with Server() as other:
        moved = raw(b"", 307, Location=f"{other.url}/v1/chat/completions")
        assert_fell_back(ask(server, moved), "HTTP 307")
        assert other.bodies == []


@pytest.mark.parametrize(
    "reply",
    [
        answer(GOOD, f"I was given {KEY} to work with"),
        answer(GOOD, "x" * 290 + KEY),
        answer(GOOD | {"prior_type": KEY}),
        answer(GOOD | {KEY: 1}),
        fail(401, f"wrong key {KEY}"),
        fail(500, f"error at {KEY}\n{KEY}", Retry_After="0"),
    ],
)
def test_the_key_is_nowhere(
    server: Server, reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        proposal = ask(server, reply)
    assert proposal.note.count("[key]") or "x" * 290 in proposal.note
    for text in (proposal.note, str(proposal), caplog.text):
        assert KEY not in text and KEY[:9] not in text
    assert len(proposal.note) < 350 and proposal.note.isprintable()


@pytest.mark.parametrize("works", [True, False])
def test_mixed_asks_the_model_for_three_in_ten_at_most(
    server: Server, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    """A model that fails is asked no more often than one that answers."""
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "NOBRAINER_LLM_PROVIDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("NOBRAINER_LLM_MODEL", "a-model")
    propose = PROPOSERS["mixed"]()
    rows = ROWS[:1]
    for number in range(1, 31):
        server.replies = [
            answer(GOOD | {"learning_rate": 2e-4 * number}) if works else fail(401)
        ]
        proposal = propose(SPACE, rows, DICE, number)
        assert proposal is not None
        dice, (values, who, note) = number / 100, vars(proposal).values()
        row = Row(number, "proposal", number, values, 0, who, note)
        rows.append(replace(row, state="done", figures={"dice": dice}))
        asked = sum(
            r.proposer == "llm" or "language model failed" in r.note for r in rows
        )
        assert asked <= MODEL_SHARE * number
        assert asked == len(server.bodies)
    assert asked == 9
    assert [r.proposer for r in rows[1:6]] == ["tpe"] * 5
    assert sum(r.proposer == "llm" for r in rows) == (9 if works else 0)


def test_a_space_that_is_exhausted_is_not_asked_about(server: Server) -> None:
    server.replies = [answer(GOOD)]
    space = Space("vnet", {"levels": Choice((2, 3)), "base_filters": Integer(8, 9)})
    rows = [
        Row(n, "proposal", n, {"levels": 2 + n % 2, "base_filters": 8 + n // 2}, 0, "")
        for n in range(4)
    ]
    endpoint = Endpoint("openai", server.url, "a-model", KEY)
    assert propose_by_model(endpoint, space, rows, DICE, 0) is None
    assert server.bodies == []

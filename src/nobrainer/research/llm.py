"""Ask a language model what to try next; it names values and nothing is executed."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from nobrainer.errors import InputError
from nobrainer.glossary import OF_RUNS
from nobrainer.research.chat import AnswerError, TryAgainError, send
from nobrainer.research.endpoint import Endpoint
from nobrainer.research.journal import STATES, Row
from nobrainer.research.space import Space

_N_TRIES = 3
_NOTE_CHARACTERS = 300
"""Characters of a reason or a note that are kept."""
_TASK = """\
You help to search for the best training recipe of a Bayesian network that segments \
3-D brain MRI. You are given the space of its parameters and the journal of all runs \
so far. Propose the values that you expect to teach or improve the most, new ones in \
every case. Values that ran out of memory or time, diverged or crashed tell you what \
to keep away from. Answer with one JSON object and nothing else:
{"values": {"<each parameter of the space>": <value>, ...}, "reason": "<why, in one \
sentence>"}"""


def ask_for_values(
    endpoint: Endpoint,
    space: Space,
    rows: Sequence[Row],
    objectives: Sequence[str],
    *,
    is_new: Callable[[dict[str, Any]], bool],
) -> tuple[dict[str, Any], str]:
    """Show a language model the space and the whole journal and let it name values.

    Where an answer cannot be used the model is told why and asked again, at most twice.
    A busy server is given the time that it asks for, within the endpoint's time-out.

    Args:
        endpoint: the language model and how to reach it.
        space: the space that is searched.
        rows: rows of all runs, those under way included.
        objectives: names of `OBJECTIVES` by which runs are judged.
        is_new: tells whether values have not been tried yet.

    Returns: values that `space.check` accepts, and the model's reason in one line.

    Raises:
        AnswerError: the model could not be reached, or named no such values.
    """
    deadline = time.monotonic() + endpoint.timeout_s
    talk = [{"role": "user", "content": describe_study(space, rows, objectives)}]
    why = ""
    for turn in range(_N_TRIES):
        try:
            answer = send(endpoint, talk, deadline - time.monotonic())
            return _read_answer(endpoint, answer, space, is_new)
        except AnswerError as error:
            raise AnswerError(_tidy(endpoint, str(error))) from None
        except TryAgainError as error:
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
    """The text that the model is shown: space, objectives, journal, and its task.

    Args:
        space: the space that is searched.
        rows: rows of all runs; each becomes a line.
        objectives: names of `OBJECTIVES` by which runs are judged.
    """
    aims = ", ".join(f"{OF_RUNS[name].direction} {name}" for name in objectives)
    states = "\n".join(f"{name}: {STATES[name]}" for name in STATES)
    journal = "\n".join(_describe_row(row) for row in rows)
    return (
        f"Model family: {space.family}\nObjectives on validation scans: {aims}\n\n"
        f"Space (TOML):\n{space.to_toml()}\n\nStates of a run:\n{states}\n\n"
        f"Journal, one run a line:\n{journal or 'no runs yet'}\n\n{_TASK}"
    )


def _describe_row(row: Row) -> str:
    """A run as one line of JSON, with what helps to choose the next values."""
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


def _read_answer(
    endpoint: Endpoint,
    answer: str,
    space: Space,
    is_new: Callable[[dict[str, Any]], bool],
) -> tuple[dict[str, Any], str]:
    """Read values and reason from an answer; refuse values that cannot be tried."""
    raw = _find_object(answer)
    if raw is None:
        raise TryAgainError('no JSON object with "values" in the answer', answer=answer)
    if not isinstance(raw["values"], dict):
        raise TryAgainError('"values" must be a JSON object', answer=answer)
    try:
        values = space.check(raw["values"])
    except InputError as error:
        raise TryAgainError(str(error), answer=answer) from None
    if not is_new(values):
        raise TryAgainError("these values were tried before", answer=answer)
    return values, _tidy(endpoint, str(raw.get("reason", "")))


def _find_object(text: str) -> dict[str, Any] | None:
    """Find the last JSON object with "values", whatever text stands around it."""
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
    """Make a text one short line, without control characters and without the key."""
    # Spaces for control characters: else they could hide the key from the search.
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    if endpoint.key:
        line = line.replace(endpoint.key, "[key]")
    return line[:_NOTE_CHARACTERS]

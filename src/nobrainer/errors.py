"""The errors that mean "what you gave us cannot be used", and any error in one line."""

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)
_LONGEST = 500
_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|allocate memory|ALLOC_FAILED"
    r"|killed by signal: Killed"  # what a DataLoader says of a worker that it lost
)

_NAMED = 3
"""How many further files with the same problem a line names."""


class InputError(ValueError):
    """Bad input: the message names the thing, the rule it breaks and what to do.

    The command line prints it as one line; every other exception is a defect of
    ours (or of the machine) and keeps its traceback.
    """


class DivergedError(InputError):
    """Training met a loss that is not finite."""


def list_problems(problems: Iterable[tuple[str, str]]) -> str:
    """What is wrong with several files, a line for each different problem.

    Args:
        problems: name of the file and what is wrong with it.

    Returns:
        Lines in the order in which problems came first. A problem that many files
        have is said once, with the names of the first four.

    >>> print(list_problems([("a", "is cut short"), ("b", "is cut short")]))
    a: is cut short (and 1 other: b)
    """
    found: dict[str, list[str]] = {}
    for name, problem in problems:
        found.setdefault(problem, []).append(name)
    lines = []
    for problem, (first, *others) in found.items():
        line = f"{first}: {problem}"
        if others:
            shown = ", ".join(others[:_NAMED])
            more = len(others) - _NAMED
            rest = f" and {more} more" if more > 0 else ""
            line += (
                f" (and {len(others)} other{'s' * (len(others) > 1)}: {shown}{rest})"
            )
        lines.append(line)
    return "\n".join(lines)


def tell(error: BaseException) -> str:
    """An exception in one line: its type, what it says, and where it comes from.

    The place is the innermost line of nobrainer's source that the traceback names, or
    the innermost of all if it names none. The function that caught the exception does
    not count.
    """
    text = in_one_line(traceback.format_exception_only(error)[-1])
    frames = traceback.extract_tb(error.__traceback__)[1:]
    ours = [frame for frame in frames if frame.filename.startswith(_PACKAGE)]
    for frame in (ours or frames)[-1:]:
        text += f" ({Path(frame.filename).name}:{frame.lineno} in {frame.name})"
    return text


def in_one_line(text: str) -> str:
    """The text on one line, cut where it is too long to be read."""
    return " ".join(text.split())[:_LONGEST]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the machine or of its GPU, has run out."""
    said = str(error) if isinstance(error, RuntimeError | OSError) else ""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or bool(_OUT_OF_MEMORY.search(said))
    )


def printable(text: str) -> str:
    r"""The text with what could steer a terminal, or cannot be shown, as escapes.

    Tabs and line ends stay.

    >>> printable("sub-01\x1b[2J.nii")
    'sub-01\\x1b[2J.nii'
    """
    return "".join(
        c if c.isprintable() or c in "\t\n" else c.encode("unicode_escape").decode()
        for c in text
    )


class UnusualScanWarning(UserWarning):
    """A scan, or what was segmented in it, is unlike what the model has seen."""


class FewerDrawsWarning(UserWarning):
    """A number of draws was asked for that the model cannot make."""

"""The errors that mean "what you gave us cannot be used"."""

from collections.abc import Iterable

_NAMED = 3
"""Files with the same problem as another that its line names."""


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

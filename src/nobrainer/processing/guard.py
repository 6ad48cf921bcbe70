"""Work on several scans, of which none stops the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from nobrainer.errors import InputError, in_one_line, is_out_of_memory, tell
from nobrainer.io import ImageSource, read_geometry

ISSUES = "https://github.com/neuronets/nobrainer/issues"


class Batch:
    """The scans of one call, and what went wrong with some of them.

    Args:
        stop_at_first: let the first error end the call, with its traceback.

    `problems` has a line for each scan that has no result.
    """

    def __init__(self, *, stop_at_first: bool = False) -> None:
        self.problems: list[str] = []
        self._stops = stop_at_first

    @contextmanager
    def scan(self, source: ImageSource, name: str | None = None) -> Iterator[None]:
        """Do the work on one scan inside: an error ends it, and is kept as a line.

        This is the one place where any error of a scan is caught. A file can be
        wrong in ways that nobody has thought of, and software that reads it can
        answer with any exception; a night's work on a cohort must not be lost to it.
        An error that was not foreseen is called a defect, with the line of the source
        that it comes from. An interruption by the user is no error and ends the call.

        Args:
            source: the scan.
            name: what to call it; default its path.
        """
        try:
            yield
        except InputError as error:
            if self._stops:
                raise
            self.problems.append(str(error))
        except Exception as error:
            if self._stops:
                raise
            is_path = isinstance(source, str | PathLike)
            called = name or (str(source) if is_path else "a scan in memory")
            self.problems.append(f"{called}: {_explain(error, source)}")


def _explain(error: Exception, source: ImageSource) -> str:
    if is_out_of_memory(error):
        return (
            f"{_size(source)} is too large for the memory that is free: give a smaller "
            "block_shape (--block-shape), or use a machine with more"
        )
    if isinstance(error, OSError | UnicodeError):
        return (
            f"{in_one_line(str(error))}: check its name, the place of the results, "
            "permissions and free space"
        )
    return f"{tell(error)}: this is a defect: please report the line at {ISSUES}"


def _size(source: ImageSource) -> str:
    """How large a scan is, where that can be read, as the subject of a sentence."""
    try:
        shape = read_geometry(source).shape
    except (InputError, MemoryError):
        return "the scan"
    return f"a scan of {' x '.join(map(str, shape))} voxels"

"""What the pages of all reports are made of, and how one is written.

A page is one file: figures, viewers and style are inside it, and its content security
policy keeps browsers from loading anything else.
"""

import math
import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePath
from typing import Literal, Self
from urllib.parse import quote

import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nobrainer import __version__
from nobrainer.errors import InputError
from nobrainer.io import write_text

_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("nobrainer", "report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_DPI = 90
_ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names the row.

    caption: text above the table.
    head: heads of the columns.
    rows: the cells of each row.
    texts: heads of the columns that hold sentences and no numbers.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...] = ()

    def without_blanks(self) -> Self:
        """The table without columns that are defined for no row."""
        kept = [
            n
            for n in range(len(self.head))
            if n == 0 or any(row[n] != _ABSENT for row in self.rows)
        ]
        return replace(
            self,
            head=tuple(self.head[n] for n in kept),
            rows=tuple(tuple(row[n] for n in kept) for row in self.rows),
        )


@dataclass(frozen=True)
class Picture:
    """A figure, with the text for those who do not see it.

    media: type of the image, such as "image/png".
    data: the bytes of the image.
    alt: what it shows.
    """

    media: str
    data: bytes
    alt: str

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return f"data:{self.media};base64,{b64encode(self.data).decode()}"


def embed_figure(figure: Figure, alt: str, kind: Literal["png", "svg"]) -> Picture:
    """Turn a figure into an image that needs no file.

    As an image of its own, an SVG cannot share identifiers with the others of a page.

    Args:
        figure: the figure.
        alt: what it shows, for those who do not see it.
        kind: "svg" for charts of lines, "png" for slices.
    """
    media = {"png": "image/png", "svg": "image/svg+xml"}[kind]
    return Picture(media, _render(figure, kind), alt)


def inline_figure(figure: Figure, alt: str) -> Markup:
    """Turn a figure into SVG elements, in which links work; at most one on a page.

    Args:
        figure: the figure.
        alt: what it shows, for those who do not see it.
    """
    text = _render(figure, "svg").decode()
    # matplotlib escapes the names that it is given, in texts, comments and links.
    start = text.index("<svg") + len("<svg")
    label = Markup('<svg role="group" aria-label="{}"').format(alt)
    return label + Markup(text[start:])


def number(value: float, digits: int = 3) -> str:
    """Write a number, or a dash where it is not defined.

    Args:
        value: the number; NaN and infinity are not defined.
        digits: number of decimals.
    """
    return f"{value:.{digits}f}" if math.isfinite(value) else _ABSENT


def span(low: float, high: float, digits: int = 3) -> str:
    """Write an interval, or a dash where it is not defined.

    Args:
        low: its lower end.
        high: its upper end.
        digits: number of decimals.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return _ABSENT
    return f"{low:.{digits}f} to {high:.{digits}f}"


def address(page: str | os.PathLike[str]) -> str:
    """The relative address of a page, as links have it."""
    # A name that is not UTF-8 is linked to by its bytes.
    return quote(PurePath(page).as_posix(), safe="/", errors="surrogateescape")


def check_free(path: Path, *, overwrite: bool) -> None:
    """Check that a page may be written.

    Args:
        path: path of the page.
        overwrite: whether a page that is there may be replaced.

    Raises:
        InputError: a directory is there, or a page that must be kept.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory: give the name of an HTML file")
    if os.path.exists(path) and not overwrite:
        raise InputError(
            f"{path}: exists already: choose another name or overwrite it "
            "(overwrite=True)"
        )


def write_document(
    path: Path,
    template: str,
    content: Mapping[str, object],
    *,
    caution: str,
    overwrite: bool,
) -> Path:
    """Fill a template and write it, all of it or nothing.

    Args:
        path: path of the page.
        template: a file of this package.
        content: what the template shows.
        caution: text below the title, if not empty; see `Provenance.caution`.
        overwrite: replace a page that is there.

    Returns:
        The path of the page.

    Raises:
        InputError: the file exists already, or cannot be written.
    """
    check_free(path, overwrite=overwrite)
    page = _PAGES.get_template(template).render(
        content, caution=caution, version=__version__
    )
    return write_text(page, path, overwrite=overwrite)


def _render(figure: Figure, kind: str) -> bytes:
    data = BytesIO()
    figure.set_dpi(_DPI)
    if kind == "png":
        # `savefig` would draw it twice, the first time for the layout alone.
        FigureCanvasAgg(figure).print_png(data)
        return data.getvalue()
    # The same report twice is the same file: no date, no random identifiers.
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with rc_context({"svg.hashsalt": "nobrainer"}):
        figure.savefig(data, format=kind, metadata=metadata)
    return data.getvalue()

"""A database that workers share; no message shows the password in its URL."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote_plus

from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from nobrainer.errors import InputError

_NAMED_SECRET = re.compile(r"[?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=([^&]+)")


def check_database(url: str) -> None:
    """Check that a database can be used as a storage.

    Args:
        url: URL of the database.

    Raises:
        InputError: the database cannot be used.
    """
    with refusing_storage(f"storage {public_url(url)}", url):
        RDBStorage(url)


@contextmanager
def refusing_storage(name: str, url: str | None) -> Iterator[None]:
    """Turn what a database or the system refuses into an error of one line.

    Args:
        name: what the message calls the storage.
        url: URL of the database, whose password the message hides; None for a file.

    Raises:
        InputError: the storage cannot be used.
    """
    try:
        yield
    except (SQLAlchemyError, ImportError, OSError) as error:
        reason = hide_password(str(error).splitlines()[0], url)
        raise InputError(
            f"{name}: cannot be used: {reason}: check the URL, its driver and the "
            "permissions"
        ) from error


def public_url(url: str | None) -> str:
    """The URL of a database without its password; "" where there is none.

    Args:
        url: the URL with its password; None for no database.

    Raises:
        InputError: the text is no such URL. The message does not repeat it, because
            the mistake may be in the password.
    """
    if url is None:
        return ""
    try:
        return hide_password(make_url(url).render_as_string(hide_password=True), url)
    except (ArgumentError, ValueError) as error:
        raise InputError(
            "storage must be a database's URL, such as postgresql://user@host/name, or "
            "nothing for a file in the study's folder: what was given cannot be read "
            "as one (it is not shown, for it may hold a password)"
        ) from error


def hide_password(text: str, url: str | None) -> str:
    """Replace every part of a text that may be the password of a database's URL.

    Args:
        text: text that may quote the URL, or a part of it.
        url: the URL; None hides nothing.
    """
    _, _, place = (url or "").partition("://")
    # Up to the last "@", because an "@" in a password is often not written as "%40".
    _, _, secret = place.rpartition("@")[0].partition(":")
    secrets = [secret, *_NAMED_SECRET.findall(place)]
    forms = {form for found in secrets for form in (found, unquote_plus(found))}
    # A driver may split the password at these characters and quote one part.
    parts = {part for form in forms for part in re.split("[@/:?#]", form)}
    parts = {part for part in parts if len(part) > 2}
    for form in sorted(filter(None, forms | parts), key=len, reverse=True):
        text = text.replace(form, "***")
    return text

"""Where files lie: a local path or a URI, to the filesystems that Tune's storage works with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def absolute(place: str | Path) -> str:
    """Return a URI as it is, and a local path absolute, `~` expanded."""
    text = str(place)
    return text if "://" in text else Path(text).expanduser().absolute().as_posix()


def below(place: str, name: str) -> str:
    """Return the place called `name` in a folder. What follows a question mark in a URI stays behind it."""
    path, mark, options = place.partition("?") if "://" in place else (place, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def shown(place: str | Path) -> str:
    """Return a place as it may be shown: a URI without the credentials in it."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", str(place))


def filesystem_of(place: str | Path) -> tuple[Any, str]:
    """Return the `pyarrow.fs.FileSystem` that a local path or URI lies on, and the path there.

    Raises:
        OSError: it can't be reached.
        ValueError: there is no such filesystem.
    """
    from pyarrow import fs

    text = absolute(place)
    return fs.FileSystem.from_uri(text) if "://" in text else (fs.LocalFileSystem(), text)

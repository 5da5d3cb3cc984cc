"""Where files lie: local paths and URIs, read through the pyarrow filesystems that Tune's storage works with."""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

_LARGEST: Final = 64 << 20


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


def write(place: str | Path, name: str, text: str) -> None:
    """Write a text file into a folder, which is made where it is missing.

    Raises:
        OSError: it can't be written.
        ValueError: there is no such filesystem.
    """
    filesystem, path = filesystem_of(place)
    filesystem.create_dir(path, recursive=True)
    with filesystem.open_output_stream(posixpath.join(path, name)) as stream:
        stream.write(text.encode())


class ExperimentError(Exception):
    """An experiment that can't be read; the text says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder.

    Attributes:
        filesystem: a `pyarrow.fs.FileSystem`.
        path: its path there.
        text: the place as a person wrote it, without credentials.
    """

    filesystem: Any
    path: str
    text: str

    @classmethod
    def of(cls, source: Any) -> Place:
        """Return the place of a path, a URI or a Tune `ResultGrid`.

        Raises:
            ExperimentError: it is none of these, or its filesystem can't be reached.
        """
        # A ResultGrid, told by what is used of it: Ray need not be there to read a folder.
        if hasattr(source, "experiment_path") and hasattr(source, "filesystem"):
            return cls(source.filesystem, str(source.experiment_path).rstrip("/"), str(source.experiment_path))
        if not isinstance(source, (str, Path)) or not str(source).strip():
            raise ExperimentError(
                f"{source!r} is no experiment; allowed are a folder or CSV file (path or URI) and a Tune ResultGrid"
            )
        text = shown(source)
        try:
            filesystem, path = filesystem_of(source)
        except (OSError, ValueError) as error:  # pyarrow's own errors are subclasses of these
            raise ExperimentError(
                f"{text} can't be reached: {error}. Check the scheme, the network and your credentials."
            ) from None
        return cls(filesystem, path.rstrip("/") or "/", text)

    def below(self, name: str) -> Place:
        """Return the place called `name` in this folder."""
        return Place(self.filesystem, posixpath.join(self.path, name), below(self.text, name))

    @property
    def name(self) -> str:
        """The last part of its path."""
        return posixpath.basename(self.path)

    @property
    def is_file(self) -> bool:
        """Whether a file is there."""
        return self._type() == "File"

    @property
    def is_folder(self) -> bool:
        """Whether a folder is there."""
        return self._type() == "Directory"

    def names(self) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the files in this folder, sorted; none where there is no such folder.

        Raises:
            OSError: the storage can't be reached.
        """
        from pyarrow import fs

        infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        named = sorted((info.base_name, info.type) for info in infos)
        return (
            [name for name, kind in named if kind == fs.FileType.Directory],
            [name for name, kind in named if kind == fs.FileType.File],
        )

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for reading.

        Raises:
            OSError: it can't be read.
        """
        with self.filesystem.open_input_stream(self.path) as stream, io.BufferedReader(stream, 1 << 20) as buffered:
            yield buffered

    def read(self) -> bytes:
        """Return what the file holds.

        Raises:
            ExperimentError: it is larger than a table, a config or a baseline can be.
            OSError: it can't be read.
        """
        with self.open() as stream:
            content = stream.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ExperimentError(f"{self.text} is larger than {_LARGEST >> 20} MB")
        return content

    def _type(self) -> str:
        return str(self.filesystem.get_file_info(self.path).type.name)

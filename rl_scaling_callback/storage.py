"""Local paths and URIs, accessed through pyarrow filesystems as in Tune's storage."""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

MAX_BYTES: Final = 64 << 20
"""Maximum size of a table or config [bytes], to bound memory."""


_CREDENTIALS: Final = re.compile(
    r"(?<=://)[^/?#\s]*@"  # user@ or user:password@
    r"|(?<![^\s/'\"])[^\s/:?#'\"]+:(?![/\\]|\d+/)[^\s?#'\"]*@"  # user:pass/word@, and user:password@ after a mistyped scheme
)
_SECRET_OPTIONS: Final = re.compile(r"(?i)(?<=[?&])([^=&\s]*(?:key|token|secret|passw|credential|sig)[^=&\s]*)=[^&#\s'\"]*")


def shown(text: str | Path) -> str:
    """Return a path or URI, or a message that contains some, for display: without credentials."""
    return _SECRET_OPTIONS.sub(r"\1=…", _CREDENTIALS.sub("", str(text)))


class ExperimentError(Exception):
    """An experiment can't be read; the message says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class Location:
    """A file or folder: its `pyarrow.fs.FileSystem`, the path there, and how the user wrote it, without credentials.

    Reading and writing raise OSError if the storage can't be reached.
    """

    filesystem: Any
    path: str
    text: str

    @classmethod
    def of(cls, source: Any) -> Location:
        """Return the location of a path, a URI or a Tune `ResultGrid`; a `Location` as it is.

        Raises:
            ExperimentError: it is none of these, or its filesystem can't be reached.
        """
        if isinstance(source, cls):
            return source
        # Recognise a ResultGrid by its attributes: reading a folder must not require Ray.
        if hasattr(source, "experiment_path") and hasattr(source, "filesystem"):
            return cls(source.filesystem, str(source.experiment_path).rstrip("/"), str(source.experiment_path))
        if not isinstance(source, (str, Path)) or not str(source).strip():
            raise ExperimentError(
                f"{source!r} is no path or URI; allowed as an experiment are also a DataFrame and a Tune ResultGrid"
            )
        from pyarrow import fs

        text = shown(source)
        try:
            if "://" not in str(source):
                return cls(fs.LocalFileSystem(), Path(source).expanduser().absolute().as_posix(), text)
            filesystem, path = fs.FileSystem.from_uri(str(source))
        except (OSError, ValueError, RuntimeError) as error:  # pyarrow's own errors are subclasses of these; no such user's home
            why = shown(str(error))
            raise ExperimentError(f"{text} can't be reached: {why}. Check the scheme, the network and your credentials.") from None
        return cls(filesystem, path.rstrip("/") or "/", text)

    def below(self, name: str) -> Location:
        """Return the file or folder called `name` in this folder. The query of a URI stays at its end."""
        path, mark, options = self.text.partition("?") if "://" in self.text else (self.text, "", "")
        return Location(self.filesystem, posixpath.join(self.path, name), f"{path.rstrip('/')}/{name}{mark}{options}")

    @property
    def parent(self) -> Location:
        """The folder that it is in."""
        return Location(self.filesystem, posixpath.dirname(self.path), posixpath.dirname(self.text))

    @property
    def name(self) -> str:
        """The last component of its path."""
        return posixpath.basename(self.path)

    @property
    def is_file(self) -> bool:
        """Whether it exists and is a file."""
        return bool(self.filesystem.get_file_info(self.path).is_file)

    @property
    def is_folder(self) -> bool:
        """Whether it exists and is a folder."""
        return bool(self.filesystem.get_file_info(self.path).type.name == "Directory")

    def names(self) -> tuple[list[str], list[str]]:
        """Return the sorted names of the subfolders and of the files in this folder; empty if it doesn't exist."""
        from pyarrow import fs

        infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        folders = sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)
        return folders, sorted(info.base_name for info in infos if info.is_file)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for reading."""
        with self.filesystem.open_input_stream(self.path) as stream, io.BufferedReader(stream, 1 << 20) as buffered:
            yield buffered

    def read(self) -> bytes:
        """Return the content of the file; raise `ExperimentError` if it is too large for a table, config or baseline."""
        with self.open() as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ExperimentError(f"{self.text} is larger than {MAX_BYTES >> 20} MB")
        return content

    def write(self, text: str) -> None:
        """Write the file. Its folder is created if needed."""
        self.filesystem.create_dir(posixpath.dirname(self.path), recursive=True)
        with self.filesystem.open_output_stream(self.path) as stream:
            stream.write(text.encode())

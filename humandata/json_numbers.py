"""JSON as Python writes it: NaN and Infinity, which JSON does not know, become null.

One number that is none makes a record unusable; it should not make the file unreadable.
"""

from __future__ import annotations

import mmap
import re
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from humandata.errors import DataError

T = TypeVar("T")

_NO_NUMBER = re.compile(rb"-?\b(?:NaN|Infinity)\b")


_BLOCK = 2**24


def decode(content: Any, kind: type[T], file: Path, expected: str, hint: str | None = None) -> T:
    """Decode JSON into a type, with null where a number is NaN or infinite.

    Parameters
    ----------
    content : bytes or mmap
    kind : type
        As msgspec takes it; its numbers must allow None.
    file : Path
        Where the content is from, for the message.
    expected : str
        What such a file holds.
    hint : str, optional
        What to do about a file of another kind.

    Raises
    ------
    DataError
        If it is no complete JSON, or of another kind.
    """
    try:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            if _NO_NUMBER.search(content) is None:
                raise
            return msgspec.json.decode(_cleaned(content), type=kind)
    except msgspec.ValidationError as error:
        raise DataError(file, expected=expected, found=str(error), hint=hint) from error
    except msgspec.DecodeError as error:
        raise DataError(
            file,
            expected="complete JSON",
            found=str(error),
            hint="The file is cut off or damaged: download it again",
        ) from error


def decode_file(file: Path, kind: type[T], expected: str) -> T:
    """The same of a file of gigabytes: it is mapped, and never in memory as a whole.

    A copy without NaN, where that is needed, is a temporary file.
    """
    with open(file, "rb") as stream:
        return decode(_mapped(stream) or b"", kind, file, expected)


def _mapped(stream: BinaryIO) -> mmap.mmap | None:
    """A map that lives as long as anybody looks into it, `msgspec.Raw` for one."""
    size = stream.seek(0, 2)
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else None


def _cleaned(content: Any) -> Any:
    if not isinstance(content, mmap.mmap):
        return _NO_NUMBER.sub(b"null", content)
    with tempfile.TemporaryFile() as copy:
        start = 0
        while start < len(content):
            # No number goes beyond a comma.
            end = content.find(b",", start + _BLOCK)
            end = end if end >= 0 else len(content)
            copy.write(_NO_NUMBER.sub(b"null", content[start:end]))
            start = end
        copy.flush()
        return _mapped(copy)

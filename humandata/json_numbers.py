"""JSON as Python writes it: NaN and Infinity, which JSON does not know, become null.

One number that is none makes a record unusable; it should not make the file unreadable.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from humandata.errors import DataError

T = TypeVar("T")

_NO_NUMBER = re.compile(rb"-?\b(?:NaN|Infinity)\b")


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
            cleaned, count = _NO_NUMBER.subn(b"null", content[:])
            if not count:
                raise
            return msgspec.json.decode(cleaned, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(file, expected=expected, found=str(error), hint=hint) from error
    except msgspec.DecodeError as error:
        raise DataError(
            file,
            expected="complete JSON",
            found=str(error),
            hint="The file is cut off or damaged: download it again",
        ) from error

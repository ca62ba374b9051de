"""The errors a user may see. Each says what is wrong, where, and what to do about it."""

from __future__ import annotations

from os import PathLike


class HumandataError(Exception):
    """Anything that stops the work for a reason the user can act on.

    The command line prints it without a traceback and exits with status 1.
    """


class DataError(HumandataError):
    """A file the user gave does not hold what it should.

    Parameters
    ----------
    file : str or path
        The file (or folder, or store) that is wrong.
    record : str or int, optional
        The record inside it: an annotation id, an array and row, a key.
    expected, found : str
        What the format asks for, and what is there instead.
    hint : str, optional
        What the user can do.
    """

    def __init__(
        self,
        file: str | PathLike[str],
        record: str | int | None = None,
        *,
        expected: str,
        found: str,
        hint: str | None = None,
    ) -> None:
        self.file = str(file)
        self.record = None if record is None else str(record)
        self.expected = expected
        self.found = found
        self.hint = hint
        where = self.file if self.record is None else f"{self.file}, {self.record}"
        message = f"{where}: expected {expected}, found {found}"
        super().__init__(message if hint is None else f"{message}. {hint}")

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send errors home by pickle, which knows nothing of keyword arguments.
        return _rebuild, (type(self), self.file, self.record, self.expected, self.found, self.hint)


def _rebuild(
    kind: type[DataError],
    file: str,
    record: str | None,
    expected: str,
    found: str,
    hint: str | None,
) -> DataError:
    return kind(file, record, expected=expected, found=found, hint=hint)


class DamagedPictureError(DataError):
    """The bytes of one picture cannot be decoded; the store around it is sound.

    Training draws another sample in its place. Any other `DataError` (a missing pack, a store that
    was replaced) stops the run.
    """


class MissingExtra(HumandataError):
    """A package of an optional extra is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'humandata[{extra}]'"
        )

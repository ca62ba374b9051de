"""A pickle machine that has nothing to call: the opcodes of protocols 0 to 5 over plain values.

Python's own unpickler imports what a file names and calls it. Here a name becomes a `Known`
(an entry of a fixed table written in this package) or the file is refused; no Python callable is
ever on the stack, no attribute of an object is ever read by a name from the file, and every length
is checked against what is left of the file before anything is made.

The opcodes are documented in the standard library's `pickletools`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any

import numpy as np

from humandata.errors import DataError, HumandataError

_SCALARS = (str, bytes, int, float, complex, type(None), np.number, np.bool_)


class UnsafePickle(HumandataError):
    """A pickle names something that only running foreign code could give.

    Parameters
    ----------
    file : str
        The pickle.
    name : str
        What it asks for: the global's dotted name, or the opcode.
    """

    def __init__(self, file: str, name: str) -> None:
        self.file = file
        self.name = name
        super().__init__(
            f"{file}: the pickle asks for {one_line(name)}, which is not on the list of things "
            "that can be read without running code from the file. Nothing of it was run. If you "
            "trust the file, open it once with Python where its package is installed and save the "
            "arrays with numpy.savez"
        )

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send errors home by pickle.
        return UnsafePickle, (self.file, self.name)


@dataclass(frozen=True, slots=True)
class InFile:
    """Bytes of the file that were passed over: what an array that is mapped is made of."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Known:
    """A global that a pickle may name, and what stands in for it.

    Attributes
    ----------
    name : str
        Dotted name, for messages.
    call : callable, optional
        ``call(machine, args) -> value``: stands in for calling the global.
    instance : callable, optional
        ``instance(machine, state) -> value``: stands in for making an instance and setting its
        state. The value replaces the instance.
    """

    name: str
    call: Callable[[Machine, tuple[Any, ...]], Any] | None = None
    instance: Callable[[Machine, Any], Any] | None = None


@dataclass(slots=True)
class Pending:
    """An instance whose state has not come yet; `slots` are the memo entries that hold it."""

    name: str
    finish: Callable[[Machine, Any], Any]
    slots: list[int] = field(default_factory=list)


class Machine:
    """The state of reading one pickle, and what its opcodes may do with it.

    Parameters
    ----------
    data : bytes or mmap
        The whole file.
    file : str
        Its name, for messages.
    table : mapping of (module, name) to Known
        Every global that may be named.
    encoding : {"latin1", "bytes"}
        What 8-bit strings of Python 2 become: str, or bytes.
    persistent : callable, optional
        ``persistent(machine, id) -> value`` for persistent ids; without it they are refused.
    position : int, optional
        Where the pickle starts; after it was read, where it ended.
    skipped : frozenset of int, optional
        Lengths of byte strings that are passed over; arrays made of them are empty.
    mapped_from : int, optional
        Length from which byte strings stay in the file, as `InFile`; arrays made of them are maps
        of it. ``file`` must then be its path.
    """

    def __init__(
        self,
        data: bytes | mmap,
        file: str,
        table: Mapping[tuple[str, str], Known],
        encoding: str = "latin1",
        persistent: Callable[[Machine, Any], Any] | None = None,
        position: int = 0,
        skipped: frozenset[int] = frozenset(),
        mapped_from: int | None = None,
    ) -> None:
        if encoding not in ("latin1", "bytes"):
            raise ValueError(f"encoding is 'latin1' or 'bytes', not {encoding!r}")
        self.data = data
        self.size = len(data)
        self.file = file
        self.table = table
        self.encoding = encoding
        self.persistent = persistent
        self.position = position
        self.skipped = skipped
        self.mapped_from = mapped_from
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.waiting = 0
        # Arrays take as much room in a file as in memory; the allowance is for chumpy's selections
        # and for short rows. It keeps a small file from naming one large array many times.
        self.budget = 16 * self.size + 2**20

    def damaged(self, found: str, expected: str = "a complete pickle") -> DataError:
        """A `DataError` that says where in the file the machine stands."""
        return DataError(
            self.file,
            f"byte {self.position}",
            expected=expected,
            found=found,
            hint="The file is truncated, damaged or not a pickle; fetch it again",
        )

    def unsafe(self, name: str) -> UnsafePickle:
        """An `UnsafePickle` about this file."""
        return UnsafePickle(self.file, name)

    def spend(self, nbytes: int) -> None:
        """Take `nbytes` of memory for an array out of what the file's size warrants."""
        self.budget -= nbytes
        if nbytes < 0 or self.budget < 0:
            raise self.damaged(
                f"arrays that need {nbytes} bytes more than a file of {self.size} bytes warrants",
                expected="arrays not much larger than the file",
            )

    def take(self, count: int) -> bytes:
        """The next `count` bytes of the file."""
        start = self.position
        self.pass_over(count)
        return self.data[start : self.position]

    def left_in_file(self, count: int) -> InFile | None:
        """The next `count` bytes as a place in the file, where they are many enough; else None."""
        if self.mapped_from is None or count < self.mapped_from:
            return None
        start = self.position
        self.pass_over(count)
        return InFile(start, count)

    def pass_over(self, count: int) -> None:
        """Leave out the next `count` bytes of the file."""
        end = self.position + count
        if count < 0 or end > self.size:
            raise self.damaged(f"the end of the file, {end - self.size} bytes early")
        self.position = end

    def line(self) -> bytes:
        """The bytes up to the next newline, which is skipped."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise self.damaged("the end of the file inside a line")
        taken = self.data[self.position : end]
        self.position = end + 1
        return taken

    def known(self, module: str, name: str) -> Known:
        """The table's entry for a global; refused by name where there is none."""
        entry = self.table.get((module, name))
        if entry is None:
            raise self.unsafe(f"{module}.{name}")
        return entry

    def pop_mark(self) -> list[Any]:
        """The values pushed since the last mark."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def construct(self, target: Any, args: Any) -> Any:
        """What stands in for ``target(*args)``."""
        if not isinstance(target, Known) or type(args) is not tuple:
            raise self.damaged(f"a call of a {type(target).__name__}")
        if target.call is None:
            raise self.unsafe(f"a call of {target.name}")
        return self._pushed(target.call(self, args))

    def instantiate(self, target: Any, args: Any) -> Any:
        """What stands in for an instance of `target`, before its state is known."""
        if not isinstance(target, Known) or type(args) is not tuple:
            raise self.damaged(f"an instance of a {type(target).__name__}")
        if target.instance is None:
            # Classes without state (pandas' StringDtype) are complete with their arguments.
            return self.construct(target, args)
        if args:
            raise self.damaged(f"an instance of {target.name} with arguments")
        return self._pushed(Pending(target.name, target.instance))

    def _pushed(self, value: Any) -> Any:
        if type(value) is Pending:
            self.waiting += 1
        return value


def one_line(text: str) -> str:
    """One printable line of a name or message that the file may have chosen."""
    printable = ascii(text)[1:-1]
    return printable if len(printable) <= 200 else printable[:197] + "..."


def hashable(machine: Machine, key: Any) -> Any:
    """`key`, if hashing it is quick: nested tuples could be made to hash for hours, or too deep."""
    if type(key) is str:
        return key
    items = key if type(key) is tuple and len(key) <= 32 else (key,)
    # Larger integers could be chosen to share one hash.
    if all(
        isinstance(item, _SCALARS) and (type(item) is not int or -(2**63) <= item < 2**64)
        for item in items
    ):
        return key
    raise machine.damaged(
        f"a {type(key).__name__} as a dictionary key or set member",
        expected="strings, numbers or tuples of them",
    )

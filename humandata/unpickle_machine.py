"""A pickle machine that has nothing to call: the opcodes of protocols 0 to 5 over plain values.

Python's own unpickler imports what a file names and calls it. Here a name becomes a `Known`
(an entry of a fixed table written in this package) or the file is refused; no Python callable is
ever on the stack, no attribute of an object is ever read by a name from the file, and every length
is checked against what is left of the file before anything is made.

The opcodes are documented in the standard library's `pickletools`.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any

from humandata.errors import DataError, HumandataError


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
            f"{file}: the pickle asks for {_short(name)}, which is not on the list of things that "
            "can be read without running code from the file. Nothing of it was run. If you trust "
            "the file, open it once with Python where its package is installed and save the "
            "arrays with numpy.savez"
        )

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send errors home by pickle.
        return UnsafePickle, (self.file, self.name)


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
    """Reads one pickle.

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
        Where the pickle starts; after `run`, where it ended.
    """

    def __init__(
        self,
        data: bytes | mmap,
        file: str,
        table: Mapping[tuple[str, str], Known],
        encoding: str = "latin1",
        persistent: Callable[[Machine, Any], Any] | None = None,
        position: int = 0,
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
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.waiting = 0
        # Arrays take as much room in a file as in memory; the allowance is for chumpy's selections
        # and for short rows. It keeps a small file from naming one large array many times.
        self.budget = 16 * self.size + 2**20

    def run(self) -> Any:
        """Return the value of the pickle.

        Raises
        ------
        UnsafePickle
            The file names a global, extension or persistent object that is not in the table.
        DataError
            The file is truncated or damaged.
        """
        data, size, handlers = self.data, self.size, _HANDLERS
        start = self.position
        try:
            while self.position < size:
                code = data[self.position]
                self.position += 1
                if code == _STOP:
                    return self._result()
                handler = handlers.get(code)
                if handler is None:
                    raise self.damaged(f"byte {code:#04x}, which is no pickle opcode")
                handler(self)
        except HumandataError:
            raise
        except IndexError as error:
            raise self.damaged("an opcode that finds too few values on the stack") from error
        except (ValueError, TypeError, KeyError, OverflowError, struct.error) as error:
            raise self.damaged(_short(f"{type(error).__name__}: {error}")) from error
        except (MemoryError, RecursionError) as error:
            raise self.damaged(f"{type(error).__name__} while reading it") from error
        raise self.damaged("nothing" if start == size else "the end of the file")

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
        end = self.position + count
        if count < 0 or end > self.size:
            raise self.damaged(f"the end of the file, {end - self.size} bytes early")
        taken = self.data[self.position : end]
        self.position = end
        return taken

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
        if not isinstance(target, Known):
            raise self.damaged(f"an instance of a {type(target).__name__}")
        if target.instance is None:
            # Classes without state (pandas' StringDtype) are complete with their arguments.
            return self.construct(target, tuple(args))
        if args:
            raise self.damaged(f"an instance of {target.name} with arguments")
        return self._pushed(Pending(target.name, target.instance))

    def _pushed(self, value: Any) -> Any:
        if type(value) is Pending:
            self.waiting += 1
        return value

    def _result(self) -> Any:
        value = self.stack.pop()
        if self.waiting or type(value) is Known:
            # Every class of the table is written with its state, so this was cut or tampered with.
            raise self.damaged("an object without its state")
        return value


def _short(text: str) -> str:
    """One printable line of a name or message that the file may have chosen."""
    printable = ascii(text)[1:-1]
    return printable if len(printable) <= 200 else printable[:197] + "..."


# Numbers and strings ------------------------------------------------------------------------------


def _number(fmt: str) -> Callable[[Machine], None]:
    unpack, size = struct.Struct(fmt).unpack, struct.calcsize(fmt)

    def push(machine: Machine) -> None:
        machine.stack.append(unpack(machine.take(size))[0])

    return push


def _counted(width: int, convert: Callable[[Machine, bytes], Any]) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        count = int.from_bytes(machine.take(width), "little")
        machine.stack.append(convert(machine, machine.take(count)))

    return push


def _constant(value: Any) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        machine.stack.append(value)

    return push


def _new(kind: Callable[[], Any]) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        machine.stack.append(kind())

    return push


def _string8(machine: Machine, raw: bytes) -> str | bytes:
    return raw if machine.encoding == "bytes" else raw.decode("latin1")


def _integer_line(machine: Machine) -> None:
    text = machine.line()
    # Protocols 0 and 1 write booleans as the integers "00" and "01".
    value = {b"00": False, b"01": True}.get(text)
    machine.stack.append(int(text.rstrip(b"L")) if value is None else value)


def _string_line(machine: Machine) -> None:
    text = machine.line().strip()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in b"\"'":
        raise machine.damaged("a string without its quotes")
    # The decoder that the standard unpickler uses; the signature is missing from the type stubs.
    raw: bytes = codecs.escape_decode(text[1:-1])[0]  # type: ignore[attr-defined]
    machine.stack.append(_string8(machine, raw))


def _unicode_line(machine: Machine) -> None:
    machine.stack.append(machine.line().decode("raw-unicode-escape"))


# Containers ---------------------------------------------------------------------------------------

_SCALARS = (str, bytes, int, float, bool, complex, type(None))


def _hashable(machine: Machine, key: Any) -> Any:
    """`key`, if hashing it is quick: nested tuples could be made to hash for hours, or too deep."""
    kind = type(key)
    if kind in _SCALARS and (kind is not int or -(2**63) <= key < 2**64):
        return key
    if kind is tuple and all(type(item) in _SCALARS for item in key):
        return key
    raise machine.damaged(
        f"a {kind.__name__} as a dictionary key or set member",
        expected="strings, numbers or tuples of them",
    )


def _pairs(machine: Machine, items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise machine.damaged("a dictionary key without its value")
    keys = (_hashable(machine, key) for key in items[::2])
    return dict(zip(keys, items[1::2], strict=True))


def _target(machine: Machine, kind: type) -> Any:
    top = machine.stack[-1]
    if type(top) is not kind:
        raise machine.damaged(f"items for a {kind.__name__} added to a {type(top).__name__}")
    return top


def _tuple_of(count: int) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        stack = machine.stack
        if len(stack) < count:
            raise IndexError
        stack[-count:] = [tuple(stack[-count:])]

    return push


def _mark(machine: Machine) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _tuple(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append(tuple(items))


def _list(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append(items)


def _dict(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append(_pairs(machine, items))


def _frozenset(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append(frozenset(_hashable(machine, item) for item in items))


def _append(machine: Machine) -> None:
    value = machine.stack.pop()
    _target(machine, list).append(value)


def _appends(machine: Machine) -> None:
    items = machine.pop_mark()
    _target(machine, list).extend(items)


def _setitem(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _target(machine, dict)[_hashable(machine, key)] = value


def _setitems(machine: Machine) -> None:
    items = machine.pop_mark()
    _target(machine, dict).update(_pairs(machine, items))


def _additems(machine: Machine) -> None:
    items = machine.pop_mark()
    _target(machine, set).update(_hashable(machine, item) for item in items)


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.stack = machine.marks.pop()


def _dup(machine: Machine) -> None:
    machine.stack.append(_complete(machine, machine.stack[-1]))


# Memo ---------------------------------------------------------------------------------------------


def _remember(machine: Machine, slot: int) -> None:
    top = machine.stack[-1]
    machine.memo[slot] = top
    if type(top) is Pending:
        top.slots.append(slot)


def _complete(machine: Machine, value: Any) -> Any:
    if type(value) is Pending:
        raise machine.damaged(f"a {value.name} that refers to itself")
    return value


def _recall(machine: Machine, slot: int) -> None:
    if slot not in machine.memo:
        raise machine.damaged(f"a reference to memo {slot}, which was never written")
    machine.stack.append(_complete(machine, machine.memo[slot]))


# Globals and objects ------------------------------------------------------------------------------


def _global(machine: Machine) -> None:
    module, name = machine.line().decode("utf-8"), machine.line().decode("utf-8")
    machine.stack.append(machine.known(module, name))


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise machine.damaged("a global whose name is not text")
    machine.stack.append(machine.known(module, name))


def _inst(machine: Machine) -> None:
    module, name = machine.line().decode("utf-8"), machine.line().decode("utf-8")
    args = machine.pop_mark()
    machine.stack.append(machine.instantiate(machine.known(module, name), args))


def _obj(machine: Machine) -> None:
    args = machine.pop_mark()
    machine.stack.append(machine.instantiate(args[0], args[1:]))


def _newobj(machine: Machine) -> None:
    args, target = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.instantiate(target, args))


def _newobj_ex(machine: Machine) -> None:
    keywords = machine.stack.pop()
    if keywords != {}:
        raise machine.damaged("an object made with keyword arguments")
    _newobj(machine)


def _reduce(machine: Machine) -> None:
    args, target = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.construct(target, args))


def _build(machine: Machine) -> None:
    state = _complete(machine, machine.stack.pop())
    target = machine.stack.pop()
    if type(target) is not Pending:
        raise machine.damaged(f"a state for a {type(target).__name__}")
    value = target.finish(machine, state)
    machine.waiting -= 1
    for slot in target.slots:
        machine.memo[slot] = value
    machine.stack.append(value)


def _persistent(machine: Machine, identity: Any) -> None:
    if machine.persistent is None:
        raise machine.unsafe(f"the persistent object {identity!r:.80}")
    machine.stack.append(machine.persistent(machine, identity))


def _extension(width: int) -> Callable[[Machine], None]:
    def refuse(machine: Machine) -> None:
        raise machine.unsafe(f"extension {int.from_bytes(machine.take(width), 'little')}")

    return refuse


def _out_of_band(machine: Machine) -> None:
    raise machine.damaged("an out-of-band buffer, which is in another file")


def _proto(machine: Machine) -> None:
    protocol = machine.take(1)[0]
    if protocol > 5:
        raise machine.damaged(f"pickle protocol {protocol}", expected="protocol 0 to 5")


def _frame(machine: Machine) -> None:
    # Frames only help buffered readers; their length tells a cut file early.
    length = int.from_bytes(machine.take(8), "little")
    if length > machine.size - machine.position:
        raise machine.damaged("the end of the file inside a frame")


_STOP = ord(".")
_HANDLERS: dict[int, Callable[[Machine], None]] = {
    code[0]: handler
    for code, handler in {
        b"\x80": _proto,
        b"\x95": _frame,
        b"N": _constant(None),
        b"\x88": _constant(True),
        b"\x89": _constant(False),
        b")": _constant(()),
        b"]": _new(list),
        b"}": _new(dict),
        b"\x8f": _new(set),
        b"K": _number("<B"),
        b"M": _number("<H"),
        b"J": _number("<i"),
        b"G": _number(">d"),
        b"I": _integer_line,
        b"L": _integer_line,
        b"F": lambda machine: machine.stack.append(float(machine.line())),
        b"S": _string_line,
        b"V": _unicode_line,
        b"\x8a": _counted(1, lambda _, raw: int.from_bytes(raw, "little", signed=True)),
        b"\x8b": _counted(4, lambda _, raw: int.from_bytes(raw, "little", signed=True)),
        b"U": _counted(1, _string8),
        b"T": _counted(4, _string8),
        b"C": _counted(1, lambda _, raw: raw),
        b"B": _counted(4, lambda _, raw: raw),
        b"\x8e": _counted(8, lambda _, raw: raw),
        b"\x96": _counted(8, lambda _, raw: bytearray(raw)),
        b"\x8c": _counted(1, lambda _, raw: raw.decode("utf-8")),
        b"X": _counted(4, lambda _, raw: raw.decode("utf-8")),
        b"\x8d": _counted(8, lambda _, raw: raw.decode("utf-8")),
        b"(": _mark,
        b"0": _pop,
        b"1": lambda machine: machine.pop_mark() and None,
        b"2": _dup,
        b"t": _tuple,
        b"\x85": _tuple_of(1),
        b"\x86": _tuple_of(2),
        b"\x87": _tuple_of(3),
        b"l": _list,
        b"d": _dict,
        b"\x91": _frozenset,
        b"a": _append,
        b"e": _appends,
        b"s": _setitem,
        b"u": _setitems,
        b"\x90": _additems,
        b"p": lambda machine: _remember(machine, int(machine.line())),
        b"q": lambda machine: _remember(machine, machine.take(1)[0]),
        b"r": lambda machine: _remember(machine, int.from_bytes(machine.take(4), "little")),
        b"\x94": lambda machine: _remember(machine, len(machine.memo)),
        b"g": lambda machine: _recall(machine, int(machine.line())),
        b"h": lambda machine: _recall(machine, machine.take(1)[0]),
        b"j": lambda machine: _recall(machine, int.from_bytes(machine.take(4), "little")),
        b"c": _global,
        b"\x93": _stack_global,
        b"i": _inst,
        b"o": _obj,
        b"\x81": _newobj,
        b"\x92": _newobj_ex,
        b"R": _reduce,
        b"b": _build,
        b"P": lambda machine: _persistent(machine, machine.line().decode("utf-8")),
        b"Q": lambda machine: _persistent(machine, machine.stack.pop()),
        b"\x82": _extension(1),
        b"\x83": _extension(2),
        b"\x84": _extension(4),
        b"\x97": _out_of_band,
        b"\x98": lambda machine: None,
    }.items()
}

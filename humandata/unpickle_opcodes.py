"""The opcodes of pickle protocols 0 to 5, each a function on the machine.

They are documented in the standard library's `pickletools`. Those that reach outside the file
(extensions, persistent ids, out-of-band buffers) are refused.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from humandata.errors import HumandataError
from humandata.unpickle_machine import Known, Machine, Pending, hashable, one_line


def run(machine: Machine) -> Any:
    """Return the value of the pickle the machine holds.

    Raises
    ------
    UnsafePickle
        The file names a global, extension or persistent object that is not in the table.
    DataError
        The file is truncated or damaged.
    """
    data, size, start = machine.data, machine.size, machine.position
    try:
        while machine.position < size:
            code = data[machine.position]
            machine.position += 1
            if code == _STOP:
                return _result(machine)
            handler = _HANDLERS.get(code)
            if handler is None:
                raise machine.damaged(f"byte {code:#04x}, which is no pickle opcode")
            handler(machine)
    except HumandataError:
        raise
    except struct.error as error:
        raise machine.damaged("the end of the file inside a number") from error
    except IndexError as error:
        raise machine.damaged("an opcode that finds too few values on the stack") from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # What NumPy and Python say of an impossible shape, type code or number in the file.
        raise machine.damaged(one_line(f"{type(error).__name__}: {error}")) from error
    except (MemoryError, RecursionError) as error:
        raise machine.damaged(f"{type(error).__name__} while reading it") from error
    raise machine.damaged("nothing" if start == size else "the end of the file")


def _result(machine: Machine) -> Any:
    value = machine.stack.pop()
    if machine.waiting or type(value) is Known:
        # Every class of the table is written with its state, so this was cut or tampered with.
        raise machine.damaged("an object without its state")
    return value


def _number(fmt: str) -> Callable[[Machine], None]:
    unpack_from, size = struct.Struct(fmt).unpack_from, struct.calcsize(fmt)

    def push(machine: Machine) -> None:
        # Without `take`: lists of numbers are most of the opcodes of a large file.
        machine.stack.append(unpack_from(machine.data, machine.position)[0])
        machine.position += size

    return push


def _counted(width: int, convert: Callable[[Machine, bytes], Any]) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        count = int.from_bytes(machine.take(width), "little")
        machine.stack.append(convert(machine, machine.take(count)))

    return push


def _raw(width: int, kind: Callable[[bytes], Any]) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        count = int.from_bytes(machine.take(width), "little")
        if count in machine.skipped:
            machine.pass_over(count)
            count = 0
        left = machine.left_in_file(count)
        machine.stack.append(kind(machine.take(count)) if left is None else left)

    return push


def _long_string8(machine: Machine) -> None:
    count = int.from_bytes(machine.take(4), "little")
    left = machine.left_in_file(count)
    machine.stack.append(_string8(machine, machine.take(count)) if left is None else left)


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
    raw: bytes = codecs.escape_decode(text[1:-1])[0]
    machine.stack.append(_string8(machine, raw))


def _unicode_line(machine: Machine) -> None:
    machine.stack.append(machine.line().decode("raw-unicode-escape"))


def _pairs(machine: Machine, items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise machine.damaged("a dictionary key without its value")
    keys = (hashable(machine, key) for key in items[::2])
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
    machine.stack.append(frozenset(hashable(machine, item) for item in items))


def _append(machine: Machine) -> None:
    value = machine.stack.pop()
    _target(machine, list).append(value)


def _appends(machine: Machine) -> None:
    items = machine.pop_mark()
    _target(machine, list).extend(items)


def _setitem(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _target(machine, dict)[hashable(machine, key)] = value


def _setitems(machine: Machine) -> None:
    items = machine.pop_mark()
    _target(machine, dict).update(_pairs(machine, items))


def _additems(machine: Machine) -> None:
    items = machine.pop_mark()
    _target(machine, set).update(hashable(machine, item) for item in items)


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.stack = machine.marks.pop()


def _pop_mark(machine: Machine) -> None:
    machine.pop_mark()


def _dup(machine: Machine) -> None:
    machine.stack.append(_complete(machine, machine.stack[-1]))


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
    machine.stack.append(machine.instantiate(machine.known(module, name), tuple(args)))


def _obj(machine: Machine) -> None:
    args = machine.pop_mark()
    machine.stack.append(machine.instantiate(args[0], tuple(args[1:])))


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
        # Only short text is quoted: the repr of a nested list can be made to take hours.
        name = identity if type(identity) is str else f"of type {type(identity).__name__}"
        raise machine.unsafe(f"the persistent object {name}")
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
        b"T": _long_string8,
        b"C": _raw(1, bytes),
        b"B": _raw(4, bytes),
        b"\x8e": _raw(8, bytes),
        b"\x96": _raw(8, bytearray),
        b"\x8c": _counted(1, lambda _, raw: raw.decode("utf-8")),
        b"X": _counted(4, lambda _, raw: raw.decode("utf-8")),
        b"\x8d": _counted(8, lambda _, raw: raw.decode("utf-8")),
        b"(": _mark,
        b"0": _pop,
        b"1": _pop_mark,
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

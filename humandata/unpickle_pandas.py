"""Pickled pandas frames as plain columns, without pandas.

A frame's pickle holds blocks: 2-D arrays, one row per column of the frame, each with the places
(`mgr_locs`) of its columns. How the blocks are named changed with pandas 1.3 and 2; states were
read from files written by pandas 0.25, 1.1, 1.3, 2.1 and 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from humandata.unpickle_machine import Known, Machine, Pending
from humandata.unpickle_objects import Array, attributes, text

# (values, places of its columns in the frame)
_Block = tuple[Any, Any]


@dataclass(frozen=True)
class Frame:
    """A pandas DataFrame as its columns.

    Attributes
    ----------
    columns : dict of str to (rows,) ndarray or list
        In the frame's order; a list where the elements are Python objects (text, lists).
    index : (rows,) ndarray or list
        The row labels.
    """

    columns: dict[str, Array | list[Any]]
    index: Array | list[Any]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class _Blocks:
    axes: tuple[Any, Any]
    blocks: list[_Block]


def _index(machine: Machine, args: tuple[Any, ...]) -> Any:
    """Row or column labels: `_new_Index(class, {data, name})`, or RangeIndex and three numbers."""
    kind, state = args
    if not isinstance(kind, Known):
        raise ValueError("an index class expected")
    fields = attributes(state)
    if kind.name == "pandas.RangeIndex":
        return range(*(_integer(fields[key]) for key in ("start", "stop", "step")))
    data = fields["data"]
    if not isinstance(data, np.ndarray) or data.ndim != 1:
        raise ValueError("a row of labels expected")
    return data


def _integer(value: Any) -> int:
    if not isinstance(value, int | np.integer):
        raise ValueError("a whole number expected")
    return int(value)


def _block(machine: Machine, args: tuple[Any, ...]) -> _Block:
    return args[0], args[1]


def _partial(machine: Machine, args: tuple[Any, ...]) -> Pending:
    # pandas 1.3 writes functools.partial(new_block, ndim=2); any other use of it is refused.
    function = args[0] if len(args) == 1 else None
    if not isinstance(function, Known) or function.name != "pandas.new_block":
        raise machine.unsafe("functools.partial of something else than pandas' new_block")
    return Pending("functools.partial", lambda machine, state: function)


def _manager(machine: Machine, args: tuple[Any, ...]) -> Any:
    if not args:
        return Pending("pandas.BlockManager", _manager_from_state)
    blocks, axes = args
    if type(blocks) not in (tuple, list) or not all(
        type(block) is tuple and len(block) == 2 for block in blocks
    ):
        raise ValueError("the blocks of a frame expected")
    return _Blocks(_two(axes), list(blocks))


def _manager_from_state(machine: Machine, state: Any) -> _Blocks:
    # Until pandas 1.2: (axes, values, items, {"0.14.1": the same in the later form}).
    if type(state) is not tuple or len(state) != 4:
        raise ValueError("the state of a frame's blocks expected")
    fields = attributes(attributes(state[3])["0.14.1"])
    parts = [attributes(block) for block in fields["blocks"]]
    return _Blocks(_two(fields["axes"]), [(part["values"], part["mgr_locs"]) for part in parts])


def _two(axes: Any) -> tuple[Any, Any]:
    labels, index = axes
    return labels, index


def _frame(machine: Machine, state: Any) -> Frame:
    fields = attributes(state)
    manager = fields["_mgr"] if "_mgr" in fields else fields["_data"]  # "_data" until pandas 1.0
    if not isinstance(manager, _Blocks):
        raise ValueError("a frame without its blocks")
    labels, index = manager.axes
    names = [text(label) for label in _labels(machine, labels)]
    rows = len(index) if isinstance(index, range | np.ndarray) else -1
    found: dict[str, Array | list[Any]] = {}
    for values, places in manager.blocks:
        if not isinstance(values, np.ndarray):
            raise ValueError("a block that is no array")
        # Extension arrays (pandas 3 text) stand alone: one column, one axis.
        table = values[None] if values.ndim == 1 else values
        numbers = _places(places, len(names))
        if table.ndim != 2 or table.shape != (len(numbers), rows):
            raise ValueError(f"a block of shape {values.shape} for {len(numbers)} columns")
        machine.spend(8 * table.size)
        for number, column in zip(numbers, table, strict=True):
            found[names[number]] = column.tolist() if column.dtype == object else column
    missing = [name for name in names if name not in found]
    if missing or len(set(names)) != len(names):
        raise ValueError(f"a frame without data for columns {missing[:5]}, or with two of a name")
    return Frame({name: found[name] for name in names}, _labels(machine, index))


def _labels(machine: Machine, labels: Any) -> Array | list[Any]:
    if isinstance(labels, range):
        machine.spend(8 * len(labels))
        return np.arange(labels.start, labels.stop, labels.step)
    if not isinstance(labels, np.ndarray) or labels.ndim != 1:
        raise ValueError("a row of labels expected")
    machine.spend(8 * len(labels))
    return labels.tolist() if labels.dtype == object else labels


def _places(places: Any, count: int) -> list[int]:
    if isinstance(places, slice):
        return list(range(count))[places]
    if isinstance(places, np.ndarray) and places.dtype.kind in "iu" and places.ndim == 1:
        numbers = [int(place) for place in places]
        if all(0 <= number < count for number in numbers):
            return numbers
    raise ValueError("places of columns expected")


def _string_array(machine: Machine, args: tuple[Any, ...]) -> Pending:
    # __pyx_unpickle_NDArrayBacked(StringArray, checksum, None), then the state (dtype, values).
    if not isinstance(args[0], Known) or args[0].name != "pandas.StringArray":
        raise machine.damaged("a pandas array that is not one of text")
    return Pending("pandas.StringArray", _string_values)


def _string_values(machine: Machine, state: Any) -> Any:
    if type(state) is not tuple or len(state) < 2 or not isinstance(state[1], np.ndarray):
        raise ValueError("the values of a text column expected")
    return state[1]


def _name_only(machine: Machine, args: tuple[Any, ...]) -> None:
    """Stands for a type description that the arrays themselves make superfluous."""


def _table() -> Mapping[tuple[str, str], Known]:
    index = Known("pandas.Index", call=_name_only)
    range_index = Known("pandas.RangeIndex", call=_name_only)
    frame = Known("pandas.DataFrame", instance=_frame)
    new_block = Known("pandas.new_block", call=_block)
    base = "pandas.core.indexes.base"
    return {
        ("pandas.core.frame", "DataFrame"): frame,
        ("pandas", "DataFrame"): frame,
        (base, "Index"): index,
        ("pandas", "Index"): index,
        # Until pandas 1.5 whole-number labels had a class of their own.
        ("pandas.core.indexes.numeric", "Int64Index"): index,
        ("pandas.core.indexes.range", "RangeIndex"): range_index,
        ("pandas", "RangeIndex"): range_index,
        (base, "_new_Index"): Known("pandas._new_Index", call=_index),
        ("pandas.core.internals.managers", "BlockManager"): Known(
            "pandas.BlockManager", call=_manager
        ),
        ("pandas.core.internals.blocks", "new_block"): new_block,
        ("pandas._libs.internals", "_unpickle_block"): new_block,
        ("functools", "partial"): Known("functools.partial", call=_partial),
        ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"): Known(
            "pandas.__pyx_unpickle_NDArrayBacked", call=_string_array
        ),
        ("pandas.arrays", "StringArray"): Known("pandas.StringArray", call=_name_only),
        ("pandas", "StringDtype"): Known("pandas.StringDtype", call=_name_only),
        ("pandas.core.arrays.string_", "StringDtype"): Known("pandas.StringDtype", call=_name_only),
        ("pandas.core.arrays.string_", "StringArray"): Known("pandas.StringArray", call=_name_only),
    }


TABLE = _table()

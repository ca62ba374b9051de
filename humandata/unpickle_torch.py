"""Torch tensors inside a plain pickle as ndarrays, without torch.

AGORA's SMPL fits are dictionaries of tensors written by `pickle.dump`: each tensor is a call of
`torch._utils._rebuild_tensor_v2` on a storage, and each storage is a whole file of `torch.save` in
its older form inside the pickle: five pickles in a row (magic number, version, machine, the
storage's description by persistent id, keys), then per key the number of elements and the elements.
Source: torch/serialization.py, `_legacy_save`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from humandata.unpickle_machine import Known, Machine
from humandata.unpickle_objects import Array, dimensions
from humandata.unpickle_opcodes import run

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


def _storage(machine: Machine, args: tuple[Any, ...]) -> Array:
    """The elements of one storage: what `torch.storage._load_from_bytes` would give."""
    (raw,) = args
    if type(raw) is not bytes:
        raise ValueError("the bytes of a torch file expected")
    machine.spend(len(raw))
    described: list[tuple[str, str, int]] = []

    def persistent(inner: Machine, identity: Any) -> tuple[str, str, int]:
        # ("storage", type, key, location, number of elements, view); the location may be a GPU.
        if type(identity) is not tuple or len(identity) < 5 or not isinstance(identity[1], Known):
            raise inner.damaged("a torch storage without its description")
        described.append((identity[1].name, str(identity[2]), int(identity[4])))
        return described[-1]

    position = 0
    values = []
    for _ in range(5):
        inner = Machine(raw, f"{machine.file} (torch storage)", _STORAGE_TYPES)
        inner.persistent, inner.position = persistent, position
        values.append(run(inner))
        position = inner.position
    if values[0] != _MAGIC or len(described) != 1 or values[3] != described[0]:
        raise ValueError("one storage in torch's older file form expected")
    name, _, count = described[0]
    dtype = np.dtype(_TYPES[name])
    # 8 bytes repeat the number of elements.
    end = position + 8 + count * dtype.itemsize
    if count < 0 or int.from_bytes(raw[position : position + 8], "little") != count:
        raise ValueError("a torch storage whose length is told in two ways")
    if end > len(raw):
        raise ValueError("a torch storage that ends early")
    return np.frombuffer(raw, dtype, count, position + 8)


def _tensor(machine: Machine, args: tuple[Any, ...]) -> Array:
    """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`."""
    storage, offset = args[0], dimensions(args[1])[0]
    size, stride = dimensions(args[2]), dimensions(args[3])
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or len(size) != len(stride):
        raise ValueError("a torch storage with a size and a stride for every axis expected")
    count = 1
    last = offset
    for length, step in zip(size, stride, strict=True):
        count *= length
        last += max(length - 1, 0) * step
    if offset > len(storage) or (count and last >= len(storage)):
        raise ValueError("a tensor outside its storage")
    machine.spend(count * storage.itemsize)
    steps = [step * storage.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, steps if count else None)
    return np.array(view)


def _parameter(machine: Machine, args: tuple[Any, ...]) -> Array:
    if not isinstance(args[0], np.ndarray):
        raise ValueError("a tensor expected")
    return args[0]


_STORAGE_TYPES: Mapping[tuple[str, str], Known] = {
    (module, name): Known(name) for module in ("torch", "torch.cuda") for name in _TYPES
}
TABLE: Mapping[tuple[str, str], Known] = {
    ("torch.storage", "_load_from_bytes"): Known("torch.storage._load_from_bytes", call=_storage),
    ("torch._utils", "_rebuild_tensor_v2"): Known("torch._rebuild_tensor_v2", call=_tensor),
    ("torch._utils", "_rebuild_parameter"): Known("torch._rebuild_parameter", call=_parameter),
}

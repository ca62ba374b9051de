"""Files of network weights: read without running what they hold.

PyTorch files are pickles. They are read by ``torch.load(weights_only=True)``; those that it
refuses (training checkpoints often carry a configuration or a logger beside the weights) by an
unpickler that builds tensors and plain containers only and puts an empty object in the place of
everything else. No code of the file, and none it names, is run either way.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from humandata.errors import DataError

Tensors = dict[str, Tensor]

WRAPPERS = (
    "state_dict", "model", "model_state_dict", "net", "network", "params", "weights", "generator",
)  # fmt: skip
"""Keys under which training code puts a network's tensors."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What wrappers of a whole network put before every name."""

TRUNKS = ("backbone.network.", "backbone.", "encoder.", "graph_cnn.resnet.")
"""What networks put before the names of their backbone."""

AGAIN = "If it should be one, it is damaged or was cut off: fetch it again"


@dataclass(frozen=True)
class File:
    """The tensors of a file.

    Attributes
    ----------
    tensors : dict
        By the names in the file, without what all of them start with.
    reader : str
        Who read it: ``safetensors``, ``weights_only`` or ``restricted``.
    wrapper : str
        What was taken off: ``state_dict``, ``model / module.``; empty for nothing.
    metadata : dict
        Of a safetensors file.
    beside : dict
        Tensors by other keys of the file than the wrapper's, with their number: a second network
        or averaged weights. The state of optimisers is not listed.
    """

    tensors: Tensors
    reader: str
    wrapper: str
    metadata: Mapping[str, str]
    beside: Mapping[str, int] = field(default_factory=dict)


def read(path: Path) -> File:
    """Read a file of weights.

    Raises
    ------
    DataError
        When there is none, when it is damaged, or when it holds no tensors.
    """
    if not path.is_file():
        raise DataError(path, expected="a file of weights", found="no such file")
    if not path.stat().st_size:
        raise DataError(path, expected="a file of weights", found="an empty one", hint=AGAIN)
    metadata: Mapping[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                content: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            reader = "safetensors"
        else:
            content, reader = _load(path)
    except Exception as error:  # each reader has its own family of errors for a damaged file
        raise DataError(
            path,
            expected=".safetensors, or a PyTorch file of tensors",
            found=(str(error).strip().split(". ")[0].splitlines() or [type(error).__name__])[0],
            hint=AGAIN,
        ) from error
    removed: list[str] = []
    beside: dict[str, int] = {}
    tensors = _unwrap(content, removed, beside)
    if not tensors:
        raise DataError(path, expected="tensors by name", found=f"none ({_kind(content)})")
    tensors = _strip(tensors, removed)
    return File(tensors, reader, " / ".join(removed), metadata, beside)


def _load(path: Path) -> tuple[Any, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles of another protocol
            return torch.load(path, map_location="cpu", weights_only=True), "weights_only"
    except (pickle.UnpicklingError, UnicodeDecodeError):
        # The module is torch's way to choose an unpickler; `weights_only` is about its default one.
        # Python 2 wrote arrays as text, which only Latin 1 can hold; names are ASCII.
        content = torch.load(
            path,
            map_location="cpu",
            weights_only=False,
            pickle_module=_restricted_pickle(),
            encoding="latin1",
        )
        return content, "restricted"


class Ignored:
    """What stands in a file for an object that is no tensor: empty, whatever is done to it."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Ignored:
        return Ignored()

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...

    def update(self, *_: Any) -> None: ...


_ALLOWED = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("torch", "device"),
}
_DTYPES = {
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
}  # fmt: skip
_STORAGES = {
    f"{kind}Storage"
    for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte",
                 "Bool", "Untyped")
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        storage = module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGES
        if (module, name) in _ALLOWED or storage or (module == "torch" and name in _DTYPES):
            return super().find_class(module.replace("torch.cuda", "torch"), name)
        return Ignored


def _restricted_pickle() -> Any:
    def load(file: Any, **options: Any) -> Any:
        return _Unpickler(file, **options).load()

    return SimpleNamespace(Unpickler=_Unpickler, load=load, __name__="humandata")


def _unwrap(content: Any, removed: list[str], beside: dict[str, int]) -> Tensors:
    if not isinstance(content, Mapping):
        return {}
    # Wrappers first: a score that is a tensor may lie beside the weights.
    for key in WRAPPERS:
        deeper: list[str] = []
        if tensors := _unwrap(content.get(key), deeper, beside):
            removed[:0] = [key, *deeper]
            others = {name: _count(value) for name, value in content.items() if name != key}
            beside.update({str(name): count for name, count in others.items() if count})
            return tensors
    if tensors := {str(k): v for k, v in content.items() if isinstance(v, Tensor)}:
        return tensors
    # Parts of a network, each with a state dict of its own (GraphCMR): their names go before.
    return {
        f"{part}.{key}": tensor
        for part, state in content.items()
        if isinstance(state, Mapping) and "optim" not in str(part)
        for key, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def _count(value: Any) -> int:
    """Tensors that lie in an entry by name; the state of an optimiser has them by number."""
    if isinstance(value, Mapping):
        return sum(isinstance(v, Tensor) for v in value.values())
    return int(isinstance(value, Tensor))


def _strip(tensors: Tensors, removed: list[str]) -> Tensors:
    """Take prefixes of wrappers off; names without them stay as they are."""
    found = True
    while found:
        found = False
        for prefix in PREFIXES:
            inside = [key for key in tensors if key.startswith(prefix)]
            # Lightning keeps the network beside losses and body models of the module.
            known = any(key.startswith((*TRUNKS, "conv1.", "patch_embed")) for key in tensors)
            if inside and (len(inside) == len(tensors) or not known):
                tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
                removed.append(prefix)
                found = True
    return tensors


def _kind(content: Any) -> str:
    if isinstance(content, Mapping):
        return "a mapping with " + ", ".join(map(str, list(content)[:5]))
    return f"a {type(content).__name__}"

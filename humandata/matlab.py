"""Struct arrays of MATLAB files as scipy reads them, without tripping over MATLAB's loose shapes.

A struct array arrives as an array of records whose fields hold arrays of any shape, mostly (1, 1).
An empty field is an empty array, a field may lack from some structs of a list, a number may be
written as text. The functions here take such values as they come.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def structs(value: Any) -> list[Any]:
    """Elements of a struct array in MATLAB's order; none for what is empty or no struct."""
    array = np.asarray(value)
    if array.dtype.names is None:
        return []
    return list(array.ravel(order="F"))


def member(struct: Any, name: str) -> Any:
    """A field of a struct; None where it is not there or empty."""
    if struct.dtype.names is None or name not in struct.dtype.names:
        return None
    value = struct[name]
    return None if np.size(value) == 0 else value


def number(value: Any) -> float:
    """The one number in a value, or in a text; NaN where there is none."""
    while isinstance(value, np.ndarray):
        if value.size == 0:
            return float("nan")
        value = value.ravel()[0]
    try:
        return float(value) if value is not None else float("nan")
    except (TypeError, ValueError):
        return float("nan")


def text(value: Any) -> str:
    """The text in a value, however deeply wrapped; empty where there is none."""
    while isinstance(value, np.ndarray):
        if value.size == 0:
            return ""
        value = value.ravel()[0]
    return value.strip() if isinstance(value, str) else ""


def cells(value: Any) -> list[Any]:
    """Elements of a cell array in MATLAB's order."""
    array = np.asarray(value)
    return list(array.ravel(order="F")) if array.dtype == object else [array]

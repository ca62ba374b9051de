"""What a HumanData file holds beyond the store's own fields, so that none of it is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.errors import DataError
from humandata.humandata_npz import Array, numeric, per_row, texts

# Words of so many kinds or fewer become codes; more are names of files and the like.
_MOST_WORDS = 1000
_LARGEST_SETTING = 64_000
_CAMERA_KEYS = {
    "intrinsics": ("in_mat", "K", "intrinsic"),
    "rotation": ("rotation_mat", "R"),
    "translation": ("translation", "T", "t"),
    "height": ("H", "height"),
    "width": ("W", "width"),
}


class Leftovers:
    """The keys of a file, from which readers take what they know; the rest is kept.

    Keys of dictionaries inside the file (``smpl``, ``meta``, ``misc``) are written with a dot:
    ``meta.gender``.

    Attributes
    ----------
    file_level : dict
        Settings of the whole file, fit for JSON.
    left_out : dict of str to str
        Keys that could not be kept, and why.
    """

    def __init__(self, file: Path, data: Mapping[str, Any], rows: int) -> None:
        self.file = file
        self.data = data
        self.rows = rows
        self.file_level: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self._extra: dict[str, Array] = {}
        self._open: dict[str, Any] = {}
        for key, value in data.items():
            if isinstance(value, dict) and key != "cam_param":
                self._open |= {f"{key}.{name}": entry for name, entry in value.items()}
            else:
                self._open[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self._open

    def take(self, key: str) -> Any:
        """The value of a key, which is then no leftover any more."""
        return self._open.pop(key)

    def rows_of(self, key: str) -> Any:
        """As `take`, for a key that must have one entry per person.

        Raises
        ------
        DataError
            It has another length.
        """
        return per_row(self.file, key, self.take(key), self.rows)

    def forget(self, *keys: str) -> None:
        """Bookkeeping of the file that says nothing of the persons."""
        for key in keys:
            self._open.pop(key, None)

    def add(self, name: str, values: Array) -> None:
        """Keep a column per person as ``extra/NAME``."""
        self._extra[name] = values

    def keypoint_keys(self) -> list[str]:
        """Keys of keypoint arrays, in the file's order."""
        return [
            key
            for key, value in self._open.items()
            if re.fullmatch(r"keypoints[23]d\w*", key)
            and not key.endswith(("_mask", "_convention"))
            and isinstance(value, np.ndarray)
        ]

    def misc(self, name: str) -> Any:
        """A setting of ``misc``, which also stays among the settings of the file."""
        value = self._open.get(f"misc.{name}")
        return value if isinstance(value, str | int | float | bool) else None

    def words_of(self, key: str) -> list[str]:
        """As `rows_of`, as text."""
        return texts(self.file, key, self.rows_of(key))

    def numbers_array(self, key: str) -> Array:
        """As `rows_of`, as an array of numbers."""
        return numeric(self.file, key, self.rows_of(key))

    def flags(self, *keys: str) -> NDArray[np.bool_]:
        """The first of the keys that is there as True or False per person; True without any."""
        for key in keys:
            if key in self._open:
                values = _as_array(per_row(self.file, key, self._open[key], self.rows))
                if values is None or values.dtype.kind not in "biuf" or values.size != self.rows:
                    raise DataError(
                        self.file, key, expected="0 or 1 per person", found="something else"
                    )
                return np.asarray(values.reshape(self.rows) > 0)
        return np.ones(self.rows, bool)

    def numbers_of_pictures(
        self, keys: Sequence[str], first: Array, missing: int = 0
    ) -> NDArray[np.int32] | None:
        """Whole numbers of the pictures whose first persons are `first`."""
        found = None
        for key in keys:
            if key in self._open:
                values = self.rows_of(key)
                if found is None:
                    numbers = np.array([_number(value) for value in values], np.float64)[first]
                    usable = np.isfinite(numbers) & (np.abs(numbers) < 2**31)
                    found = np.where(usable, numbers, missing).round().astype(np.int32)
        return found

    def cameras(self, first: Array) -> tuple[dict[str, Array], dict[str, Array | None]]:
        """Camera columns of the pictures, from ``cam_param`` with one entry per person."""
        sizes: dict[str, Array | None] = {"height": None, "width": None}
        entries = self._open.get("cam_param")
        if isinstance(entries, dict):
            return self._hybrik_cameras(entries, first), sizes
        if not isinstance(entries, list | np.ndarray) or len(entries) != self.rows:
            return {}, sizes
        if not all(isinstance(entry, dict) for entry in entries):
            return {}, sizes
        self.take("cam_param")
        chosen = [entries[row] for row in first]
        columns: dict[str, Array] = {}
        intrinsics, known = _matrices([_find(e, "intrinsics") for e in chosen], (3, 3))
        if known.any():
            columns["intrinsics"] = intrinsics.astype(np.float32)
            columns["intrinsics_source"] = known.astype(np.uint8)
        rotation, turned = _matrices([_find(e, "rotation") for e in chosen], (3, 3))
        translation, moved = _matrices([_find(e, "translation") for e in chosen], (3,))
        if (turned & moved).any():
            matrix = np.zeros((len(chosen), 4, 4), np.float32)
            matrix[:, :3, :3], matrix[:, :3, 3], matrix[:, 3, 3] = rotation, translation, 1
            matrix[~(turned & moved)] = 0
            columns["extrinsics"] = matrix
        for side in sizes:
            values = np.array([_number(_find(entry, side)) for entry in chosen])
            if np.isfinite(values).any():
                sizes[side] = np.nan_to_num(values).astype(np.int32)
        used = {name for names in _CAMERA_KEYS.values() for name in names} | {"name"}
        others = sorted({str(k) for e in chosen for k in e if k not in used and _says(e[k])})
        if others:
            self.left_out["cam_param"] = f"its keys {', '.join(others)}"
        return columns, sizes

    def _hybrik_cameras(self, entries: dict[str, Any], first: Array) -> dict[str, Array]:
        """Intrinsics from ``f`` and ``c`` (N, 1, 2); ``intrinsic`` is the inverse, and let be."""
        made = []
        for key in ("f", "c"):
            values = _as_array(entries.get(key))
            if values is None or values.dtype.kind not in "iuf" or values.ndim < 2:
                return {}
            if values.shape[0] != self.rows or values.size != 2 * self.rows:
                return {}
            made.append(values.astype(np.float64).reshape(-1, 2)[first])
        self.take("cam_param")
        focal, centre = made
        known = np.isfinite(focal).all(axis=1) & np.isfinite(centre).all(axis=1)
        known &= (focal > 0).all(axis=1)
        matrix = np.zeros((len(first), 3, 3), np.float32)
        matrix[known, 0, 0], matrix[known, 1, 1] = focal[known].T
        matrix[known, :2, 2], matrix[known, 2, 2] = centre[known], 1
        return {"intrinsics": matrix, "intrinsics_source": np.asarray(known, np.uint8)}

    def columns(self, attributes: dict[str, dict[str, Any]]) -> dict[str, Array]:
        """All that nobody took: columns ``extra/...``; fills `file_level` and `left_out`."""
        for key in list(self._open):
            self._keep(key, self.take(key), attributes)
        return {f"extra/{name}": values for name, values in self._extra.items()}

    def _keep(self, key: str, value: Any, attributes: dict[str, dict[str, Any]]) -> None:
        name = re.sub(r"[^A-Za-z0-9_]", "_", key)[:80]
        one_each = isinstance(value, list | tuple | np.ndarray) and len(value) == self.rows
        array = _as_array(value) if one_each else None
        if one_each and array is not None and name not in self._extra:
            if array.dtype.kind in "biuf":
                narrow = array.dtype == np.float64
                self._extra[name] = array.astype(np.float32) if narrow else array
                return
            words, codes = np.unique(texts(self.file, key, array.reshape(-1)), return_inverse=True)
            if len(words) <= _MOST_WORDS:
                self._extra[name] = codes.reshape(array.shape).astype(np.int32)
                attributes[f"extra/{name}"] = {"vocabulary": words.tolist()}
                return
            self.left_out[key] = f"{len(words)} different words"
            return
        setting = _setting(value)
        if setting is None:
            kind = (
                f"{type(value).__name__} of {len(value)}"
                if hasattr(value, "__len__")
                else (type(value).__name__)
            )
            self.left_out[key] = f"neither a column nor a setting: {kind}"
        else:
            self.file_level[key] = setting


def _as_array(value: Any) -> Array | None:
    """Numbers or words, one entry per person; None for anything else."""
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return None
    if array.dtype == object:
        flat = list(array.reshape(-1))
        return array if flat and all(isinstance(entry, str | bytes) for entry in flat) else None
    return array if array.dtype.kind in "biufUS" else None


def _setting(value: Any) -> Any:
    """`value` as JSON can hold it, or None where it cannot or is large."""
    try:
        plain = _jsonable(value)
        text = json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return plain if len(text) <= _LARGEST_SETTING else None


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.size > _LARGEST_SETTING or value.dtype.kind not in "biufU":
            raise ValueError("too large for a setting")
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > _LARGEST_SETTING:
            raise ValueError("too large for a setting")
        return [_jsonable(entry) for entry in value]
    return value


def _number(value: Any) -> float:
    single = isinstance(value, int | float | np.number | np.bool_)
    return float(value) if single else float("nan")


def _find(entry: Mapping[str, Any], what: str) -> Any:
    return next((entry[key] for key in _CAMERA_KEYS[what] if entry.get(key) is not None), None)


def _says(value: Any) -> bool:
    """Whether a camera entry says something: distortion is often present and all zero."""
    array = _as_array(value)
    return value is not None and (
        array is None or array.dtype.kind not in "biuf" or bool(array.any())
    )


def _matrices(
    values: Sequence[Any], shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Stack of the given matrices, and which of them are there and finite."""
    stack = np.zeros((len(values), *shape))
    known = np.zeros(len(values), bool)
    wanted = int(np.prod(shape))
    for row, value in enumerate(values):
        array = None if value is None else _as_array(value)
        if array is not None and array.dtype.kind in "biuf" and array.size == wanted:
            stack[row] = array.reshape(shape)
            known[row] = bool(np.isfinite(stack[row]).all())
    stack[~known] = 0
    return stack, known

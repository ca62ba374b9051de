"""The HumanData file of mmhuman3d v0.x: its forms and variants brought to one.

Forms: `.npz` with one member per key; the same dictionary pickled; the sliced cache that
HumanDataCacheWriter makes (recognised by the key ``slice_size``). Object members (``smpl``,
``meta``, ``misc``) go through the restricted reader.

Source: open-mmlab/mmhuman3d, docs/human_data.md and mmhuman3d/data/data_structures.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import keypoints, unpickle
from humandata.errors import DataError, HumandataError

Array = NDArray[Any]

SUFFIXES = (".npz", ".pkl")
# A union of joints by its length, for files that say "human_data" or nothing: files of the first
# generation have 162 joints, files of SMPL-X only the first 144.
UNIONS = {190: "human_data", 162: "human_data_10", 144: "smplx"}
_LENGTH_KEYS = ("__instance_num__", "__data_len__", "__temporal_len__")


@dataclass(frozen=True)
class Keypoints:
    """One keypoint array in a named convention.

    Attributes
    ----------
    points : (N, K, D) float32
        Coordinates, then confidence; 0 throughout where a joint is missing.
    convention : str
        Of K joints.
    damaged : int
        Joints that were not finite, or had a negative confidence: now confidence 0.
    masked_out : int
        Joints with a confidence although the file's mask says the dataset lacks them: left out.
    """

    points: NDArray[np.float32]
    convention: str
    damaged: int
    masked_out: int


def load(file: Path) -> dict[str, Any]:
    """Read a file as one dictionary, whatever its form.

    0-d arrays become plain values, object arrays lists; slices of a cache are joined.

    Raises
    ------
    UnsafePickle
        An object member asks for something outside the restricted reader's list.
    DataError
        The file is damaged, or is a SMPLer-X cache.
    """
    members: Any = unpickle.load_npz(file) if file.suffix == ".npz" else unpickle.load(file)
    if not isinstance(members, Mapping) or not all(isinstance(key, str) for key in members):
        raise DataError(
            file, expected="a HumanData dictionary", found=f"a {type(members).__name__}"
        )
    if "data_strategy" in members or ("0" in members and "slice_size" not in members):
        raise DataError(
            file,
            expected="a HumanData file",
            found="a cache of SMPLer-X (one member per sample, absolute paths inside)",
            hint="Convert the HumanData .npz that the cache was made from",
        )
    data = {key: _plain(members[key]) for key in members}
    return _join_slices(file, data) if "slice_size" in data else data


def is_humandata(file: Path) -> bool:
    """Whether the member names are those of a HumanData file or cache; a pickle may always be."""
    if file.suffix != ".npz":
        return True
    members = set(unpickle.load_npz(file))
    known = {"image_path", "bbox_xywh", "keypoints2d", "keypoints3d", "slice_size", "data_strategy"}
    return bool(members & known)


def row_count(file: Path, data: Mapping[str, Any]) -> int:
    """Number of persons: as the file declares it, or as its boxes or paths have rows.

    Raises
    ------
    DataError
        Nothing in the file tells.
    """
    keys = _LENGTH_KEYS[:1] if "frame_range" in data else _LENGTH_KEYS
    for key in keys:
        if isinstance(data.get(key), int) and data[key] >= 0:
            return int(data[key])
    for key in ("bbox_xywh", "keypoints2d", "keypoints3d", "image_path"):
        if key in data:
            return len(data[key])
    raise DataError(
        file,
        expected="bbox_xywh, keypoints or image_path",
        found=f"the keys {', '.join(sorted(data)[:12]) or '(none)'}",
        hint="This is no HumanData file of persons in pictures",
    )


def read_keypoints(
    file: Path, data: Mapping[str, Any], key: str, rows: int, hint: str = ""
) -> Keypoints:
    """Restore one keypoint array and say in which convention it is.

    Whether it is compressed is decided by its shape, not by ``__keypoints_compressed__``: some
    files say one and do the other. Where the joints that the mask leaves are exactly those of a
    named convention, the array is kept in that one; else in the whole union, with confidence 0 for
    the rest.

    Parameters
    ----------
    key : str
        ``keypoints2d``, ``keypoints3d`` or a variant of them.
    rows : int
        Persons.
    hint : str
        Text (file name, ``config``) whose words decide between conventions of the same joints.

    Raises
    ------
    DataError
        Shapes, mask and convention do not fit together.
    """
    points = numeric(file, key, data[key])
    width = 3 if "2d" in key else 4
    if points.ndim != 3 or len(points) != rows or points.shape[2] not in (width - 1, width):
        raise DataError(file, key, expected=f"shape ({rows}, K, {width})", found=f"{points.shape}")
    points = points.astype(np.float32)
    if points.shape[2] == width - 1:
        points = np.concatenate([points, np.ones_like(points[:, :, :1])], axis=2)
    mask, union, masked_out = _mask(file, data, key, points)
    names = keypoints.names(union)
    present = np.flatnonzero(mask)
    if points.shape[1] == len(mask):
        points = points[:, present]
    target = _named(tuple(names[joint] for joint in present), hint) or union
    places = {name: place for place, name in enumerate(keypoints.names(target))}
    columns = present if target == union else [places[names[joint]] for joint in present]
    restored = np.zeros((rows, len(keypoints.names(target)), width), np.float32)
    restored[:, columns] = points
    bad = ~np.isfinite(restored).all(axis=2) | (restored[:, :, -1] < 0)
    restored[bad] = 0
    # A joint without confidence has no place: whatever number stood there is no data.
    restored[restored[:, :, -1] == 0] = 0
    return Keypoints(restored, target, int(bad.sum()), masked_out)


def _mask(
    file: Path, data: Mapping[str, Any], key: str, points: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], str, int]:
    """Which joints of which union exist, and how many stored ones that contradicts."""
    count = points.shape[1]
    stored = data.get(f"{key}_mask")
    mask = np.ones(count, bool) if stored is None else numeric(file, f"{key}_mask", stored) > 0
    union = str(data.get(f"{key}_convention", "human_data"))
    mask = mask.reshape(-1)
    if count not in (len(mask), int(mask.sum())):
        raise DataError(
            file,
            key,
            expected=f"{len(mask)} joints, or the {int(mask.sum())} that {key}_mask leaves",
            found=f"{count} joints",
        )
    if union == "human_data":
        union = UNIONS.get(len(mask), union)
    try:
        joints = len(keypoints.names(union))
    except HumandataError as error:
        raise DataError(
            file, f"{key}_convention", expected="a known convention", found=str(error)
        ) from error
    if joints != len(mask):
        raise DataError(
            file,
            f"{key}_mask" if stored is not None else key,
            expected=f"{joints} joints, as convention {union!r} has",
            found=f"{len(mask)}",
            hint="Compressed keypoints cannot be told apart without their mask",
        )
    if count == len(mask):
        return mask, union, int((points[:, ~mask, -1] > 0).sum())
    return mask, union, 0


@functools.cache
def _named(joints: tuple[str, ...], hint: str) -> str | None:
    """The convention with exactly these joints, in whatever order."""
    wanted = set(joints)
    words = hint.lower()
    found = [
        (c.status != "peer", name not in words, len(name), number, name)
        for number, name in enumerate(keypoints.conventions())
        if len((c := keypoints.convention(name)).joints) == len(joints) and set(c.joints) == wanted
    ]
    # Several conventions may have one set of joints (h36m, h36m_mmpose): then published ones come
    # first, then the one that the file's name or config mentions, then the shortest name.
    return min(found)[-1] if found else None


def per_row(file: Path, key: str, value: Any, rows: int) -> list[Any] | Array:
    """`value` as one entry per person.

    Raises
    ------
    DataError
        It has another length.
    """
    length = len(value) if isinstance(value, list | tuple | np.ndarray) else None
    if length != rows:
        found = "a single value" if length is None else f"{length} entries"
        raise DataError(file, key, expected=f"{rows} entries, one per person", found=found)
    return list(value) if isinstance(value, tuple) else value


def texts(file: Path, key: str, values: Any) -> list[str]:
    """Strings of an array or list, whatever they were written as.

    Raises
    ------
    DataError
        It is neither.
    """
    if not isinstance(values, list | tuple | np.ndarray):
        raise DataError(file, key, expected="a list of words", found=type(values).__name__)
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]


def numeric(file: Path, key: str, value: Any) -> Array:
    """`value` as an array of numbers.

    Raises
    ------
    DataError
        It holds something else, or is ragged.
    """
    try:
        made = np.asarray(value)
    except ValueError:  # a ragged list
        made = np.asarray(None)
    if made.dtype.kind not in "biuf":
        raise DataError(file, key, expected="numbers", found=f"type {made.dtype}")
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def _join_slices(file: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The whole of a cache: slices ``"0"``, ``"1"`` … joined, keypoint masks beside them."""
    size, length = data["slice_size"], data.get("data_len")
    info, rest = data.get("keypoints_info", {}), data.get("non_sliced_data", {})
    numbers = sorted(int(key) for key in data if key.isdecimal())
    if (
        not isinstance(size, int)
        or not isinstance(length, int | None)
        or not all(_is_settings(value) for value in (info, rest))
    ):
        raise DataError(
            file, "slice_size", expected="the layout of a HumanData cache", found="another one"
        )
    # Caches of v0.5 do not say how many rows they have.
    wanted = len(numbers) if length is None else -(-length // max(size, 1))
    if len(numbers) != wanted or not all(_is_settings(data.get(str(k))) for k in range(wanted)):
        raise DataError(
            file,
            "slices",
            expected=f"{wanted} slices of {size} rows",
            found=f"{len(numbers)} slices",
            hint="The cache was cut off while it was written; make it anew",
        )
    slices = [data[str(number)] for number in numbers]
    joined = _join(file, "slices", slices) if slices else {}
    if length is not None:
        joined["__data_len__"] = length
    plain = {key: _plain(value) for key, value in {**rest, **info}.items()}
    return {**plain, **joined}


def _is_settings(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _join(file: Path, key: str, parts: list[Any]) -> Any:
    parts = [_plain(part) for part in parts]
    first = parts[0]
    if not all(type(part) is type(first) for part in parts):
        raise DataError(file, key, expected="one type in all slices", found="several")
    if isinstance(first, dict):
        if any(part.keys() != first.keys() for part in parts):
            raise DataError(file, key, expected="the same keys in all slices", found="others")
        return {name: _join(file, str(name), [part[name] for part in parts]) for name in first}
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    if isinstance(first, list):
        return [entry for part in parts for entry in part]
    return first

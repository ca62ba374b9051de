"""The tars of 4D-Humans: people of one shard, and the steps of its loader."""

from __future__ import annotations

import io
import math
import posixpath
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import tar_files, unpickle
from humandata.errors import DataError
from humandata.unpickle import UnsafePickle

Array = NDArray[Any]

PICTURES = ("jpg", "jpeg", "png")
SHAPES: dict[str, tuple[int, ...]] = {
    "keypoints_2d": (44, 3), "keypoints_3d": (44, 4), "center": (2,), "scale": (2,),
    "body_pose": (72,), "betas": (10,), "has_body_pose": (), "has_betas": (),
}  # fmt: skip
CORRUPT = frozenset(
    f"{folder}/{key}"
    for folder in ("aic-train", "aic-train-vitpose")
    for key in (
        "0a047f0124ae48f8eee15a9506ce1449ee1ba669", "1a703aa174450c02fbc9cfbf578a5435ef403689",
        "0394e6dc4df78042929b891dbc24f0fd7ffb6b6d", "5c032b9626e410441544c7669123ecc4ae077058",
        "ca018a7b4c5f53494006ebeeff9b4c0917a55f07", "4a77adb695bef75a5d34c04d589baf646fe2ba35",
        "a0689017b1065c664daef4ae2d14ea03d543217e", "39596a45cbd21bed4a5f9c2342505532f8ec5cbb",
        "3d33283b40610d87db660b62982f797d50a7366b",
    )
)  # fmt: skip
"""Keys of AIC whose pictures are damaged; the loader of 4D-Humans skips them."""


@dataclass(frozen=True)
class Sample:
    """One key of a shard: a picture, and the people in it or why they cannot be read."""

    key: str
    picture: str | None
    people: list[Any]
    problem: str | None
    masks: NDArray[np.bool_] | None


def samples(archive: Path) -> Iterator[Sample]:
    """The keys of a shard, in their order.

    A key is the path of a member up to the first dot of its base name, as webdataset has it: dots
    in the names of folders belong to the key.

    Raises
    ------
    DataError
        The archive is no tar, or is cut off.
    UnsafePickle
        Labels would have to run code.
    """
    found = tar_files.members(archive)
    keys: dict[str, dict[str, str]] = {}
    for name in found:
        folder, base = posixpath.split(name)
        stem, _, ending = base.partition(".")
        keys.setdefault(posixpath.join(folder, stem), {})[ending.lower()] = name
    with open(archive, "rb") as stream:

        def content(name: str) -> bytes:
            offset, size = found[name]
            stream.seek(offset)
            return stream.read(size)

        for key, endings in keys.items():
            picture = next((endings[e] for e in PICTURES if e in endings), None)
            people: list[Any] = []
            problem = None if "data.pyd" in endings else "no member .data.pyd"
            if problem is None:
                source = f"{archive}, member {endings['data.pyd']}"
                try:
                    listed = unpickle.loads(content(endings["data.pyd"]), source)
                except UnsafePickle:
                    raise
                except DataError as error:
                    problem = f"labels cannot be read: {error.found}"
                else:
                    if isinstance(listed, list):
                        people = listed
                    else:
                        problem = "labels that are no list of people"
            masks = None
            if "detection.npz" in endings:
                masks = _masks(content(endings["detection.npz"]))
            yield Sample(key, picture, people, problem, masks)


def _masks(data: bytes) -> NDArray[np.bool_] | None:
    """``masks`` (n, H, W) of a mask file; None where it is damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open("masks.npy") as member:
            size = archive.getinfo("masks.npy").file_size
            if np.lib.format.read_magic(member) != (1, 0):
                return None
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
            count = math.prod(shape)
            if dtype != np.bool_ or fortran or len(shape) != 3 or not 0 <= count <= size:
                return None
            raw = member.read(count)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, RuntimeError):
        return None
    if len(raw) != count:
        return None
    return (np.frombuffer(raw, np.uint8) > 0).reshape(shape)


def person(entry: Any) -> dict[str, Any]:
    """One person's labels as arrays of the shapes in ``SHAPES``, and what else is read of them.

    Raises
    ------
    ValueError
        Something is missing or has another shape; the message says what.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"a {type(entry).__name__} in place of a person")
    labels: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        if name not in entry:
            raise ValueError(f"no {name}")
        try:
            values = np.asarray(entry[name])
        except ValueError:
            values = np.asarray(None)
        if values.dtype.kind not in "biuf" or values.size != math.prod(shape):
            raise ValueError(f"{name} of {values.dtype} {values.shape} in place of {shape}")
        labels[name] = values.reshape(shape).astype(np.float64)
    info = entry.get("extra_info")
    info = info if isinstance(info, Mapping) else {}
    losses = info.get("fitting_loss")
    if isinstance(losses, np.ndarray) and losses.dtype == object and losses.ndim == 0:
        losses = losses.item()
    loss = losses.get("reprojection_loss") if isinstance(losses, Mapping) else None
    labels["reprojection_loss"] = _number(loss, -1.0)
    labels["personid"] = int(_number(entry.get("personid"), -1))
    labels["mask"] = int(_number(info.get("detection_npz_idx"), -1))
    return labels


def _number(value: Any, missing: float) -> float:
    try:
        found = float(np.asarray(value, np.float64).reshape(()))
    except (TypeError, ValueError):
        return missing
    return found if math.isfinite(found) else missing

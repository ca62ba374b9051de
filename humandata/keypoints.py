"""Joint conventions and the mapping between them.

A convention is a name for an ordered list of joints: ``coco`` is 17 joints in the order of the
COCO files. All of them are data in ``schemas/keypoints.json``; joints of two conventions are the
same where their names are.

>>> import numpy as np
>>> from humandata import keypoints
>>> coco = np.ones((2, 17, 3), np.float32)              # 2 people; x, y, confidence
>>> points, mask = keypoints.convert(coco, "coco", "smpl_54")
>>> points.shape, int(mask.sum())
((2, 54, 3), 17)
>>> points, mask = keypoints.convert(coco, "coco", "smpl_54", approximate=True)
>>> int(mask.sum())                                     # annotated hips also serve as SMPL's hips
19
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humandata.errors import HumandataError

Int = NDArray[np.intp]
Bool = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)

LSP14_FROM_H36M17 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)
"""The 14 evaluation joints (LSP order) among 17 of convention ``h36m``, the regressor's order."""

LSP14_FROM_H36M_MMPOSE17 = (3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10)
"""The same among 17 of convention ``h36m_mmpose``, which lists the right leg first."""

LSP14_FROM_SMPL24 = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18)
"""The same among 24 of convention ``smpl_24``: its head is number 18, not the head top 13."""


@dataclass(frozen=True)
class Convention:
    """One list of joints and what is known about it. Indices count joints from 0.

    Attributes
    ----------
    name : str
    joints : tuple of str
        Names in the order of the arrays.
    flip_pairs : tuple of (left, right)
    flip_unpaired : tuple of str
        Joints of one side whose partner the convention lacks (a single hand).
    parts : mapping from part ("head", "left_hand", "shoulder", "hip", "body" ...) to indices
    limbs : mapping from part to edges between indices
    skeleton : tuple of edges
        The edges to draw.
    sigmas : tuple of float
        Per-joint constants of object keypoint similarity (OKS); empty where nobody defined them.
    upper, lower : tuple of int
        Halves of the body, for crops of half a body; empty where nobody defined them.
    status : str
        ``peer``, ``peer_branch``, ``proposed`` or ``alias``.
    source, note : str
        Where the list was read, and what to beware of.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    flip_unpaired: tuple[str, ...]
    parts: Mapping[str, tuple[int, ...]]
    limbs: Mapping[str, tuple[tuple[int, int], ...]]
    skeleton: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    upper: tuple[int, ...]
    lower: tuple[int, ...]
    status: str
    source: str
    note: str


def conventions() -> list[str]:
    """Names of all conventions."""
    return list(_schema()["conventions"])


def convention(name: str) -> Convention:
    """Look a convention up by name, in any case.

    Raises
    ------
    HumandataError
        The name is unknown; the message lists the nearest ones.
    """
    # Lower-cased before the cache, so that every spelling shares one entry.
    return _convention(str(name).lower())


def names(convention: str) -> tuple[str, ...]:
    """Joint names of a convention, in the order of its arrays."""
    return _by_name(convention).joints


def index(convention: str, joint: str) -> int:
    """Position of a joint in a convention; other spellings of its name are understood.

    Where a name occurs twice (``mmpose_133`` lists the hand roots as wrists), the first counts.

    Raises
    ------
    HumandataError
        The convention, or the joint in it, is unknown.
    """
    found = _by_name(convention)
    if joint in found.joints:
        return found.joints.index(joint)
    spelt = [_canonical(name) for name in found.joints]
    if _canonical(joint) in spelt:
        return spelt.index(_canonical(joint))
    raise HumandataError(
        f"convention {found.name!r} has no joint {joint!r}{_nearest(joint, found.joints)}"
    )


def mapping(src: str, dst: str, approximate: bool = False, *, once: bool = False) -> Int:
    """For every joint of `dst`, the joint of `src` that it is taken from.

    Parameters
    ----------
    src, dst : str
        Conventions.
    approximate : bool
        Where `src` lacks a joint, take the first one it has of those that stand in for it
        (``neck_openpose`` takes ``neck`` before ``neck_extra``).
    once : bool
        Use every joint of `src` at most once, exact matches first, then in the order of `dst`.
        Otherwise one annotation may feed several targets, which multiplies its weight in a loss.

    Returns
    -------
    intp ndarray, shape (joints of dst,)
        Indices into `src`, -1 where there is none.
    """
    return _mapping(_by_name(src).name, _by_name(dst).name, bool(approximate), bool(once)).copy()


def convert(
    points: NDArray[Scalar],
    src: str,
    dst: str,
    approximate: bool = False,
    mask: ArrayLike | None = None,
) -> tuple[NDArray[Scalar], Bool]:
    """Reorder keypoints from one convention to another.

    Coordinates are copied, never averaged or shifted, and the confidence, being the last column,
    travels with them. The mask is no confidence: it says which joints the convention supplies.

    Parameters
    ----------
    points : ndarray, shape (..., joints of src, D)
        Any dtype; D is usually 2 (x, y), 3 (x, y, confidence) or 4 (x, y, z, confidence).
    src, dst : str
        Conventions.
    approximate : bool
        Let near joints stand in for missing ones, see :func:`mapping`.
    mask : array_like, shape (..., joints of src), optional
        Which joints of the source exist; nonzero means yes. Carried over joint by joint.

    Returns
    -------
    points : ndarray, shape (..., joints of dst, D), dtype as given
        A new array; zeros where no source joint exists.
    mask : bool ndarray, shape (joints of dst,), or (..., joints of dst) as the given mask

    Raises
    ------
    HumandataError
        A convention is unknown, or the number of joints is not the convention's.
    """
    points = np.asarray(points)
    source = _by_name(src)
    count = len(source.joints)
    if points.ndim < 2 or points.shape[-2] != count:
        raise HumandataError(
            f"keypoints of convention {source.name!r} must have shape (..., {count}, D), "
            f"found {points.shape}"
        )
    taken = mapping(src, dst, approximate)
    missing = taken < 0
    result = np.take(points, np.where(missing, 0, taken), axis=-2)
    result[..., missing, :] = 0
    if mask is None:
        return result, ~missing
    present = np.asarray(mask) != 0
    if present.ndim < 1 or present.shape[-1] != count:
        raise HumandataError(
            f"a mask of convention {source.name!r} must have shape (..., {count}), "
            f"found {present.shape}"
        )
    return result, present[..., taken] & ~missing


def flip_permutation(convention: str) -> Int:
    """Order of the joints after the picture is mirrored: ``points[..., permutation, :]``.

    The coordinates themselves are mirrored by the caller. Applied twice it changes nothing.

    Returns
    -------
    intp ndarray, shape (joints,)

    Raises
    ------
    HumandataError
        The convention holds one hand only, whose mirror image is the other hand.
    """
    found = _by_name(convention)
    if found.flip_unpaired:
        raise HumandataError(
            f"convention {found.name!r} has no mirror image: it lacks the partner of "
            f"{found.flip_unpaired[0]!r} and {len(found.flip_unpaired) - 1} more joints"
        )
    permutation = np.arange(len(found.joints))
    for left, right in found.flip_pairs:
        permutation[left], permutation[right] = right, left
    return permutation


def limbs(convention: str) -> Int:
    """Edges of the skeleton to draw, intp (edges, 2); (0, 2) where none is defined."""
    return np.array(_by_name(convention).skeleton, np.intp).reshape(-1, 2)


def kinematic_tree(model: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Joints and parents (-1 for the root) of ``smpl`` (24 joints) or ``smplx`` (55)."""
    tree = _entry("kinematic_trees", model)
    return tuple(tree["joints"]), tuple(tree["parents"])


def vertex_joints(model: str) -> dict[str, int]:
    """Joints that are single vertices of the mesh of ``smpl`` or ``smplx``: name to vertex."""
    return dict(_entry("vertex_joints", model))


def _entry(table: str, name: str) -> dict[str, Any]:
    entries = _schema()[table]
    if name.lower() not in entries:
        raise HumandataError(f"unknown body model {name!r}, known are {', '.join(entries)}")
    found: dict[str, Any] = entries[name.lower()]
    return found


@functools.cache
def _schema() -> dict[str, Any]:
    text = resources.files("humandata.schemas").joinpath("keypoints.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@functools.cache
def _convention(name: str) -> Convention:
    known = _schema()["conventions"]
    if name not in known:
        raise HumandataError(f"unknown keypoint convention {name!r}{_nearest(name, known)}")
    entry = known[name]
    drawn = entry.get("mmpose", {})
    edges = {part: _pairs(entry["limbs"][part]) for part in entry["limbs"]}
    every = tuple(edge for part in edges.values() for edge in part)
    return Convention(
        name=name,
        joints=tuple(entry["joints"]),
        flip_pairs=_pairs(entry["flip_pairs"]),
        flip_unpaired=tuple(entry.get("flip_unpaired", ())),
        parts=MappingProxyType({part: tuple(at) for part, at in entry["parts"].items()}),
        limbs=MappingProxyType(edges),
        skeleton=_pairs(entry.get("skeleton") or drawn.get("skeleton") or every),
        sigmas=tuple(drawn.get("oks_sigmas", ())),
        upper=tuple(drawn.get("upper", ())),
        lower=tuple(drawn.get("lower", ())),
        status=entry["status"],
        source=entry["source"],
        note=entry.get("note", ""),
    )


# The functions above take a parameter `convention`, which hides the function of that name.
_by_name = convention


@functools.cache
def _mapping(src: str, dst: str, approximate: bool, once: bool) -> Int:
    sources = _occurrences(_convention(src).joints)
    targets = list(_occurrences(_convention(dst).joints))
    # A second wrist (the root of a hand) takes the second wrist of the source, or else the first.
    exact = [sources.get(key, sources.get((key[0], 0), -1)) for key in targets]
    result = np.array(exact, np.intp)
    if approximate:
        stand_ins = _schema()["approximate_map"]
        for target in np.flatnonzero(result < 0):
            near = (sources.get((name, 0), -1) for name in stand_ins.get(targets[target][0], ()))
            result[target] = next((joint for joint in near if joint >= 0), -1)
    if once:
        used: set[int] = set()
        is_exact = np.array(exact) >= 0
        for target in [*np.flatnonzero(is_exact), *np.flatnonzero(~is_exact)]:
            if result[target] in used:
                result[target] = -1
            used.add(int(result[target]))
    return result


def _occurrences(joints: Iterable[str]) -> dict[tuple[str, int], int]:
    """(canonical name, how many of that name came before) -> index."""
    seen: dict[str, int] = {}
    result: dict[tuple[str, int], int] = {}
    for at, joint in enumerate(joints):
        name = _canonical(joint)
        result[name, seen.get(name, 0)] = at
        seen[name] = seen.get(name, 0) + 1
    return result


def _canonical(joint: str) -> str:
    schema = _schema()
    name: str = schema["legacy_face_names"].get(joint) or schema["aliases"].get(joint, joint)
    return name


def _pairs(edges: Iterable[Iterable[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(a), int(b)) for a, b in edges)


def _nearest(name: object, known: Iterable[str]) -> str:
    listed = list(known)
    near = difflib.get_close_matches(str(name), listed, n=4, cutoff=0.5)
    if near:
        return f"; did you mean {', '.join(near)}?"
    return f"; known are {', '.join(listed)}" if len(listed) < 100 else ""

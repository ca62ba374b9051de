"""Leeds Sports Pose and its extension: the joints of ``joints.mat``, and which picture each is of.

Both releases hold one array of joints, with the axes in another order: (3, 14, N) for LSP, (14, 3,
N) for LSP-Extended. Code for one reads garbage from the other without noticing, so the order is
read off the shape and held against what is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata.errors import DataError
from humandata.mpi_inf_3dhp_files import read_mat

Float = NDArray[np.float64]
Int = NDArray[np.int64]

JOINTS = 14
LSP, EXTENDED = "LSP", "LSP-Extended"
RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP = 8, 9, 2, 3
FIRST = {
    LSP: ((0, 473.95, 552.63, 0),),
    EXTENDED: ((0, 0.0, -26.11, 0), (1, 26.03, 86.41, 1)),
}
"""Joints of the first picture in the original releases: joint, x, y, flag."""
UNOFFICIAL = (
    "the first record is not that of the official joints.mat: is this a scaled or edited copy? Its "
    "joints must be those of the pictures beside it"
)
CLEAR = 0.1
"""Share of a person's long side that shoulders and hips must be apart to tell front from back."""


def read_joints(file: Path, layout: str) -> Float:
    """Joints (N, 14, 3): x, y as released, and the release's own flag.

    Parameters
    ----------
    file : Path
        ``joints.mat``.
    layout : {"LSP", "LSP-Extended"}

    Raises
    ------
    DataError
        If the file is damaged, or of the other release.
    """
    values = np.asarray(read_mat(file, ["joints"])["joints"])
    wanted, other = ((3, JOINTS), (JOINTS, 3)) if layout == LSP else ((JOINTS, 3), (3, JOINTS))
    if values.ndim == 2 and values.shape == wanted:
        values = values[..., None]  # MATLAB drops a last axis of one picture
    if values.ndim != 3 or values.shape[:2] != wanted or values.dtype.kind not in "fiu":
        another = values.ndim == 3 and values.shape[:2] == other
        raise DataError(
            file,
            "joints",
            expected=f"numbers of shape ({wanted[0]}, {wanted[1]}, N), as {layout} has",
            found=f"shape {values.shape}",
            hint=(
                f"This is the file of {EXTENDED if layout == LSP else LSP}: convert it with "
                f"'humandata convert {'lspet' if layout == LSP else 'lsp'}'"
            )
            if another
            else None,
        )
    joints = values.transpose(2, 1, 0) if layout == LSP else values.transpose(2, 0, 1)
    return joints.astype(np.float64)


def is_official(joints: Float, layout: str) -> bool:
    """Whether the first record is that of the release in original size.

    Copies with scaled coordinates circulate, made for pictures of another size.
    """
    return all(
        len(joints) > 0 and np.allclose(joints[0, joint], record, atol=0.01)
        for joint, *record in FIRST[layout]
    )


def long_sides(points: Float, valid: NDArray[np.bool_]) -> Float:
    """Longer side (N,) of the extent of the valid joints (N, 14, 2); 0 where there is none."""
    low = np.where(valid[..., None], points, np.inf).min(axis=1)
    high = np.where(valid[..., None], points, -np.inf).max(axis=1)
    sides: Float = np.where(valid.any(axis=1), (high - low).max(axis=1), 0)
    return sides


def numbered(folder: Path, ending: str, digits: int) -> dict[int, str]:
    """Pictures ``im0001.jpg`` of a folder by their number, in its order; other files are let be."""
    pattern = re.compile(rf"im(\d{{{digits}}})\.{ending}", re.IGNORECASE)
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return {}
    found = ((pattern.fullmatch(name), name) for name in names)
    return {int(match[1]): name for match, name in found if match}


def sides_disagree(points: Float, valid: NDArray[np.bool_], size: Float) -> NDArray[np.bool_]:
    """Shoulders and hips say opposite things of which side is which (N,).

    In clear views from the front or the back, the left shoulder and the left hip lie on the same
    side. Where they do not, the person is twisted, or a side was labelled wrongly: 5 % of
    LSP-Extended, 1.7 % of LSP. Whole bodies with exchanged sides are not seen.
    """
    four = [RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP]
    shoulders = points[:, LEFT_SHOULDER, 0] - points[:, RIGHT_SHOULDER, 0]
    hips = points[:, LEFT_HIP, 0] - points[:, RIGHT_HIP, 0]
    least = CLEAR * size
    clear = valid[:, four].all(axis=1) & (np.abs(shoulders) > least) & (np.abs(hips) > least)
    return np.asarray(clear & (shoulders * hips < 0))


def outside(points: Float, sizes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Joints (N, 14) beyond their picture; where its size is unknown, those below 0."""
    width, height = sizes[:, :1], sizes[:, 1:]
    beyond = (points < 0).any(axis=2)
    beyond |= (width > 0) & ((points[..., 0] > width) | (points[..., 1] > height))
    return np.asarray(beyond)


def extent_leaves(points: Float, sizes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Rule of mmhuman3d and hmr-benchmarks: some joint of all 14 lies beyond the picture (N,).

    Pictures of unknown size count as left: these peers read every picture.
    """
    return np.asarray(outside(points, sizes).any(axis=1) | (sizes == 0).any(axis=1))


def names_of(numbers: Sequence[int] | Int, pattern: str) -> list[str]:
    """Official names, such as ``images/im0001.jpg``."""
    return [pattern.format(int(number)) for number in numbers]

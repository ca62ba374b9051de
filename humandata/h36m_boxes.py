"""Boxes of Human3.6M: of the joints, or as the peers make them, of the joints or of the masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, h36m_files
from humandata.errors import DataError
from humandata.h36m_files import Recording

Float = NDArray[np.float64]
Int = NDArray[np.int64]

MASK_FOLDERS = {
    "ground_truth_bb": ("MySegmentsMat/ground_truth_bb", "Segments_mat_gt_bb"),
    "ground_truth_bs": ("MySegmentsMat/ground_truth_bs", "Segments_mat_gt_bs"),
}
BOXES = {
    # Name -> (rule as the store says it, factor)
    "joints": ("extent of the 17 joints in 2D", 1.2),
    "mmhuman3d": ("tight box of the ground_truth_bs mask", 0.9),
    "spin": ("square around the ground_truth_bb mask", 0.9),
    "mmpose": ("square around the 17 joints in 2D", 1.2),
    "mks0601": ("extent of the 17 joints in 2D less one pixel", 1.2),
}
MASKS = {"mmhuman3d": "ground_truth_bs", "spin": "ground_truth_bb"}


def mask_file(raw: Path, recording: Recording, box: str) -> Path | None:
    """The masks that a rule needs; None where it needs none, or they are not there."""
    if box not in MASKS:
        return None
    name = f"{recording.stem}.mat"
    folders = MASK_FOLDERS[MASKS[box]]
    return h36m_files.find(raw, recording.take.subject, folders, name)


def boxes(
    raw: Path, recording: Recording, pixels: Float, pose: Int, rule: str
) -> tuple[Float, list[str]]:
    """Boxes (n, 4) by one of the rules, and what is to be noted of them.

    Parameters
    ----------
    pixels : (n, 17, 2) float64
    pose : (n,) int
        Numbers of the poses, which are those of the masks.
    rule : str
        A key of ``BOXES``.

    Raises
    ------
    DataError
        If the masks are needed and missing, or damaged.
    """
    factor = BOXES[rule][1]
    extent = np.asarray(geometry.bbox_from_points(pixels), np.float64)
    if rule not in MASKS:
        if rule == "mks0601":
            centre = extent[:, :2] + extent[:, 2:] / 2
            size = np.maximum(extent[:, 2:] - 1, 0)
            extent = np.hstack([centre - size / 2, size])
        return _enlarged(extent, factor, rule == "mmpose"), []
    file = mask_file(raw, recording, rule)
    if file is None:
        folder = MASK_FOLDERS[MASKS[rule]][0]
        raise DataError(
            raw / recording.take.subject / folder / f"{recording.stem}.mat",
            expected=f"the masks that box={rule} is made of",
            found="no such file",
            hint="Unpack the segments of this subject, or leave --option box out",
        )
    corners = mask_boxes(file, pose)
    masks = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    empty = ~(masks[:, 2:] > 0).all(axis=1)
    box = _enlarged(masks, factor, rule == "spin")
    box[empty] = _enlarged(extent[empty], BOXES["joints"][1], False)
    notes = []
    if empty.any():
        where = f"{recording.take.subject}/{recording.stem}"
        notes.append(f"{where}: {int(empty.sum())} masks are empty; their boxes are of the joints")
    return box, notes


def _enlarged(box: Float, factor: float, square: bool) -> Float:
    """Boxes times a factor about their centre, squared to the longer side where asked."""
    centre, size = box[:, :2] + box[:, 2:] / 2, box[:, 2:] * factor
    if square:
        size = np.repeat(size.max(axis=1, keepdims=True), 2, axis=1)
    return np.hstack([centre - size / 2, size])


def mask_boxes(file: Path, rows: NDArray[np.int64]) -> Float:
    """Tight boxes of person masks, (n, 4): left, top, right + 1, bottom + 1; zeros of an empty one.

    The file is MATLAB 7.3 (HDF5): ``Masks`` holds references to arrays that lie transposed.

    Raises
    ------
    DataError
        If the file is damaged, or holds fewer masks than asked for.
    """
    import h5py

    boxes = np.zeros((len(rows), 4))
    try:
        with h5py.File(file) as content:
            references = np.asarray(content["Masks"]).ravel()
            if len(rows) and rows.max() >= len(references):
                raise DataError(
                    file,
                    "Masks",
                    expected=f"a mask for pose {rows.max()}",
                    found=f"{len(references)} masks",
                )
            # Through h5py's lower level and into the same memory: masks are megabytes each, and
            # this takes less than half the time.
            stored = np.empty((0, 0), np.uint8)
            for i, row in enumerate(rows):
                dataset = h5py.h5r.dereference(references[row], content.id)
                if dataset.shape != stored.shape:
                    stored = np.empty(dataset.shape, np.uint8)
                dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, stored)
                mask = stored == 1
                columns, lines = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
                if len(columns):
                    boxes[i] = columns[0], lines[0], columns[-1] + 1, lines[-1] + 1
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(
            file,
            expected="a MATLAB 7.3 file with Masks",
            found=f"{type(error).__name__}: {error}",
            hint="Download Segments_mat_gt_bb or _bs of this subject again",
        ) from error
    return boxes

"""Cameras of crops and of whole pictures: SPIN's weak perspective, CLIFF's boxes, translations.

Together with `humandata.geometry`, whose conventions hold here: camera x right, y down, z forward,
pixels from 0 at the centre of the first one, float64 inside, the precision of the input outside.
The differentiable forms are in `humandata.training.cameras`.

Two readings of CLIFF are published, and a network of one must not be fed with boxes of the other:

============  ==================================  ===============================
form          b, from a box w wide and h high     crop of 192 x 256 pixels shows
============  ==================================  ===============================
``cliff``     1.1 max(256 / 192 w, h)             0.75 b across, b down
``mmhuman3d`` max(w, h), box enlarged beforehand  b across, 4/3 b down
============  ==================================  ===============================

The focal length is the diagonal of the whole picture and the principal point its middle in both.
The scale of the camera is relative to b, so a camera is carried from one form to the other through
the whole picture: `crop_camera_to_full_frame` with one b, `full_frame_to_crop_camera` with the
other.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from humandata.errors import HumandataError
from humandata.geometry import (
    FOCAL_LENGTH,
    Float,
    Float64,
    crop_camera_to_full_frame,
    weak_perspective_to_translation,
    xywh_to_square,
)
from humandata.rotations import as_floating

__all__ = [
    "CLIFF_CROP",
    "CLIFF_ENLARGEMENT",
    "H36M_LENS",
    "CliffForm",
    "cliff_box",
    "cliff_box_info",
    "cliff_crop_affine",
    "crop_camera_to_full_frame",
    "estimate_translation",
    "full_frame_to_crop_camera",
    "picture_focal",
    "project_through_lens",
    "translation_to_weak_perspective",
    "weak_perspective_to_translation",
]

CliffForm = Literal["cliff", "mmhuman3d"]

CLIFF_CROP = (192, 256)
"""Width and height of CLIFF's crop, pixels."""

CLIFF_ENLARGEMENT = 1.1
"""How much larger than the detector's box the original takes its own (``bbox_from_detector``)."""

H36M_LENS = "Human3.6M: OpenCV's, with half its tangential term"
"""What a store says of the formula behind its ``distortion``; of other words, OpenCV's is meant."""


def project_through_lens(
    points: ArrayLike, intrinsics: ArrayLike, distortion: ArrayLike, model: str = "OpenCV"
) -> Float64:
    """Project camera-frame points to pixels of a picture that its lens bent.

    With x, y on the plane z = 1 and r2 = x^2 + y^2, x becomes
    ``x (1 + k1 r2 + k2 r2^2 + k3 r2^3 + t (p1 y + p2 x)) + p2 r2``, and y alike with p1; t is 2 in
    OpenCV's formula, and 1 in that of Human3.6M's own code, which OpenCV's misses by up to 0.2
    pixels.

    Parameters
    ----------
    points : array_like, shape (..., K, 3)
        NaN where a point is not in front of the camera.
    intrinsics : array_like, shape (..., 3, 3)
    distortion : array_like, shape (..., 5)
        k1, k2, p1, p2, k3; zeros for a pinhole.
    model : str
        `H36M_LENS` for its formula.

    Returns
    -------
    float64 ndarray, shape (..., K, 2)
    """
    seen, camera = np.asarray(points, np.float64), np.asarray(intrinsics, np.float64)
    lens = np.asarray(distortion, np.float64)[..., None, :]
    k1, k2, p1, p2, k3 = (lens[..., i] for i in range(5))
    plane = seen[..., :2] / np.where(seen[..., 2:] > 0, seen[..., 2:], np.nan)
    x, y = plane[..., 0], plane[..., 1]
    square = x**2 + y**2
    twice = 1 if model == H36M_LENS else 2
    bend = 1 + square * (k1 + square * (k2 + square * k3)) + twice * (p1 * y + p2 * x)
    bent = np.stack([x * bend + p2 * square, y * bend + p1 * square, np.ones_like(x)], axis=-1)
    return np.asarray((bent @ np.swapaxes(camera, -1, -2))[..., :2])


def translation_to_weak_perspective(
    translation: ArrayLike, focal: ArrayLike = FOCAL_LENGTH, size: ArrayLike = 224
) -> Float:
    """Weak-perspective camera (..., 3) of a crop, from the translation of a body before it.

    The inverse of `weak_perspective_to_translation`: ``s = 2 focal / (size tz)``, up to the 1e-9 by
    which that one keeps s = 0 finite.
    """
    t, dtype = as_floating(translation, (3,), "translation")
    scale = (2 * np.asarray(focal, np.float64) / t[..., 2] - 1e-9) / np.asarray(size)
    scale, x, y = np.broadcast_arrays(scale, t[..., 0], t[..., 1])
    return np.stack([scale, x, y], axis=-1).astype(dtype)


def full_frame_to_crop_camera(
    translation: ArrayLike,
    centre: ArrayLike,
    side: ArrayLike,
    focal: ArrayLike,
    principal_point: ArrayLike,
) -> Float:
    """Weak-perspective camera of a crop, from a translation in the camera of the whole picture.

    The inverse of `crop_camera_to_full_frame`, with the same parameters.

    Returns
    -------
    ndarray, shape (..., 3)
        Scale s, tx, ty.
    """
    t, dtype = as_floating(translation, (3,), "translation")
    length = np.asarray(focal, np.float64)
    scale = (2 * length / t[..., 2] - 1e-9) / np.asarray(side, np.float64)
    off = np.asarray(centre, np.float64) - np.asarray(principal_point, np.float64)
    sideways = t[..., :2] - off * (t[..., 2] / length)[..., None]
    scale = np.broadcast_to(scale, sideways.shape[:-1])
    return np.concatenate([scale[..., None], sideways], axis=-1).astype(dtype)


def picture_focal(width: ArrayLike, height: ArrayLike) -> Float64:
    """CLIFF's focal length of a picture in pixels: its diagonal, some 53 degrees of view across."""
    return np.hypot(np.asarray(width, np.float64), np.asarray(height, np.float64))


def cliff_box(bbox_xywh: ArrayLike, form: CliffForm = "cliff") -> tuple[Float, Float]:
    """Centre (..., 2) and length b (...) that CLIFF crops by and is told, pixels.

    Parameters
    ----------
    bbox_xywh : array_like, shape (..., 4 or more)
        The detector's box for ``cliff``; for ``mmhuman3d`` a box that is enlarged already.
    form : {"cliff", "mmhuman3d"}
        See the description of this module.
    """
    centre, longer = xywh_to_square(bbox_xywh)
    if _form(form) == "mmhuman3d":
        return centre, longer
    boxes = np.asarray(bbox_xywh, np.float64)
    width, height = CLIFF_CROP
    length = CLIFF_ENLARGEMENT * np.maximum(boxes[..., 2] * height / width, boxes[..., 3])
    return centre, length.astype(centre.dtype)


def cliff_crop_affine(centre: ArrayLike, b: ArrayLike, form: CliffForm = "cliff") -> Float64:
    """Affine (..., 2, 3) from the picture to CLIFF's crop of 192 x 256 pixels.

    The centre goes to (96, 128). The original cuts at whole pixels and resizes that, which differs
    from this affine by up to a pixel of the picture; mmhuman3d warps by it.

    Parameters
    ----------
    centre : array_like, shape (..., 2)
    b : array_like, shape (...)
        As `cliff_box` gives them.
    form : {"cliff", "mmhuman3d"}
    """
    middle, _ = as_floating(centre, (2,), "centre")
    length = np.asarray(b, np.float64)
    if not (length > 0).all():
        row = int(np.argmin((length > 0).reshape(-1)))
        raise HumandataError(
            f"cannot crop a box of length {length.flat[row]:g} pixels (row {row}): "
            "it must be positive"
        )
    width, height = CLIFF_CROP
    scale = (width if _form(form) == "mmhuman3d" else height) / length
    affine = np.zeros((*np.broadcast_shapes(middle.shape[:-1], scale.shape), 2, 3))
    affine[..., 0, 0] = affine[..., 1, 1] = scale
    affine[..., 2] = np.array([width / 2, height / 2]) - scale[..., None] * middle
    return affine


def cliff_box_info(
    centre: ArrayLike,
    b: ArrayLike,
    width: ArrayLike,
    height: ArrayLike,
    plain: bool = False,
) -> Float:
    """The three numbers about a box that CLIFF's regressor gets beside the image feature.

    ``(2.8 (cx - W/2) / f, 2.8 (cy - H/2) / f, (b - 0.24 f) / (0.06 f))`` with f the diagonal of the
    picture, in both published forms; the constants bring boxes of Human3.6M to about -1 to 1.

    Parameters
    ----------
    centre : array_like, shape (..., 2)
        Pixels of the picture.
    b : array_like, shape (...)
        Pixels of the picture, in the form that the network was trained with (`cliff_box`).
    width, height : array_like, shape (...)
        Of the whole picture, pixels.
    plain : bool
        ``(dx / f, dy / f, b / f)`` instead, as in the paper and in BEDLAM.

    Returns
    -------
    ndarray, shape (..., 3)
    """
    middle, dtype = as_floating(centre, (2,), "centre")
    across, down = np.asarray(width, np.float64), np.asarray(height, np.float64)
    focal = picture_focal(across, down)
    x, y = (middle[..., 0] - across / 2) / focal, (middle[..., 1] - down / 2) / focal
    size = np.asarray(b, np.float64) / focal
    if not plain:
        x, y, size = 2.8 * x, 2.8 * y, (size - 0.24) / 0.06
    return np.stack(np.broadcast_arrays(x, y, size), axis=-1).astype(dtype)


def estimate_translation(
    points3d: ArrayLike,
    points2d: ArrayLike,
    confidence: ArrayLike,
    focal: ArrayLike = FOCAL_LENGTH,
    principal_point: ArrayLike = (112.0, 112.0),
) -> Float:
    """Translation that brings 3D joints closest to their 2D places, as SPIN estimates it.

    Weighted linear least squares of ``f (X + tx) = (x - cx) (Z + tz)`` and the same in y, with each
    joint's confidence as its weight. Solved in closed form for all samples at once: eliminating tx
    and ty leaves one equation for tz. SPIN gives it the last 24 of its 49 joints only.

    Parameters
    ----------
    points3d : array_like, shape (..., K, 3)
        Metres.
    points2d : array_like, shape (..., K, 2)
        Pixels of the crop.
    confidence : array_like, shape (..., K)
        Joints of confidence 0 may hold anything.
    focal : array_like, shape (...)
        Pixels of the crop.
    principal_point : array_like, shape (..., 2)

    Returns
    -------
    ndarray, shape (..., 3)
        Metres. NaN where fewer than two distinct joints have confidence, so that there is no
        telling how far the body is (SPIN's code stops with an error there).
    """
    body, dtype = as_floating(points3d, (None, 3), "points3d")
    pixels, _ = as_floating(points2d, (None, 2), "points2d")
    weight = np.asarray(confidence, np.float64)[..., None]
    length = np.asarray(focal, np.float64)[..., None, None]
    body = np.where(weight > 0, body, 0)
    off = pixels - np.asarray(principal_point, np.float64)[..., None, :]
    off = np.where(weight > 0, off, 0)
    right = off * body[..., 2:] - length * body[..., :2]
    total = weight.sum(axis=-2, keepdims=True)
    safe = np.where(total > 0, total, 1)
    off_mean = (weight * off).sum(axis=-2, keepdims=True) / safe
    right_mean = (weight * right).sum(axis=-2, keepdims=True) / safe
    spread = (weight * (off - off_mean) ** 2).sum(axis=(-2, -1))
    product = (weight * (off - off_mean) * (right - right_mean)).sum(axis=(-2, -1))
    # Equal places differ from their mean by rounding.
    rounding = (8 * np.finfo(np.float64).eps * np.abs(off).max(axis=(-2, -1), initial=0)) ** 2
    known = spread > rounding * total[..., 0, 0]
    depth = np.where(known, -product, np.nan) / np.where(known, spread, 1)
    sideways = (right_mean + off_mean * depth[..., None, None]) / length
    return np.concatenate([sideways[..., 0, :], depth[..., None]], axis=-1).astype(dtype)


def _form(form: str) -> str:
    if form not in ("cliff", "mmhuman3d"):
        raise HumandataError(f"no form {form!r} of CLIFF; there are cliff and mmhuman3d")
    return form

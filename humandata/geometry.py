"""Cameras, boxes, crops and poses, on arrays of any leading shape; rotations come along.

Frames and units: camera x right, y down, z forward; angles in radians unless a name says degrees;
pixels count from 0 at the centre of the first pixel. Computed in float64 and returned in the
precision of the floating input (float64 for integers).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humandata.errors import HumandataError
from humandata.rotations import (
    as_floating,
    axis_angle_to_matrix,
    axis_angle_to_quaternion,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    matrix_to_rotation6d,
    quaternion_to_axis_angle,
    quaternion_to_matrix,
    rotation6d_to_matrix,
)

__all__ = [
    "FOCAL_LENGTH",
    "SMPL_FLIP",
    "apply_affine",
    "axis_angle_to_matrix",
    "axis_angle_to_quaternion",
    "bbox_from_points",
    "crop_affine",
    "crop_camera_to_full_frame",
    "crop_intrinsics",
    "flip_pose",
    "invert_affine",
    "matrix_to_axis_angle",
    "matrix_to_quaternion",
    "matrix_to_rotation6d",
    "project",
    "quaternion_to_axis_angle",
    "quaternion_to_matrix",
    "residual_px",
    "rotate_global_orient",
    "rotation6d_to_matrix",
    "smpl_to_camera",
    "transform",
    "weak_perspective_to_translation",
    "xywh_to_square",
]

Float = NDArray[np.floating[Any]]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

FOCAL_LENGTH = 5000.0
"""Pixels; what HMR and its descendants assume for a crop of 224."""

SMPL_FLIP = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22)
"""The 24 SMPL joints with left and right exchanged."""


def transform(extrinsics: ArrayLike, points: ArrayLike) -> Float:
    """Move points from the world into the camera: ``R x + t``.

    Parameters
    ----------
    extrinsics : array_like, shape (..., 4, 4) or (..., 3, 4)
        World to camera.
    points : array_like, shape (..., K, 3)

    Returns
    -------
    ndarray, shape (..., K, 3)
    """
    pose = np.asarray(extrinsics)
    if pose.shape[-2:] not in ((4, 4), (3, 4)):
        raise HumandataError(f"extrinsics must have shape (..., 4, 4), found {pose.shape}")
    world, dtype = as_floating(points, (None, 3), "points", pose)
    pose = pose.astype(np.float64)
    moved: Float64 = world @ np.swapaxes(pose[..., :3, :3], -1, -2) + pose[..., None, :3, 3]
    return moved.astype(dtype)


def project(points: ArrayLike, intrinsics: ArrayLike) -> Float:
    """Pinhole projection of camera-frame points to pixels.

    Points that are not in front of the camera (z <= 0) have no picture: they become NaN, which
    `bbox_from_points` and `residual_px` leave out.

    Parameters
    ----------
    points : array_like, shape (..., K, 3)
        Camera frame, any one unit.
    intrinsics : array_like, shape (..., 3, 3)
        Pixels; the skew counts.

    Returns
    -------
    ndarray, shape (..., K, 2)
    """
    camera = np.asarray(intrinsics)
    if camera.shape[-2:] != (3, 3):
        raise HumandataError(f"intrinsics must have shape (..., 3, 3), found {camera.shape}")
    seen, dtype = as_floating(points, (None, 3), "points", camera)
    depth = np.where(seen[..., 2:] > 0, seen[..., 2:], np.nan)
    pixels = (seen / depth) @ np.swapaxes(camera.astype(np.float64), -1, -2)
    return pixels[..., :2].astype(dtype)


def residual_px(
    points3d: ArrayLike, points2d: ArrayLike, intrinsics: ArrayLike, valid: ArrayLike
) -> Float64:
    """Mean distance between projected 3D joints and 2D joints, per instance.

    Parameters
    ----------
    points3d : array_like, shape (..., K, 3)
        Camera frame.
    points2d : array_like, shape (..., K, 2)
        Pixels.
    intrinsics : array_like, shape (..., 3, 3)
    valid : array_like of bool, shape (..., K)
        Joints to compare; those behind the camera are left out too.

    Returns
    -------
    float64 ndarray, shape (...)
        Pixels; -1 where no joint can be compared.
    """
    distance = np.linalg.norm(
        project(points3d, intrinsics).astype(np.float64) - np.asarray(points2d, np.float64), axis=-1
    )
    usable = np.asarray(valid, bool) & np.isfinite(distance)
    count = usable.sum(axis=-1)
    total = np.where(usable, distance, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), -1.0)


def smpl_to_camera(
    global_orient: ArrayLike, transl: ArrayLike, pelvis: ArrayLike, extrinsics: ArrayLike
) -> tuple[Float, Float]:
    """Move an SMPL body from the world into the camera.

    SMPL turns the body about its pelvis J0 and not about the origin, so the translation becomes
    ``R (J0 + transl) + t - J0`` while the root turns to ``R exp(global_orient)``.

    Parameters
    ----------
    global_orient : array_like, shape (..., 3)
        Axis-angle of the root in the world, radians.
    transl : array_like, shape (..., 3)
        Metres, world.
    pelvis : array_like, shape (..., 3)
        Joint 0 of the shaped rest body, metres.
    extrinsics : array_like, shape (..., 4, 4)
        World to camera, a rotation and a translation.

    Returns
    -------
    global_orient, transl : ndarray, shape (..., 3)
        In the camera frame.
    """
    pose = np.asarray(extrinsics)
    root, dtype = as_floating(global_orient, (3,), "global_orient")
    shift, shift_dtype = as_floating(transl, (3,), "transl")
    rest, _ = as_floating(pelvis, (3,), "pelvis")
    turned = pose[..., :3, :3].astype(np.float64) @ axis_angle_to_matrix(root)
    moved = transform(pose.astype(np.float64), (rest + shift)[..., None, :])[..., 0, :] - rest
    return matrix_to_axis_angle(turned).astype(dtype), moved.astype(shift_dtype)


def weak_perspective_to_translation(
    camera: ArrayLike, focal: ArrayLike = FOCAL_LENGTH, size: ArrayLike = 224
) -> Float:
    """Translation that shows a body as the weak-perspective camera of a crop does.

    ``(tx, ty, 2 focal / (size s + 1e-9))``, for a pinhole with its principal point at the centre
    of the crop (HMR; SPIN's implementation).

    Parameters
    ----------
    camera : array_like, shape (..., 3)
        Scale s, tx, ty as HMR predicts them; s is not forced to be positive.
    focal : float or array_like, shape (...)
        Pixels of the crop.
    size : float or array_like, shape (...)
        Side of the crop, pixels.

    Returns
    -------
    ndarray, shape (..., 3), metres
    """
    cam, dtype = as_floating(camera, (3,), "camera")
    depth = 2 * np.asarray(focal, np.float64) / (np.asarray(size) * cam[..., 0] + 1e-9)
    x, y, depth = np.broadcast_arrays(cam[..., 1], cam[..., 2], depth)
    return np.stack([x, y, depth], axis=-1).astype(dtype)


def crop_camera_to_full_frame(
    camera: ArrayLike,
    centre: ArrayLike,
    side: ArrayLike,
    focal: ArrayLike,
    principal_point: ArrayLike,
) -> Float:
    """Translation in the camera of the whole picture, from the weak-perspective camera of a crop.

    ``tz = 2 f / (side s)``, and the body moves sideways by what the crop's centre lies off the
    principal point at that depth (CLIFF, section 3.2).

    Parameters
    ----------
    camera : array_like, shape (..., 3)
        Scale s, tx, ty.
    centre : array_like, shape (..., 2)
        Of the crop, pixels of the picture.
    side : array_like, shape (...)
        Of the crop, pixels of the picture.
    focal : array_like, shape (...)
        Pixels of the picture.
    principal_point : array_like, shape (..., 2)
        Pixels of the picture.

    Returns
    -------
    ndarray, shape (..., 3), metres
    """
    cam, dtype = as_floating(camera, (3,), "camera")
    scale = np.asarray(side, np.float64) * cam[..., 0] + 1e-9
    off = np.asarray(centre, np.float64) - np.asarray(principal_point, np.float64)
    sideways = cam[..., 1:] + 2 * off / scale[..., None]
    depth = np.broadcast_to(2 * np.asarray(focal, np.float64) / scale, sideways.shape[:-1])
    return np.concatenate([sideways, depth[..., None]], axis=-1).astype(dtype)


def crop_intrinsics(affine: ArrayLike, intrinsics: ArrayLike) -> Float64:
    """Camera matrix (..., 3, 3) of a crop, from that of the picture and the crop's affine.

    Exact for any affine, turned and mirrored ones included: projecting with it equals projecting
    into the picture and applying the affine.
    """
    lifted = _lifted(np.asarray(affine, np.float64))
    return lifted @ np.asarray(intrinsics, np.float64)


def bbox_from_points(points: ArrayLike, valid: ArrayLike | None = None, factor: float = 1) -> Float:
    """Box around the valid points, enlarged about its centre and not clipped.

    Parameters
    ----------
    points : array_like, shape (..., K, 2)
        Pixels; points that are not finite are left out.
    valid : array_like of bool, shape (..., K), optional
        Points that count; all where not given.
    factor : float
        Enlargement of width and height.

    Returns
    -------
    ndarray, shape (..., 4)
        x and y of the top left corner, width, height; zeros where no point is valid.
    """
    pixels, dtype = as_floating(points, (None, 2), "points")
    usable: Bool = np.asarray(np.isfinite(pixels).all(axis=-1))
    if valid is not None:
        usable = usable & np.asarray(valid, bool)
    inside = usable[..., None]
    low = np.where(inside, pixels, np.inf).min(axis=-2, initial=np.inf)
    high = np.where(inside, pixels, -np.inf).max(axis=-2, initial=-np.inf)
    some = usable.any(axis=-1, keepdims=True)
    low, high = np.where(some, low, 0), np.where(some, high, 0)
    extent = (high - low) * factor
    corner = (low + high) / 2 - extent / 2
    return np.concatenate([corner, extent], axis=-1).astype(dtype)


def xywh_to_square(bbox: ArrayLike) -> tuple[Float, Float]:
    """Centre (..., 2) and side (...) of the square around boxes (..., 4 or more), pixels.

    The side is the larger of width and height; columns after the fourth are ignored.
    """
    boxes = np.asarray(bbox)
    boxes, dtype = as_floating(boxes[..., :4] if boxes.ndim else boxes, (4,), "bbox")
    centre = boxes[..., :2] + boxes[..., 2:] / 2
    return centre.astype(dtype), boxes[..., 2:].max(axis=-1).astype(dtype)


def crop_affine(
    centre: ArrayLike,
    side: ArrayLike,
    size: float,
    rotation_deg: ArrayLike = 0,
    flip: ArrayLike = False,
) -> Float64:
    """Affine from the picture to a square crop: flip, turn, scale and shift in one.

    The centre of the square goes to ``(size / 2, size / 2)``, and an offset (dx, dy) from it to
    ``size / side * (cos r dx + sin r dy, -sin r dx + cos r dy)``, with dx negated beforehand where
    flipped: the picture is mirrored first and turned then. So content turns counter-clockwise on
    the screen for a positive angle, and a flip mirrors about the centre of the square.

    Pixels are points: (0, 0) is the centre of the first pixel, as OpenCV's ``warpAffine`` takes it.
    The middle of the crop's pixels is thus ``(size - 1) / 2``, half a pixel off the place where the
    centre goes; published networks were trained with this definition (OpenPose lineage, MMPose).

    Parameters
    ----------
    centre : array_like, shape (..., 2)
        Pixels of the picture.
    side : array_like, shape (...)
        Pixels of the picture.
    size : float
        Side of the crop, pixels.
    rotation_deg : array_like, shape (...)
        Degrees.
    flip : array_like of bool, shape (...)

    Returns
    -------
    float64 ndarray, shape (..., 2, 3)

    Raises
    ------
    HumandataError
        A side is not positive, or not finite; the message names the first such row.
    """
    middle, _ = as_floating(centre, (2,), "centre")
    length = np.asarray(side, np.float64)
    bad = ~((length > 0) & np.isfinite(length))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise HumandataError(
            f"cannot crop a square of side {length.flat[row]:g} pixels (row {row}): "
            "the side must be positive"
        )
    angle = np.deg2rad(np.asarray(rotation_deg, np.float64))
    scale = size / length
    mirror = np.where(np.asarray(flip, bool), -1.0, 1.0)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    shape = np.broadcast_shapes(middle.shape[:-1], cosine.shape, mirror.shape)
    affine = np.empty((*shape, 2, 3))
    affine[..., 0, 0] = cosine * mirror
    affine[..., 0, 1] = sine
    affine[..., 1, 0] = -sine * mirror
    affine[..., 1, 1] = cosine
    affine[..., 2] = size / 2 - (affine[..., :2] @ middle[..., None])[..., 0]
    return affine


def apply_affine(affine: ArrayLike, points: ArrayLike) -> Float:
    """Points (..., K, 2) through affines (..., 2, 3)."""
    matrix = np.asarray(affine)
    if matrix.shape[-2:] != (2, 3):
        raise HumandataError(f"an affine must have shape (..., 2, 3), found {matrix.shape}")
    pixels, dtype = as_floating(points, (None, 2), "points", matrix)
    matrix = matrix.astype(np.float64)
    moved: Float64 = pixels @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
    return moved.astype(dtype)


def invert_affine(affine: ArrayLike) -> Float:
    """The affines (..., 2, 3) that lead back: crop to picture where the given ones cut crops.

    Raises
    ------
    HumandataError
        An affine flattens the plane and has no inverse.
    """
    matrix, dtype = as_floating(affine, (2, 3), "affine")
    try:
        return np.linalg.inv(_lifted(matrix))[..., :2, :].astype(dtype)
    except np.linalg.LinAlgError as error:
        raise HumandataError("an affine without area has no inverse") from error


def flip_pose(pose: ArrayLike) -> Float:
    """SMPL poses mirrored in x: joints change sides, rotations about y and z change sign.

    Parameters
    ----------
    pose : array_like, shape (..., 24, 3)
        Axis-angle, global orientation first.

    Returns
    -------
    ndarray, shape (..., 24, 3)
    """
    joints, dtype = as_floating(pose, (24, 3), "pose")
    mirrored: Float64 = joints.take(SMPL_FLIP, axis=-2) * np.array([1.0, -1.0, -1.0])
    return mirrored.astype(dtype)


def rotate_global_orient(global_orient: ArrayLike, rotation_deg: ArrayLike) -> Float:
    """Turn the body with a crop: ``log(Rz(-r) exp(global_orient))``.

    Parameters
    ----------
    global_orient : array_like, shape (..., 3)
        Axis-angle in the camera frame.
    rotation_deg : array_like, shape (...)
        The angle given to `crop_affine`, degrees. Vectors with angle 0 come back as they were.

    Returns
    -------
    ndarray, shape (..., 3)
    """
    root, dtype = as_floating(global_orient, (3,), "global_orient")
    half = np.deg2rad(np.asarray(rotation_deg, np.float64)) / -2
    w, x, y, z = np.moveaxis(axis_angle_to_quaternion(root), -1, 0)
    cosine, sine = np.cos(half), np.sin(half)
    # The product of (cosine, 0, 0, sine), the turn about the optical axis, and the orientation.
    product = (
        cosine * w - sine * z,
        cosine * x - sine * y,
        cosine * y + sine * x,
        cosine * z + sine * w,
    )
    turned = quaternion_to_axis_angle(np.stack(product, axis=-1))
    return np.where(half[..., None] == 0, root, turned).astype(dtype)


def _lifted(affine: Float64) -> Float64:
    lifted = np.zeros((*affine.shape[:-2], 3, 3))
    lifted[..., :2, :] = affine
    lifted[..., 2, 2] = 1
    return lifted

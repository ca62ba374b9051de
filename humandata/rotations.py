"""Forms of a rotation and the maps between them, on arrays of any leading shape.

Axis-angle vectors in radians, matrices, quaternions with the real part first, and the 6D forms of
HMR and of others. Computed in float64 and returned in the precision of the floating input (float64
for integers). The same functions for torch are in `humandata.training.rotations`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humandata.errors import HumandataError

Float = NDArray[np.floating[Any]]
Float64 = NDArray[np.float64]

Layout = Literal["interleaved", "columns", "rows"]
"""Order of the six numbers of a 6D rotation, see `matrix_to_rotation6d`."""

_TINY = 1e-12


def axis_angle_to_matrix(axis_angle: ArrayLike) -> Float:
    """Rodrigues' formula, exact at angle 0 as well.

    Parameters
    ----------
    axis_angle : array_like, shape (..., 3)
        Axis times angle, radians.

    Returns
    -------
    ndarray, shape (..., 3, 3)
    """
    vector, dtype = as_floating(axis_angle, (3,), "axis-angle")
    # One array per component, and the nine elements written out: six times faster than products of
    # small matrices, where every person of a test set is posed.
    x, y, z = np.ascontiguousarray(np.moveaxis(vector, -1, 0))
    half = np.sqrt(x * x + y * y + z * z) / 2
    turned = half > 0
    # Both factors, sin(t) / t and (1 - cos(t)) / t^2, come from sin(t / 2) / (t / 2), so that
    # neither subtracts nor divides by a small square.
    ratio = np.where(turned, np.sin(half) / np.where(turned, half, 1), 1)
    first, second = ratio * np.cos(half), ratio * ratio / 2
    sx, sy, sz = first * x, first * y, first * z
    bx, by, bz = second * x, second * y, second * z
    xx, yy, zz, xy, xz, yz = bx * x, by * y, bz * z, bx * y, bx * z, by * z
    matrix = np.empty((*vector.shape, 3), dtype)
    matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 0, 2] = 1 - (yy + zz), xy - sz, xz + sy
    matrix[..., 1, 0], matrix[..., 1, 1], matrix[..., 1, 2] = xy + sz, 1 - (xx + zz), yz - sx
    matrix[..., 2, 0], matrix[..., 2, 1], matrix[..., 2, 2] = xz - sy, yz + sx, 1 - (xx + yy)
    return matrix


def matrix_to_axis_angle(matrix: ArrayLike) -> Float:
    """Logarithm of a rotation, stable at angle 0 and at angle pi.

    At exactly pi both signs of the axis are right; the one whose largest component is positive
    is returned.

    Parameters
    ----------
    matrix : array_like, shape (..., 3, 3)

    Returns
    -------
    ndarray, shape (..., 3), radians, of length at most pi
    """
    rotation, dtype = as_floating(matrix, (3, 3), "rotation matrix")
    return quaternion_to_axis_angle(matrix_to_quaternion(rotation)).astype(dtype)


def axis_angle_to_quaternion(axis_angle: ArrayLike) -> Float:
    """Unit quaternion (..., 4), real part first, of axis-angle vectors (..., 3) in radians."""
    vector, dtype = as_floating(axis_angle, (3,), "axis-angle")
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    imaginary = 0.5 * np.sinc(angle / (2 * np.pi)) * vector
    return np.concatenate([np.cos(angle / 2), imaginary], axis=-1).astype(dtype)


def quaternion_to_axis_angle(quaternion: ArrayLike) -> Float:
    """Axis-angle (..., 3), at most pi long, of quaternions (..., 4), real part first."""
    q, dtype = as_floating(quaternion, (4,), "quaternion")
    # q and -q are the same rotation; the one with a positive real part has the shorter angle.
    q = np.where(q[..., :1] < 0, -q, q)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    safe = np.where(sine > 0, sine, 1)
    vector: Float64 = q[..., 1:] / safe * angle
    return vector.astype(dtype)


def matrix_to_quaternion(matrix: ArrayLike) -> Float:
    """Unit quaternion (..., 4), real part first, of rotations (..., 3, 3).

    Every row of the symmetric matrix ``4 q q^T`` is the quaternion up to its length; the row with
    the largest diagonal is the one without cancellation (Shepperd 1978).
    """
    r, dtype = as_floating(matrix, (3, 3), "rotation matrix")
    rows = np.empty((*r.shape[:-2], 4, 4))
    a, b, c = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    rows[..., 0, 0] = 1 + a + b + c
    rows[..., 1, 1] = 1 + a - b - c
    rows[..., 2, 2] = 1 - a + b - c
    rows[..., 3, 3] = 1 - a - b + c
    rows[..., 0, 1] = rows[..., 1, 0] = r[..., 2, 1] - r[..., 1, 2]
    rows[..., 0, 2] = rows[..., 2, 0] = r[..., 0, 2] - r[..., 2, 0]
    rows[..., 0, 3] = rows[..., 3, 0] = r[..., 1, 0] - r[..., 0, 1]
    rows[..., 1, 2] = rows[..., 2, 1] = r[..., 1, 0] + r[..., 0, 1]
    rows[..., 1, 3] = rows[..., 3, 1] = r[..., 0, 2] + r[..., 2, 0]
    rows[..., 2, 3] = rows[..., 3, 2] = r[..., 2, 1] + r[..., 1, 2]
    best = np.argmax(np.einsum("...ii->...i", rows), axis=-1)[..., None, None]
    q = np.take_along_axis(rows, best, axis=-2)[..., 0, :]
    unit: Float64 = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return unit.astype(dtype)


def quaternion_to_matrix(quaternion: ArrayLike) -> Float:
    """Rotations (..., 3, 3) of quaternions (..., 4), real part first, any length but zero."""
    q, dtype = as_floating(quaternion, (4,), "quaternion")
    q = q / np.maximum(np.linalg.norm(q, axis=-1, keepdims=True), _TINY)
    cross = _cross_matrix(q[..., 1:])
    matrix: Float64 = np.eye(3) + 2 * (q[..., :1, None] * cross + cross @ cross)
    return matrix.astype(dtype)


def matrix_to_rotation6d(matrix: ArrayLike, layout: Layout = "interleaved") -> Float:
    """Two columns (or rows) of rotations (..., 3, 3) as six numbers (..., 6).

    Three orders are in use (Zhou et al., CVPR 2019, does not fix one):

    ``interleaved``
        ``(r00, r01, r10, r11, r20, r21)``: the first two columns as a 3x2 block read row by row.
        HMR's and SPIN's heads and their descendants, CLIFF, PARE, mmhuman3d.
    ``columns``
        ``(r00, r10, r20, r01, r11, r21)``: the first column, then the second. 4D-Humans.
    ``rows``
        ``(r00, r01, r02, r10, r11, r12)``: the first row, then the second. PyTorch3D.

    The identity is ``(1, 0, 0, 1, 0, 0)``, ``(1, 0, 0, 0, 1, 0)`` and ``(1, 0, 0, 0, 1, 0)``.
    """
    rotation, dtype = as_floating(matrix, (3, 3), "rotation matrix")
    _check_layout(layout)
    if layout != "rows":
        rotation = rotation[..., :2]
    if layout == "columns":
        rotation = np.swapaxes(rotation, -1, -2)
    six = rotation[..., :2, :] if layout == "rows" else rotation
    return six.reshape(*six.shape[:-2], 6).astype(dtype)


def rotation6d_to_matrix(rotation6d: ArrayLike, layout: Layout = "interleaved") -> Float:
    """Rotations (..., 3, 3) of six numbers (..., 6), by Gram-Schmidt.

    Degenerate input gives zero columns (zero rows in the layout ``rows``), never NaN: a zero first
    vector all three, a second vector that is zero or parallel to the first the last two.

    Parameters
    ----------
    rotation6d : array_like, shape (..., 6)
        Need not be orthonormal.
    layout : {"interleaved", "columns", "rows"}
        See `matrix_to_rotation6d`.
    """
    values, dtype = as_floating(rotation6d, (6,), "6D rotation")
    _check_layout(layout)
    if layout == "interleaved":
        a1, a2 = values[..., 0::2], values[..., 1::2]
    else:
        a1, a2 = values[..., :3], values[..., 3:]
    b1 = a1 / np.maximum(np.linalg.norm(a1, axis=-1, keepdims=True), _TINY)
    rest = a2 - (b1 * a2).sum(axis=-1, keepdims=True) * b1
    size = np.linalg.norm(rest, axis=-1, keepdims=True)
    # What is left of a parallel vector is rounding; scaled to length one it would be a random axis.
    rounding = 8 * np.finfo(dtype).eps * np.linalg.norm(a2, axis=-1, keepdims=True)
    b2 = np.where(size > rounding, rest / np.maximum(size, _TINY), 0)
    b2 = np.where(np.abs(b1).max(axis=-1, keepdims=True) > 0, b2, 0)
    axis = -2 if layout == "rows" else -1
    return np.stack([b1, b2, np.cross(b1, b2)], axis=axis).astype(dtype)


def _check_layout(layout: str) -> None:
    if layout not in get_args(Layout):
        known = ", ".join(get_args(Layout))
        raise HumandataError(f"no order {layout!r} of 6D rotations; there are {known}")


def as_floating(
    values: ArrayLike, trailing: tuple[int | None, ...], what: str, *others: NDArray[Any]
) -> tuple[Float64, np.dtype[np.floating[Any]]]:
    """Values in float64, and the precision to return them in; the last axes are checked.

    Parameters
    ----------
    values : array_like, shape (..., *trailing)
    trailing : tuple of int or None
        Sizes of the last axes; None accepts any.
    what : str
        What the values are, for the message.
    *others : ndarray
        Arrays whose precision counts for the result too.

    Raises
    ------
    HumandataError
        The last axes have other sizes.
    """
    array = np.asarray(values)
    found = array.shape[-len(trailing) :]
    if len(found) != len(trailing) or any(
        wanted is not None and wanted != n for wanted, n in zip(trailing, found, strict=True)
    ):
        shape = ", ".join(["...", *("K" if n is None else str(n) for n in trailing)])
        raise HumandataError(f"{what} must have shape ({shape}), found {array.shape}")
    dtype = np.result_type(array, *others)
    if not np.issubdtype(dtype, np.floating):
        dtype = np.dtype(np.float64)
    return array.astype(np.float64), dtype


def _cross_matrix(vector: Float64) -> Float64:
    matrix = np.zeros((*vector.shape, 3))
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    matrix[..., 0, 1], matrix[..., 1, 0] = -z, z
    matrix[..., 0, 2], matrix[..., 2, 0] = y, -y
    matrix[..., 1, 2], matrix[..., 2, 1] = -x, x
    return matrix

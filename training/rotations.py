"""Forms of a rotation and the maps between them, as differentiable torch functions.

The same forms, orders and conventions as `humandata.rotations`: axis-angle in radians, quaternions
with the real part first, matrices, and 6D in three layouts. Tensors of any leading shape; the
precision and the device of the input are kept. Values are exact at angle 0 and at angle pi, and
gradients are finite everywhere, at angle 0 and for the zero vector included. Nothing branches on
data, so that all of it compiles.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from humandata.errors import HumandataError
from humandata.rotations import Layout

_SMALL = 1e-2
"""Square of the angle below which series are used; their first neglected term is below 1e-17."""


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of axis-angle vectors (..., 3), by Rodrigues' formula.

    SPIN's and mmhuman3d's ``batch_rodrigues`` add 1e-8 to every component before the angle is
    taken; the two differ by less than 2e-8 in every element.
    """
    square = axis_angle.square().sum(-1)[..., None, None]
    cross = _cross_matrix(axis_angle)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + _sine_ratio(square) * cross + _versine_ratio(square) * (cross @ cross)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Axis-angle vectors (..., 3), at most pi long, of rotation matrices (..., 3, 3)."""
    return quaternion_to_axis_angle(matrix_to_quaternion(matrix))


def axis_angle_to_quaternion(axis_angle: Tensor) -> Tensor:
    """Unit quaternions (..., 4), real part first, of axis-angle vectors (..., 3)."""
    quarter = axis_angle.square().sum(-1, keepdim=True) / 4
    real = 1 - quarter * _versine_ratio(quarter)
    return torch.cat([real, 0.5 * _sine_ratio(quarter) * axis_angle], dim=-1)


def quaternion_to_axis_angle(quaternion: Tensor) -> Tensor:
    """Axis-angle vectors (..., 3), at most pi long, of quaternions (..., 4) of any length but 0."""
    # q and -q are the same rotation; the one with a positive real part has the shorter angle.
    q = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    real, imaginary = q[..., :1], q[..., 1:]
    square = imaginary.square().sum(-1, keepdim=True)
    # 2 atan(r) / r of r = |imaginary| / real, whose series in r^2 is smooth where r is 0.
    small = square < _SMALL * real.square()
    sine = torch.where(small, 1.0, square).sqrt()
    ratio = 2 * torch.atan2(sine, real) / sine
    safe = torch.where(small, real, 1.0)
    r2 = torch.where(small, square, 0.0) / safe.square()
    series = 1 - r2 * (
        1 / 3 - r2 * (1 / 5 - r2 * (1 / 7 - r2 * (1 / 9 - r2 * (1 / 11 - r2 * (1 / 13 - r2 / 15)))))
    )
    return torch.where(small, 2 * series / safe, ratio) * imaginary


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternions (..., 4), real part first, of rotation matrices (..., 3, 3).

    Of the four equal forms the one without cancellation is taken (Shepperd 1978), which is also
    the one with the tamest gradient.
    """
    a, b, c = matrix[..., 0, 0], matrix[..., 1, 1], matrix[..., 2, 2]
    x = matrix[..., 2, 1] - matrix[..., 1, 2]
    y = matrix[..., 0, 2] - matrix[..., 2, 0]
    z = matrix[..., 1, 0] - matrix[..., 0, 1]
    xy = matrix[..., 1, 0] + matrix[..., 0, 1]
    xz = matrix[..., 0, 2] + matrix[..., 2, 0]
    yz = matrix[..., 2, 1] + matrix[..., 1, 2]
    rows = torch.stack(
        [
            torch.stack([1 + a + b + c, x, y, z], -1),
            torch.stack([x, 1 + a - b - c, xy, xz], -1),
            torch.stack([y, xy, 1 - a + b - c, yz], -1),
            torch.stack([z, xz, yz, 1 - a - b + c], -1),
        ],
        dim=-2,
    )
    best = torch.diagonal(rows, dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    row = rows.gather(-2, best.expand(*best.shape[:-1], 4))[..., 0, :]
    return functional.normalize(row, dim=-1)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), real part first, of any length."""
    q = functional.normalize(quaternion, dim=-1)
    cross = _cross_matrix(q[..., 1:])
    identity = torch.eye(3, dtype=q.dtype, device=q.device)
    return identity + 2 * (q[..., :1, None] * cross + cross @ cross)


def matrix_to_rotation6d(matrix: Tensor, layout: Layout = "interleaved") -> Tensor:
    """Two columns (or rows) of rotations (..., 3, 3) as six numbers (..., 6).

    The layouts are those of `humandata.rotations.matrix_to_rotation6d`: ``interleaved`` for HMR,
    SPIN and their descendants, ``columns`` for 4D-Humans, ``rows`` for PyTorch3D.
    """
    if layout == "interleaved":
        return matrix[..., :2].flatten(-2)
    if layout == "columns":
        return matrix[..., :2].transpose(-1, -2).flatten(-2)
    if layout == "rows":
        return matrix[..., :2, :].flatten(-2)
    raise _unknown(layout)


def rotation6d_to_matrix(rotation6d: Tensor, layout: Layout = "interleaved") -> Tensor:
    """Rotation matrices (..., 3, 3) of six numbers (..., 6), by Gram-Schmidt.

    As ``rot6d_to_rotmat`` of SPIN (``interleaved``) and 4D-Humans (``columns``), with the cross
    product along the last axis. A first vector of zeros gives zero columns, never NaN.
    """
    if layout == "interleaved":
        a, b = rotation6d[..., 0::2], rotation6d[..., 1::2]
    elif layout in ("columns", "rows"):
        a, b = rotation6d[..., :3], rotation6d[..., 3:]
    else:
        raise _unknown(layout)
    first = functional.normalize(a, dim=-1)
    second = functional.normalize(b - (first * b).sum(-1, keepdim=True) * first, dim=-1)
    third = torch.linalg.cross(first, second)
    return torch.stack([first, second, third], dim=-2 if layout == "rows" else -1)


def _unknown(layout: str) -> HumandataError:
    return HumandataError(
        f"no order {layout!r} of 6D rotations; there are interleaved, columns, rows"
    )


def _cross_matrix(vector: Tensor) -> Tensor:
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1)
    return cross.reshape(*x.shape, 3, 3)


def _sine_ratio(square: Tensor) -> Tensor:
    """sin(t) / t of t^2."""
    small = square < _SMALL
    angle = torch.where(small, 1.0, square).sqrt()
    s = torch.where(small, square, 0.0)
    series = 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72 * (1 - s / 110))))
    return torch.where(small, series, angle.sin() / angle)


def _versine_ratio(square: Tensor) -> Tensor:
    """(1 - cos(t)) / t^2 of t^2."""
    small = square < _SMALL
    safe = torch.where(small, 1.0, square)
    s = torch.where(small, square, 0.0)
    series = 0.5 - s / 24 * (1 - s / 30 * (1 - s / 56 * (1 - s / 90 * (1 - s / 132))))
    # 1 - cos(t) as a square: it loses no digits.
    half = (safe.sqrt() / 2).sin()
    return torch.where(small, series, 2 * half.square() / safe)

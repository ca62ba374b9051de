"""Differentiable cameras on tensors: the torch side of `humandata.cameras`.

Camera x right, y down, z away from the camera; metres for bodies, pixels for pictures. Everything
keeps the precision and the device of its input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humandata.geometry import FOCAL_LENGTH

__all__ = [
    "FOCAL_LENGTH",
    "crop_camera_to_full_frame",
    "estimate_translation",
    "perspective_projection",
    "weak_perspective_to_translation",
]


def weak_perspective_to_translation(
    camera: Tensor, focal: float | Tensor = FOCAL_LENGTH, size: float | Tensor = 224
) -> Tensor:
    """Translation (..., 3) of a body before a crop's camera, from (s, tx, ty) of shape (..., 3).

    ``(tx, ty, 2 focal / (size s + 1e-9))`` as in SPIN and mmhuman3d: the full side of the crop
    counts here, while mmhuman3d's losses scale pixels by the side less one
    (`humandata.training.losses.keypoints2d_loss`).
    """
    scale, x, y = camera.unbind(-1)
    return torch.stack([x, y, 2 * focal / (size * scale + 1e-9)], dim=-1)


def crop_camera_to_full_frame(
    camera: Tensor, centre: Tensor, b: Tensor, focal: Tensor, principal_point: Tensor
) -> Tensor:
    """Translation (..., 3) in the camera of the whole picture, from a crop's (s, tx, ty).

    ``cam_crop2full`` of CLIFF, which takes b in units of 200 pixels, and of mmhuman3d, which takes
    it in pixels: so does this. See `humandata.cameras` for the two meanings of b.

    Parameters
    ----------
    camera : (..., 3)
    centre : (..., 2) of the crop, pixels of the picture.
    b : (...) pixels of the picture.
    focal : (...) pixels of the picture.
    principal_point : (..., 2), the middle (W / 2, H / 2) of the picture.
    """
    scale = b * camera[..., 0] + 1e-9
    sideways = camera[..., 1:] + 2 * (centre - principal_point) / scale[..., None]
    return torch.cat([sideways, (2 * focal / scale)[..., None]], dim=-1)


def perspective_projection(
    points: Tensor,
    translation: Tensor,
    focal: float | Tensor = FOCAL_LENGTH,
    principal_point: Tensor | None = None,
) -> Tensor:
    """Pixels (..., K, 2) of points (..., K, 3) moved by a translation (..., 3).

    ``f (X + tx) / (Z + tz)``, and y alike, relative to the principal point unless one (..., 2) is
    given. Points at or behind the camera are projected all the same, as in the reference.

    Parameters
    ----------
    focal : number, or (...) pixels.
    """
    placed = points + translation[..., None, :]
    if isinstance(focal, Tensor):
        focal = focal[..., None, None]
    pixels = focal * placed[..., :2] / placed[..., 2:]
    return pixels if principal_point is None else pixels + principal_point[..., None, :]


def estimate_translation(
    points3d: Tensor,
    points2d: Tensor,
    confidence: Tensor,
    focal: float | Tensor = FOCAL_LENGTH,
    principal_point: float | Tensor = 112.0,
) -> Tensor:
    """Translation (..., 3) that brings 3D joints closest to their 2D places, as SPIN estimates it.

    `humandata.cameras.estimate_translation` on tensors, in double precision inside: NaN where fewer
    than two distinct joints have confidence.

    Parameters
    ----------
    points3d : (..., K, 3) metres.
    points2d : (..., K, 2) pixels of the crop.
    confidence : (..., K), 0 for joints that do not count.
    focal : number, or (...) pixels.
    principal_point : number, or (..., 2) pixels.
    """
    weight = confidence.double()[..., None]
    if isinstance(focal, Tensor):
        focal = focal.double()[..., None, None]
    if isinstance(principal_point, Tensor):
        principal_point = principal_point.double()[..., None, :]
    body = torch.where(weight > 0, points3d.double(), 0.0)
    off = torch.where(weight > 0, points2d.double() - principal_point, 0.0)
    right = off * body[..., 2:] - focal * body[..., :2]
    total = weight.sum(-2, keepdim=True)
    safe = torch.where(total > 0, total, 1.0)
    off_mean = (weight * off).sum(-2, keepdim=True) / safe
    right_mean = (weight * right).sum(-2, keepdim=True) / safe
    spread = (weight * (off - off_mean).square()).sum((-2, -1))
    product = (weight * (off - off_mean) * (right - right_mean)).sum((-2, -1))
    rounding = (8 * torch.finfo(torch.float64).eps * off.abs().amax((-2, -1))).square()
    known = spread > rounding * total[..., 0, 0]
    depth = torch.where(known, -product, torch.nan) / torch.where(known, spread, 1.0)
    sideways = (right_mean + off_mean * depth[..., None, None]) / focal
    return torch.cat([sideways[..., 0, :], depth[..., None]], dim=-1).to(points3d.dtype)

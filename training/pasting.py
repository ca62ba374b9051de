"""Synthetic occlusion: objects put before people, anywhere in the picture or at their joints.

Semantics: isarandi/synthetic-occlusion (Sarandi et al., "How robust is 3D human pose estimation to
occlusion?", IROS workshop 2018) as hmr-benchmarks uses it in ``SyntheticOcclusion`` and
``SyntheticOcclusionKp``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from humandata.training import chance
from humandata.training.areas import (
    Pixels,
    Planes,
    black_outside,
    boxes_around,
    inverse,
    moved,
    pixels_in,
)
from humandata.training.occluders import LEVELS, Objects
from humandata.training.packed import Bytes, corners, shares

MOST = 7


class Occluders(NamedTuple):
    """Up to 7 objects before each picture, later ones in front.

    ``on`` (B, 7) bool; ``number`` (B, 7) of the object; ``corner``, ``extent`` (B, 7, 2) int64: x,
    y, width, height in the picture.
    """

    on: Tensor
    number: Tensor
    corner: Tensor
    extent: Tensor


def draw_synthetic_occlusion(
    seeds: Tensor, on: Tensor, picture_size: Tensor, objects: Objects
) -> Occluders:
    """Choose 1 to 7 objects centred anywhere in the picture.

    Each is scaled by U(0.2, 1) times the picture's shorter side over 256. Many never touch the
    person, as in the reference.

    Parameters
    ----------
    seeds : (B,) int64
    on : (B,) bool
        Samples that are meant.
    picture_size : (B, 2)
        Width, height.
    objects : Objects
    """
    share = chance.uniform(seeds, "synthetic occlusion", 1 + 4 * MOST)
    place = share[:, 1:].reshape(-1, MOST, 4)
    centre = (place[..., 2:] * picture_size[:, None]).round().long()
    return _placed(on, share[:, 0], place, centre, picture_size, objects)


def draw_keypoint_occlusion(
    seeds: Tensor,
    on: Tensor,
    keypoints2d: Tensor,
    affine: Tensor,
    side: Tensor,
    picture_size: Tensor,
    objects: Objects,
) -> Occluders:
    """Choose 1 to 7 objects centred near joints of the person.

    Every object takes a joint of confidence exactly 1, moved by N(0, (0.1 side)^2) along each axis,
    kept within the picture and cut to whole pixels; its size is that of
    `draw_synthetic_occlusion`. A person without such a joint is left alone (the reference fails
    there).

    Parameters
    ----------
    seeds, on, picture_size, objects
        As `draw_synthetic_occlusion`.
    keypoints2d : (B, K, 3)
        Pixels of the crop, confidence.
    affine : (B, 2, 3)
        Picture to crop.
    side : (B,)
        Of the box with its random scale, pixels of the picture.
    """
    share = chance.uniform(seeds, "keypoint occlusion", 1 + 7 * MOST)
    place = share[:, 1:].reshape(-1, MOST, 7)
    certain = keypoints2d[..., 2] == 1
    count = certain.sum(dim=1)
    # The n-th certain joint: the first at which n + 1 have been counted.
    wanted = (place[..., 2] * count[:, None]).long() + 1
    reached = certain.cumsum(dim=1)[:, None, :] >= wanted[..., None]
    joint = reached.int().argmax(dim=2)
    chosen = keypoints2d[..., :2].take_along_dim(joint[..., None], 1)
    at = torch.stack(moved(inverse(affine), chosen[..., 0], chosen[..., 1]), dim=-1)
    noise = chance.normal(place[..., 3:5], place[..., 5:7])
    at = at + noise * 0.1 * side[:, None, None]
    centre = torch.minimum(at.clamp(min=0), picture_size[:, None]).long()
    return _placed(on & (count > 0), share[:, 0], place, centre, picture_size, objects)


def _placed(
    on: Tensor,
    count: Tensor,
    place: Tensor,
    centre: Tensor,
    picture_size: Tensor,
    objects: Objects,
) -> Occluders:
    used = torch.arange(MOST, device=on.device) < chance.integers(count, 1, MOST)[:, None]
    number = chance.integers(place[..., 0], 0, len(objects) - 1)
    factor = (0.2 + 0.8 * place[..., 1]) * picture_size.amin(dim=1)[:, None] / 256
    extent = (objects.native[number] * factor[..., None]).round().long()
    used = used & on[:, None] & (extent > 0).all(dim=2)
    return Occluders(used, number, centre - extent // 2, extent)


def paste(
    images: Tensor, occluders: Occluders, affine: Tensor, picture_size: Tensor, objects: Objects
) -> Tensor:
    """Blend objects over crops.

    Parameters
    ----------
    images : (B, 3, S, S) uint8 RGB
    occluders : Occluders
        Where the objects lie in the picture.
    affine : (B, 2, 3)
        Picture to crop; the objects are scaled, turned and mirrored with it.
    picture_size : (B, 2)
        Width, height; objects end where the picture ends.
    objects : Objects

    Returns
    -------
    Tensor, (B, 3, S, S) uint8

    Notes
    -----
    The reference resizes every object to its size in the picture, blends it there, and warps the
    result. Here the crop looks up the object itself, bilinearly in the size nearest to that of the
    crop, so that it is interpolated once instead of twice; the two differ by a few grey levels in
    fine texture and by up to one pixel of the object along edges. In mirrored crops the object is
    mirrored as well. Red and blue, which the reference exchanges, are not exchanged.
    """
    size = images.shape[-1]
    # All first objects, then all second ones, ...: a pixel comes up once in each.
    order, sample = occluders.on.T.nonzero().unbind(1)
    corner, extent = occluders.corner[sample, order], occluders.extent[sample, order]
    forward = affine[sample]
    number = occluders.number[sample, order]
    level = _level(objects, number, extent, forward)
    margin = extent / objects.extent[number, level]  # one pixel of the object
    boxes = boxes_around(forward, corner - 0.5 - margin, corner - 0.5 + extent + margin, size)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    pixels_of_order = torch.zeros(MOST, dtype=torch.int64, device=images.device)
    pixels_of_order.index_add_(0, order, areas)

    at = pixels_in(boxes)
    rgba = _looked_up(objects, number, level, corner, extent, inverse(forward), at)
    through = 1 - rgba[3] * (1 / 255)
    planes, places = Planes(images), at.places(sample, size)
    start = 0
    for count in pixels_of_order.tolist():
        part = slice(start, start + count)
        below = planes.read(places[part]).mul_(through[part])
        planes.write(places[part], below.add_(rgba[:3, part]).clamp_(max=255))
        start += count
    return black_outside(planes.images(), affine, picture_size)


def _level(objects: Objects, number: Tensor, extent: Tensor, affine: Tensor) -> Tensor:
    """Which kept size of an object comes nearest to its size in the crop, (N,)."""
    a, b, _, c, d, _ = affine.flatten(1).unbind(1)
    zoom = (a * d - b * c).abs().sqrt()
    scale = zoom * extent[:, 0] / objects.extent[number, 0, 0].float()
    return (-torch.log2(scale)).round().clamp(0, LEVELS - 1).long()


def _looked_up(
    objects: Objects,
    number: Tensor,
    level: Tensor,
    corner: Tensor,
    extent: Tensor,
    back: Tensor,
    at: Pixels,
) -> Tensor:
    """Bilinear colours and opacity (4, P), 0-255, of objects at the pixels of boxes around them."""
    kept = objects.extent[number, level]
    scale = kept / extent
    stride = at.of_boxes((kept[:, 0] + 2).int())
    first, share = [], []
    for axis in (0, 1):
        by_x, by_y, offset = back[:, axis].unbind(1)
        factor = scale[:, axis]
        # + 0.5 for the transparent pixel that every object is surrounded by
        offset = (offset - corner[:, axis] + 0.5) * factor + 0.5
        place = at.linear(by_x * factor, by_y * factor, offset).mul_(16).clamp_(min=0)
        place = torch.minimum(place, at.of_boxes(kept[:, axis] * 16.0 + 15)).int()
        first.append(place >> 4)
        share.append(shares(place & 15))
    index = at.of_boxes(objects.start[number, level].int()) + first[1] * stride + first[0]
    mixed = Bytes(index)
    for step_x, step_y, weight in corners(*share):
        mixed.add(objects.pixels.index_select(0, index + step_y * stride + step_x), weight)
    return mixed.values()

"""Erasing parts of crops: hard and soft erasing, self-mix, coarse and grid dropout.

Each comes as ``draw_*``, which decides by the samples' seeds what happens, and a function of that
and the images which does it. Images are (B, 3, S, S) uint8 RGB and are not changed; results are
uint8, cut off after the decimal point as NumPy does when the reference writes floats into a
picture. Semantics: hmr-benchmarks, ``mmhuman3d/data/datasets/pipelines`` (``HardErasing``,
``MixingErasing``) and albumentations before 1.4 (``CoarseDropout``, ``GridDropout``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from humandata.training import chance
from humandata.training.areas import Pixels, Planes, boxes_around, inverse, pixels_in
from humandata.training.packed import OPAQUE, Bytes, corners, shares

REFERENCE_SIZE = 224
"""Lengths in pixels of the crop are those of a crop of this side, and grow with other sides."""

ATTEMPTS = 100
HOLES = 8


class Rectangles(NamedTuple):
    """Rectangles of the picture: ``on`` (B,) bool, ``corner`` and ``extent`` (B, 2) int64."""

    on: Tensor
    corner: Tensor
    extent: Tensor


def draw_hard_erasing(
    seeds: Tensor, on: Tensor, centre: Tensor, side: Tensor, picture_size: Tensor
) -> Rectangles:
    """Choose the rectangle that `hard_erasing` fills.

    Its area is U(0, 0.7) of the box, its height over width U(0.3, 1/0.3), its place uniform in the
    box (a rectangle wider than the box is shifted backwards); it is dropped when it does not lie
    fully inside the picture, and cut to whole pixels.

    Parameters
    ----------
    seeds : (B,) int64
    on : (B,) bool
        Samples that are meant.
    centre : (B, 2)
        Of the box, pixels of the picture.
    side : (B,)
        Of the box with its random scale, pixels of the picture.
    picture_size : (B, 2)
        Width, height.
    """
    share = chance.uniform(seeds, "hard erasing", 4)
    area = 0.7 * share[:, 0] * side * side
    ratio = 0.3 + share[:, 1] * (1 / 0.3 - 0.3)
    extent = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=1)
    corner = centre - side[:, None] / 2 + share[:, 2:] * (side[:, None] - extent - 1)
    fits = ((corner >= 0) & (corner + extent < picture_size)).all(dim=1)
    whole = extent.long()
    return Rectangles(on & fits & (whole > 0).all(dim=1), corner.long(), whole)


def hard_erasing(images: Tensor, rectangles: Rectangles, affine: Tensor, key: Tensor) -> Tensor:
    """Fill a rectangle of the picture with coloured noise, seen through the crop.

    Parameters
    ----------
    images : (B, 3, S, S) uint8
    rectangles : Rectangles
        Of the picture.
    affine : (B, 2, 3)
        Picture to crop.
    key : (B,) int64
        Random bits of each sample's noise.

    Returns
    -------
    Tensor, (B, 3, S, S) uint8

    Notes
    -----
    The reference writes ``uint8(255 U)``, 0 to 254, into the picture before it is warped. Here each
    pixel of the crop interpolates noise of 0 to 255 between the four pixels of the picture around
    it, so the noise is turned, and finer or coarser, with the crop. Along the rectangle's edges the
    share of the noise is that of the reference, the share of the picture its warped value there
    rather than its unerased pixels alone: a seam of one picture pixel. In a mirrored crop the
    rectangle is cut to whole pixels before it is mirrored instead of after.
    """
    size = images.shape[-1]
    chosen = rectangles.on.nonzero().squeeze(1)
    corner, extent = rectangles.corner[chosen], rectangles.extent[chosen]
    forward = affine[chosen]
    # A pixel of the picture is felt up to one pixel away from its centre.
    boxes = boxes_around(forward, (corner - 1).float(), (corner + extent).float(), size)
    at = pixels_in(boxes)
    back = inverse(forward)
    first, share = [], []
    for axis in (0, 1):
        # In pixels of the rectangle, from where it is first felt; sixteenths of one are enough.
        by_x, by_y, offset = back[:, axis].unbind(1)
        place = at.linear(by_x, by_y, offset - corner[:, axis] + 1).mul_(16)
        end = at.of_boxes(extent[:, axis].int())
        place = torch.minimum(place.round_().clamp_(min=0), (end * 16 + 16).float()).int()
        near = (place >> 4).sub_(1)
        before, after = shares(place & 15)
        before.masked_fill_((near < 0).logical_or_(near >= end), 0)
        after.masked_fill_(near >= end - 1, 0)
        first.append(near)
        share.append((before, after))
    random = chance.Pattern(*(at.of_boxes(part) for part in chance.pattern(key[chosen])))
    noise = Bytes(first[0])
    for step_x, step_y, weight in corners(*share):
        # The fourth byte counts what the noise covers.
        noise.add(chance.pixels(random, first[0] + step_x, first[1] + step_y) | OPAQUE, weight)
    mixed = noise.values()
    planes, places = Planes(images), at.places(chosen, size)
    below = planes.read(places).mul_(1 - mixed[3] * (1 / 255))
    # Rounded as the warp rounds.
    planes.write(places, below.add_(mixed[:3]).round_().clamp_(0, 255))
    return planes.images()


class Patches(NamedTuple):
    """Rectangles of the crop and how strongly they are mixed.

    ``on`` (B,) bool; ``corner``, ``extent``, ``source`` (B, 2) int64 x, y; ``share`` (B,) of what
    is mixed in.
    """

    on: Tensor
    corner: Tensor
    extent: Tensor
    source: Tensor
    share: Tensor


def draw_patches(seeds: Tensor, on: Tensor, stream: str, size: int) -> Patches:
    """Choose the patches of `soft_erasing` and `self_mix`, each from a stream of its own.

    Area U(0.02, 0.4) of the crop, height over width U(0.3, 1/0.3), both drawn again (up to 100
    times) until the patch is smaller than the crop; place and source uniform over whole pixels; the
    share of what is mixed in is U(0.1, 0.9).
    """
    share = chance.uniform(seeds, stream, 5 + 2 * ATTEMPTS)
    place, tries = share[:, :5], share[:, 5:].reshape(-1, ATTEMPTS, 2)
    area = (0.02 + tries[..., 0] * 0.38) * size**2
    aspect = 0.3 + tries[..., 1] * (1 / 0.3 - 0.3)
    extents = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], dim=2).round().long()
    fits = ((extents < size) & (extents > 0)).all(dim=2)
    first = fits.int().argmax(dim=1)
    extent = extents.take_along_dim(first.view(-1, 1, 1), 1).squeeze(1)
    room = (size - extent).clamp(min=0)
    return Patches(
        on & fits.any(dim=1),
        chance.integers(place[:, :2], 0, room),
        extent,
        chance.integers(place[:, 2:4], 0, room),
        0.1 + 0.8 * place[:, 4],
    )


def soft_erasing(images: Tensor, patches: Patches, key: Tensor) -> Tensor:
    """Mix a patch of each crop with noise: ``(1 - m) patch + m 255 U``, cut off to uint8.

    ``key`` (B,) int64 holds random bits of each sample's noise. As in the reference, this acts on
    the crop.
    """
    chosen, at = _patch_pixels(patches)
    planes, places = Planes(images), at.places(chosen, images.shape[-1])
    share = at.of_boxes(patches.share[chosen])
    random = chance.Pattern(*(at.of_boxes(part) for part in chance.pattern(key[chosen])))
    noise = chance.colours(chance.pixels(random, at.x, at.of_rows(at.y.int()))).mul_(255)
    planes.write(places, planes.read(places).mul_(1 - share).add_(noise.mul_(share)))
    return planes.images()


def self_mix(images: Tensor, patches: Patches) -> Tensor:
    """Mix a patch of each crop with another patch of the same crop, cut off to uint8.

    ``(1 - m) patch + m other``, both as they were before. As in the reference, this acts on the
    crop, and no confidence changes.
    """
    size = images.shape[-1]
    chosen, at = _patch_pixels(patches)
    planes, places = Planes(images), at.places(chosen, size)
    share = at.of_boxes(patches.share[chosen])
    away = (patches.source - patches.corner)[chosen]
    other = places + at.of_boxes(away[:, 1] * size + away[:, 0])
    mixed = planes.read(places).mul_(1 - share).add_(planes.read(other).mul_(share))
    planes.write(places, mixed)
    return planes.images()


def _patch_pixels(patches: Patches) -> tuple[Tensor, Pixels]:
    """The samples whose patches are on, and the pixels of these patches."""
    chosen = patches.on.nonzero().squeeze(1)
    corner = patches.corner[chosen]
    return chosen, pixels_in(torch.cat([corner, corner + patches.extent[chosen]], dim=1))


class Holes(NamedTuple):
    """Rectangles of the crop, ``corner`` and ``extent`` (B, 8, 2) int64; unused ones are empty."""

    corner: Tensor
    extent: Tensor


def draw_coarse_dropout(seeds: Tensor, on: Tensor, size: int) -> Holes:
    """Choose 1 to 8 holes, each side 10 to 40 pixels of a crop of 224, anywhere inside."""
    share = chance.uniform(seeds, "coarse dropout", 1 + 4 * HOLES)
    count = chance.integers(share[:, :1], 1, HOLES)
    used = (torch.arange(HOLES, device=seeds.device) < count) & on[:, None]
    place = share[:, 1:].reshape(-1, HOLES, 4)
    extent = chance.integers(place[..., :2], _scaled(10, size), _scaled(40, size))
    corner = chance.integers(place[..., 2:], 0, size - extent)
    return Holes(corner, extent * used[..., None])


def coarse_dropout(images: Tensor, holes: Holes) -> Tensor:
    """Black holes in the crops."""
    at = torch.arange(images.shape[-1], device=images.device)
    low, high = holes.corner[..., None], (holes.corner + holes.extent)[..., None]
    within = ((at >= low) & (at < high)).float()  # (B, 8, 2, S): columns, rows
    # Counts of holes up to 8: exact in any precision.
    black = torch.bmm(within[:, :, 1].transpose(1, 2), within[:, :, 0]) > 0
    return images * ~black[:, None]


class Grids(NamedTuple):
    """Regular grids of holes: ``on`` (B,) bool, ``unit``, ``hole`` (B,), ``shift`` (B, 2) int64."""

    on: Tensor
    unit: Tensor
    hole: Tensor
    shift: Tensor


def draw_grid_dropout(seeds: Tensor, on: Tensor, size: int) -> Grids:
    """Choose a grid: units of 10 to 40 pixels of a crop of 224, half of each side a hole."""
    share = chance.uniform(seeds, "grid dropout", 3)
    # A unit holds a hole and something that is none.
    unit = chance.integers(share[:, 0], max(_scaled(10, size), 2), max(_scaled(40, size), 2))
    hole = (unit // 2).clamp(min=1)
    shift = chance.integers(share[:, 1:], 0, (unit - hole)[:, None])
    return Grids(on, unit, hole, shift)


def grid_dropout(images: Tensor, grids: Grids) -> Tensor:
    """Black squares at ``shift + k unit`` over the whole crop."""
    at = torch.arange(images.shape[-1], device=images.device) - grids.shift[..., None]
    within = (at >= 0) & (at % grids.unit[:, None, None] < grids.hole[:, None, None])
    black = within[:, 1, :, None] & within[:, 0, None, :] & grids.on[:, None, None]
    return images * ~black[:, None]


def _scaled(length: int, size: int) -> int:
    return max(1, round(length * size / REFERENCE_SIZE))

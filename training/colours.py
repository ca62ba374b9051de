"""Colours of crops: channel noise, photometric distortion, normalisation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from humandata.training import chance
from humandata.training.areas import black_outside

#: Mean and standard deviation of ImageNet, RGB, 0-255; what every backbone of the field was
#: trained with.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def channel_noise(images: Tensor, gain: Tensor) -> Tensor:
    """Multiply each colour by its factor, rounded and cut to 0-255 as if stored as bytes.

    Parameters
    ----------
    images : (B, 3, S, S) uint8
    gain : (B, 3)

    Returns
    -------
    Tensor, (B, 3, S, S) float32 of whole numbers 0-255

    Notes
    -----
    The reference multiplies the whole picture before the crop is cut; on the crop the result
    differs by at most the rounding of the interpolation, and black outside the picture stays black
    either way.
    """
    pixels = images.to(torch.float32, copy=True)
    return pixels.mul_(gain[:, :, None, None]).round_().clamp_(0, 255)


def normalise(images: Tensor) -> Tensor:
    """``(x - mean) / std`` of ImageNet, for RGB pixels 0-255 of shape (B, 3, S, S)."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    return images.to(torch.float32, copy=True).sub_(mean).div_(std)


class Distortions(NamedTuple):
    """How the colours of each crop change, all (B,).

    ``brightness`` is added (0 for none), ``contrast`` multiplied (1 for none), before the change in
    HSV where ``contrast_first``; where ``hsv``, saturation is multiplied by ``saturation`` and hue
    turned by ``hue`` steps of two degrees.
    """

    brightness: Tensor
    contrast: Tensor
    contrast_first: Tensor
    hsv: Tensor
    saturation: Tensor
    hue: Tensor


def draw_photometric_distortion(seeds: Tensor, on: Tensor) -> Distortions:
    """Choose brightness, contrast, saturation and hue.

    Brightness by U(-32, 32) and contrast by U(0.5, 1.5), each with probability 0.5, the contrast
    before or after the rest by a fair coin; then one of four: nothing, saturation by U(0.5, 1.5),
    hue by a whole number of -18 to 17 (of 180), or both.
    """
    share = chance.uniform(seeds, "photometric distortion", 8)
    bright, contrasted = share[:, 0] < 0.5, share[:, 2] < 0.5
    mode = (share[:, 5] * 4).long()
    saturated, turned = (mode == 1) | (mode == 3), mode >= 2
    return Distortions(
        brightness=(64 * share[:, 1] - 32) * (bright & on),
        contrast=torch.where(contrasted & on, 0.5 + share[:, 3], 1.0),
        contrast_first=share[:, 4] < 0.5,
        hsv=(mode > 0) & on,
        saturation=torch.where(saturated & on, 0.5 + share[:, 6], 1.0),
        hue=chance.integers(share[:, 7], -18, 17) * (turned & on),
    )


def photometric_distortion(
    images: Tensor, distortions: Distortions, affine: Tensor, picture_size: Tensor
) -> Tensor:
    """Change brightness, contrast, saturation and hue, each step stored as bytes.

    Parameters
    ----------
    images : (B, 3, S, S) uint8 RGB
    distortions : Distortions
    affine : (B, 2, 3)
        Picture to crop.
    picture_size : (B, 2)
        Width, height.

    Returns
    -------
    Tensor, (B, 3, S, S) uint8

    Notes
    -----
    mmhuman3d's ``PhotometricDistortion`` with OpenCV's 8-bit HSV (hue 0-179). It changes the whole
    picture before the warp; here the crop is changed and what lies outside the picture is kept
    black, so the two differ by the rounding of the interpolation, where the change is not linear
    (clipping, HSV), and in a seam of one pixel along the picture's edge.
    """

    def each(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)

    how = distortions
    pixels = images.to(torch.float32, copy=True).add_(each(how.brightness)).clamp_(0, 255).floor_()
    first = torch.where(how.contrast_first, how.contrast, 1.0)
    pixels = pixels.mul_(each(first)).clamp_(0, 255).floor_()
    chosen = how.hsv.nonzero().squeeze(1)
    h, s, v = rgb_to_hsv(pixels.index_select(0, chosen))
    s = (s * how.saturation[chosen, None, None]).clamp_(0, 255).floor_()
    h = h + how.hue[chosen, None, None]
    h = torch.where(h < 0, h + 180, torch.where(h >= 180, h - 180, h))
    pixels.index_copy_(0, chosen, hsv_to_rgb(h, s, v))
    last = torch.where(how.contrast_first, 1.0, how.contrast)
    changed = pixels.mul_(each(last)).clamp_(0, 255).to(torch.uint8)
    return black_outside(changed, affine, picture_size)


def rgb_to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue (0-179), saturation and value (0-255) as OpenCV's 8-bit conversion rounds them.

    Parameters
    ----------
    images : (B, 3, S, S) float32
        Whole numbers 0-255, RGB.

    Returns
    -------
    h, s, v : (B, S, S) float32 of whole numbers

    Notes
    -----
    OpenCV divides by tables of ``round(2^12 x / i)``. The products need 28 bits, more than float32
    has, so they are done in int32, and every result equals OpenCV's.
    """
    r, g, b = images.unbind(1)
    value = torch.maximum(torch.maximum(r, g), b)
    span = value - torch.minimum(torch.minimum(r, g), b)
    half = 1 << 11
    by_value = (255 * 4096 / value.clamp(min=1)).round_().int()
    saturation = ((span.int() * by_value + half) >> 12).float()
    sector = torch.where(value == g, b - r + 2 * span, r - g + 4 * span)
    sector = torch.where(value == r, g - b, sector)
    by_span = (30 * 4096 / span.clamp(min=1)).round_().int()
    hue = ((sector.int() * by_span + half) >> 12).float()
    return torch.where(hue < 0, hue + 180, hue), saturation, value


def hsv_to_rgb(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """The inverse, (B, 3, S, S) float32 of whole numbers 0-255; see `rgb_to_hsv`.

    Computed in float32 in OpenCV's order and cut off, as its vector loop does (the few pixels that
    a row has beyond whole vectors it rounds): about one byte in 10,000 differs from it, by one.
    """
    place = h * (6 / 180)
    sector = place.floor()
    part = place - sector
    strength, value = s * (1 / 255), v * (1 / 255)
    colours = []
    for start in (5, 3, 1):
        k = sector + start
        k = torch.where(k >= 6, k - 6, k)
        # Over the sectors a colour falls, is lowest for two, rises, and is highest for two.
        share = torch.where(k == 0, part, torch.where(k == 3, 1 - part, (k < 3).float()))
        share.masked_fill_(k > 3, 0)
        colours.append(value * (1 - strength * share))
    return torch.stack(colours, dim=1).mul_(255).floor_()

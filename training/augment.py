"""What happens to the pixels of a whole batch on the device: colour noise, then normalisation."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from humandata.training.batches import Batch

#: Mean and standard deviation of ImageNet, RGB, 0-255; what every backbone of the field was
#: trained with.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def prepare(batch: Batch) -> Batch:
    """Pixels as the network takes them: colour noise and normalisation of uint8 crops.

    Returns
    -------
    Batch
        ``images`` float32 (B, 3, S, S); everything else as it was. Without colour noise the pixels
        are exactly ``(x - mean) / std``.
    """
    images = batch.images
    if images.device.type == "cpu":
        # Crops lie channels last, as they were cut. GPUs like that; PyTorch's CPU kernels crash on
        # it in some networks (repvgg_a0, torch 2.15).
        images = images.contiguous()
    noisy = channel_noise(images, batch.channel_gain)
    return dataclasses.replace(batch, images=normalise(noisy))


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
    return (images.float() * gain[:, :, None, None]).round_().clamp_(0, 255)


def normalise(images: Tensor) -> Tensor:
    """``(x - mean) / std`` of ImageNet, for RGB pixels 0-255 of shape (B, 3, S, S)."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() - mean) / std

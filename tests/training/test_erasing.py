"""Erasing and dropout, held against OpenCV, the reference's loops and albumentations."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from crop_batch import make_batch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from humandata.training import chance, erasing

MANY = 20_000


def seeds(count: int = MANY) -> Tensor:
    return torch.arange(count, dtype=torch.int64) * 7919 - 3


def all_on(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


def rgb(images: Tensor) -> NDArray[np.uint8]:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


# Hard erasing ----------------------------------------------------------------------------------


def test_the_erased_part_is_the_rectangle_of_the_picture_seen_through_the_crop() -> None:
    batch = make_batch(60, side=(60, 140))
    rectangles = erasing.draw_hard_erasing(
        batch.noise_seed, all_on(60), batch.centre, batch.side, batch.picture_size
    )
    key = chance.bits(batch.noise_seed, "test", 1)[:, 0]
    # Erased from white and from black, the difference is what is left of the crop.
    white, black = (
        rgb(
            erasing.hard_erasing(
                torch.full_like(batch.images, value), rectangles, batch.affine, key
            )
        )
        for value in (255, 0)
    )
    assert rectangles.on.sum() > 20
    for n in range(60):
        mask = np.full((240, 320), 255, np.uint8)
        if rectangles.on[n]:
            (x, y), (w, h) = rectangles.corner[n].tolist(), rectangles.extent[n].tolist()
            mask[y : y + h, x : x + w] = 0
        wanted = cv2.warpAffine(mask, batch.affine[n].double().numpy(), (64, 64), borderValue=255)
        left = white[n].astype(int) - black[n]
        assert np.abs(left - wanted[..., None]).max() <= 14, "OpenCV rounds places to 1/32 pixel"


def test_the_noise_is_that_of_a_noisy_picture_after_the_warp() -> None:
    """Same brightness, contrast and grain as NumPy's noise warped by OpenCV, at any zoom."""
    rng = np.random.default_rng(0)
    for side, angle in ((30, 0), (64, 0), (64, 33), (200, 20)):
        turn = math.radians(angle)
        zoom = 64 / side
        cos, sin = zoom * math.cos(turn), zoom * math.sin(turn)
        affine = np.array([[cos, sin, 0], [-sin, cos, 0]])
        affine[:, 2] = 32 - affine[:, :2] @ [160, 120]
        on = all_on(1)
        whole = erasing.Rectangles(on, torch.tensor([[0, 0]]), torch.tensor([[320, 240]]))
        ours = rgb(erasing.hard_erasing(
            torch.zeros(1, 3, 64, 64, dtype=torch.uint8), whole,
            torch.tensor(affine, dtype=torch.float32)[None], torch.tensor([12345678901234567]),
        ))[0].astype(float)  # fmt: skip
        noise = (rng.random((240, 320, 3)) * 255).astype(np.uint8)
        theirs = cv2.warpAffine(noise, affine, (64, 64)).astype(float)
        assert ours.mean() == pytest.approx(theirs.mean(), abs=4)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.07)
        grain = [np.corrcoef(p[:, 1:].ravel(), p[:, :-1].ravel())[0, 1] for p in (ours, theirs)]
        assert grain[0] == pytest.approx(grain[1], abs=0.05)
        assert abs(np.corrcoef(ours[..., 0].ravel(), ours[..., 1].ravel())[0, 1]) < 0.1


def test_rectangles_follow_the_reference() -> None:
    """Area, shape, place and share of those that fit, against its loop of scalars."""
    rng = np.random.default_rng(0)
    centre, side, extent = np.array([150.0, 130.0]), 180.0, (320, 240)
    theirs = []
    for _ in range(MANY):
        area, ratio = rng.uniform(0, 0.7) * side**2, rng.uniform(0.3, 1 / 0.3)
        h, w = math.sqrt(area * ratio), math.sqrt(area / ratio)
        x = rng.random() * (side - w - 1) + centre[0] - side / 2
        y = rng.random() * (side - h - 1) + centre[1] - side / 2
        if x >= 0 and y >= 0 and x + w < extent[0] and y + h < extent[1]:
            theirs.append((int(x), int(y), int(w), int(h)))
    found = erasing.draw_hard_erasing(
        seeds(), all_on(MANY), torch.tensor(centre).float().expand(MANY, 2),
        torch.full((MANY,), side), torch.tensor(extent).float().expand(MANY, 2),
    )  # fmt: skip
    ours = torch.cat([found.corner, found.extent], dim=1)[found.on].numpy()
    assert len(ours) == pytest.approx(len(theirs), rel=0.03)
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], np.array(theirs)[:, column]).pvalue > 1e-3
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] < extent).all()


# Soft erasing and self-mix ---------------------------------------------------------------------


def test_patches_follow_the_reference() -> None:
    rng = np.random.default_rng(0)
    theirs = []
    while len(theirs) < MANY:
        area, aspect = rng.uniform(0.02, 0.4) * 224**2, rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < 224 and w < 224:
            place = rng.integers(0, 225 - w), rng.integers(0, 225 - h)
            theirs.append((*place, w, h, rng.uniform(0.1, 0.9)))
    found = erasing.draw_patches(seeds(), all_on(MANY), "test", 224)
    assert found.on.all()
    ours = torch.cat([found.corner, found.extent, found.share[:, None]], dim=1).numpy()
    for column in range(5):
        assert stats.ks_2samp(ours[:, column], np.array(theirs)[:, column]).pvalue > 1e-3
    end = found.corner + found.extent
    assert int(end.max()) == 224
    assert int(found.corner.min()) == 0
    same = (found.source == found.corner).all(dim=1).float().mean()
    assert same < 0.01
    assert stats.ks_2samp(found.source[:, 0].numpy(), ours[:, 0]).pvalue > 1e-3


def test_self_mix_is_the_reference_s_sum_of_two_patches() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (20, 3, 64, 64)).astype(np.uint8))
    patches = erasing.draw_patches(seeds(20), torch.arange(20) % 4 > 0, "test", 64)
    found = rgb(erasing.self_mix(images, patches))
    for n, picture in enumerate(rgb(images)):
        wanted = picture.copy()
        if patches.on[n]:
            (x, y), (w, h) = patches.corner[n].tolist(), patches.extent[n].tolist()
            u, v = patches.source[n].tolist()
            m = np.float32(patches.share[n])
            wanted[y : y + h, x : x + w] = (1 - m) * picture[y : y + h, x : x + w] + m * picture[
                v : v + h, u : u + w
            ]
        assert np.array_equal(found[n], wanted)


def test_soft_erasing_mixes_with_noise_and_leaves_the_rest() -> None:
    images = torch.full((40, 3, 64, 64), 100, dtype=torch.uint8)
    patches = erasing.draw_patches(seeds(40), torch.arange(40) % 4 > 0, "test", 64)
    found = rgb(erasing.soft_erasing(images, patches, seeds(40))).astype(float)
    for n in range(40):
        (x, y), (w, h) = patches.corner[n].tolist(), patches.extent[n].tolist()
        outside = np.ones((64, 64), bool)
        if patches.on[n]:
            outside[y : y + h, x : x + w] = False
            m = float(patches.share[n])
            # floor((1 - m) 100 + m 255 U): mean and spread of a uniform number, cut off
            patch = found[n][~outside]
            assert patch.mean() == pytest.approx(
                (1 - m) * 100 + m * 127.5 - 0.5, abs=5 * m * 74 / math.sqrt(patch.size) + 0.15
            )
            assert patch.std() == pytest.approx(m * 255 / math.sqrt(12), rel=0.15)
            assert patch.min() >= math.floor((1 - m) * 100 - 1e-3)
        assert (found[n][outside] == 100).all()


# Dropout ---------------------------------------------------------------------------------------


def test_coarse_dropout_blackens_its_holes_and_nothing_else() -> None:
    images = torch.full((30, 3, 64, 64), 9, dtype=torch.uint8)
    on = torch.arange(30) % 3 > 0
    holes = erasing.draw_coarse_dropout(seeds(30), on, 64)
    found = rgb(erasing.coarse_dropout(images, holes))
    for n in range(30):
        wanted = np.full((64, 64, 3), 9)
        for (x, y), (w, h) in zip(holes.corner[n].tolist(), holes.extent[n].tolist(), strict=True):
            wanted[y : y + h, x : x + w] = 0
        assert np.array_equal(found[n], wanted)
        assert bool(on[n]) == bool((wanted == 0).any())


def test_coarse_dropout_is_that_of_albumentations() -> None:
    """Facts of albumentations 1.3.1, 6,000 crops of 224 with the settings of hmr-benchmarks."""
    count = 6000
    holes = erasing.draw_coarse_dropout(seeds(count), all_on(count), 224)
    used = holes.extent[..., 0] > 0
    assert stats.chisquare(np.bincount(used.sum(dim=1).numpy())[1:]).pvalue > 1e-3
    assert used.sum(dim=1).float().mean() == pytest.approx(4.498, abs=0.12)
    extent = holes.extent[used]
    assert (int(extent.min()), int(extent.max())) == (10, 40)
    assert extent.float().mean() == pytest.approx(25.0, abs=0.2)
    assert abs(np.corrcoef(extent.T.numpy())[0, 1]) < 0.03
    end = (holes.corner + holes.extent)[used]
    assert (int(holes.corner[used].min()), int(end.max())) == (0, 224)
    part = erasing.Holes(*(value[:1000] for value in holes))
    white = torch.ones(1000, 1, 224, 224, dtype=torch.uint8)
    share = (erasing.coarse_dropout(white, part) == 0).float().mean((1, 2, 3))
    assert share.mean() == pytest.approx(0.0539, abs=0.004)
    assert share.std() == pytest.approx(0.0299, abs=0.003)
    low, middle, high = np.percentile(share.numpy(), [5, 50, 95])
    assert (low, middle, high) == pytest.approx((0.0096, 0.0520, 0.1047), abs=0.006)


def test_grid_dropout_blackens_squares_at_every_unit() -> None:
    images = torch.full((30, 3, 64, 64), 9, dtype=torch.uint8)
    grids = erasing.draw_grid_dropout(seeds(30), torch.arange(30) % 3 > 0, 64)
    found = rgb(erasing.grid_dropout(images, grids))
    for n in range(30):
        wanted = np.full((64, 64, 3), 9)
        unit, hole = int(grids.unit[n]), int(grids.hole[n])
        for y in range(int(grids.shift[n, 1]), 64, unit):
            for x in range(int(grids.shift[n, 0]), 64, unit):
                wanted[y : y + hole, x : x + hole] = 0 if grids.on[n] else 9
        assert np.array_equal(found[n], wanted)


def test_grid_dropout_is_that_of_albumentations() -> None:
    """Facts of albumentations 1.3.1, 6,000 crops of 224: share of black pixels."""
    grids = erasing.draw_grid_dropout(seeds(), all_on(MANY), 224)
    assert stats.chisquare(np.bincount(grids.unit.numpy())[10:]).pvalue > 1e-3
    assert (int(grids.unit.min()), int(grids.unit.max())) == (10, 40)
    assert torch.equal(grids.hole, grids.unit // 2)
    room = grids.unit - grids.hole
    assert (grids.shift <= room[:, None]).all()
    assert ((grids.shift == room[:, None]).float().mean() > 0.05).all()
    part = erasing.Grids(*(value[:1000] for value in grids))
    share = (
        (erasing.grid_dropout(torch.ones(1000, 1, 224, 224, dtype=torch.uint8), part) == 0)
        .float()
        .mean((1, 2, 3))
    )
    assert share.mean() == pytest.approx(0.2389, abs=0.003)
    assert share.std() == pytest.approx(0.0159, abs=0.003)

"""Augmentation of whole batches, held against OpenCV, NumPy and albumentations."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch
from crop_batch import make_batch, smooth_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from humandata.errors import DataError, HumandataError
from humandata.training import areas, augment, chance, colours, recipes
from humandata.training.augment import Augmentations, prepare
from humandata.training.batches import Batch

EVERY = tuple(recipes.AUGMENTATIONS)
ALWAYS = tuple(f"{name}=1" for name in EVERY)
MANY = 20_000


def seeds(count: int = MANY) -> Tensor:
    return torch.arange(count, dtype=torch.int64) * 7919 - 3


def all_on(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


def rgb(images: Tensor) -> NDArray[np.uint8]:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def picked(batch: Batch, index: list[int]) -> Batch:
    at = torch.tensor(index)
    return Batch(**{f.name: getattr(batch, f.name)[at] for f in dataclasses.fields(Batch)})


# Chance ----------------------------------------------------------------------------------------

MASK = 2**64 - 1


def finalised(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def splitmix64(state: int, count: int) -> list[int]:
    return [finalised((state + (i + 1) * 0x9E3779B97F4A7C15) & MASK) for i in range(count)]


def test_our_reference_of_splitmix64_gives_its_published_numbers() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(1234567, 3) == published


@given(seed=st.integers(-(2**63), 2**63 - 1), stream=st.text(max_size=8))
@settings(max_examples=30, deadline=None)
def test_random_bits_are_those_of_splitmix64_in_unsigned_arithmetic(seed: int, stream: str) -> None:
    import zlib

    state = finalised((seed + zlib.crc32(stream.encode()) * 0xD1342543DE82EF95) & MASK)
    found = chance.bits(torch.tensor([seed]), stream, 5)[0]
    assert [int(value) & MASK for value in found] == splitmix64(state, 5)


def test_uniform_numbers_are_uniform_and_independent() -> None:
    share = chance.uniform(seeds(), "one", 3).double().numpy()
    other = chance.uniform(seeds(), "two", 3).double().numpy()
    assert stats.kstest(share.ravel(), "uniform").pvalue > 1e-3
    assert share.min() >= 0
    assert share.max() < 1
    correlated = np.corrcoef(np.hstack([share, other]).T) - np.eye(6)
    assert np.abs(correlated).max() < 0.03


def test_normal_deviates_are_normal_and_whole_numbers_even() -> None:
    share = chance.uniform(seeds(), "one", 2)
    assert stats.kstest(chance.normal(share[:, 0], share[:, 1]).numpy(), "norm").pvalue > 1e-3
    assert chance.normal(torch.zeros(1), torch.zeros(1)) == 0
    assert torch.isfinite(chance.normal(torch.tensor([1 - 2.0**-24]), torch.zeros(1))).all()
    counts = np.bincount(chance.integers(share[:, 0], 3, 9).numpy())
    assert (counts[:3] == 0).all()
    assert len(counts) == 10
    assert stats.chisquare(counts[3:]).pvalue > 1e-3
    assert chance.integers(torch.tensor([1 - 2.0**-24]), -18, 17) == 17


def test_noise_of_pixels_has_no_pattern() -> None:
    key = chance.bits(torch.tensor([5, 6]), "noise", 1)[:, 0]
    x, y = (
        torch.arange(128, dtype=torch.int32).repeat(128),
        torch.arange(128).repeat_interleave(128),
    )
    planes = []
    for part in zip(*chance.pattern(key), strict=True):
        own = chance.Pattern(*(value.expand(128 * 128) for value in part))
        planes += list(chance.colours(chance.pixels(own, x, y.int())).view(3, 128, 128).numpy())
    for plane in planes:
        assert stats.kstest(plane.ravel() + 1 / 2048, "uniform").pvalue > 1e-3
        spectrum = np.abs(np.fft.fft2(plane - plane.mean())) ** 2 / (plane.size / 12)
        assert spectrum.max() < 2.5 * math.log(plane.size), "a wave stands out of the noise"
    correlated = np.corrcoef([plane.ravel() for plane in planes]) - np.eye(6)
    assert np.abs(correlated).max() < 0.04


# What everything has in common -----------------------------------------------------------------


@pytest.mark.parametrize("names", [*((name,) for name in ALWAYS), ALWAYS, EVERY])
def test_a_sample_is_augmented_alone_as_it_is_in_any_batch(names: tuple[str, ...]) -> None:
    batch = make_batch(12)
    options = Augmentations.named(names)
    before = batch.images.clone()
    whole = prepare(batch, options).images
    for index in ([4], [11, 4, 0], list(range(11, -1, -1))):
        assert torch.equal(prepare(picked(batch, index), options).images, whole[index])
    assert torch.equal(batch.images, before), "the batch itself is not touched"
    assert not torch.equal(whole, prepare(batch).images)
    other = dataclasses.replace(batch, noise_seed=batch.noise_seed + 1)
    assert not torch.equal(whole, prepare(other, options).images)


def test_parts_of_a_batch_that_fit_a_cache_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(10)
    monkeypatch.setattr(augment, "_CACHE_PIXELS", 3 * 64**2)
    parts = prepare(batch, Augmentations.named(EVERY)).images
    monkeypatch.setattr(augment, "_CACHE_PIXELS", 10**9)
    assert torch.equal(parts, prepare(batch, Augmentations.named(EVERY)).images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ALWAYS)
def test_a_gpu_gives_the_same_pixels_but_for_rounding(name: str) -> None:
    batch, options = make_batch(32), Augmentations.named([name])
    here = augment.augment(batch, options).int()
    there = augment.augment(batch.to("cuda"), options.to("cuda")).cpu().int()
    assert ((here - there).abs() > 1).float().mean() < 1e-3


def test_without_augmentations_pixels_are_only_normalised() -> None:
    batch = make_batch(3)
    for options in (None, Augmentations()):
        found = prepare(batch, options).images
        assert found.dtype == torch.float32
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (augment.MEAN, augment.STD))
        torch.testing.assert_close(found, (batch.images.float() - mean) / std)


def test_channel_noise_comes_first_and_is_stored_as_bytes() -> None:
    gain = torch.tensor([[0.5, 1.0, 1.4]])
    batch = make_batch(1, channel_gain=gain)
    found = augment.augment(batch, Augmentations())
    expected = np.clip(np.rint(rgb(batch.images) * gain.numpy()[0]), 0, 255)
    assert np.array_equal(rgb(found), expected)


def test_each_is_applied_to_its_share_of_samples_independently() -> None:
    count = 4000
    batch = make_batch(
        count, size=16, turned=False, pictures=[np.full((240, 320, 3), 200, np.uint8)] * count
    )
    hit = {}
    for name in ("coarse_dropout=0.3", "grid_dropout"):
        images = augment.augment(batch, Augmentations.named([name]))
        hit[name] = (images != batch.images).flatten(1).any(dim=1)
    assert hit["coarse_dropout=0.3"].float().mean() == pytest.approx(0.3, abs=0.03)
    assert hit["grid_dropout"].float().mean() == pytest.approx(0.5, abs=0.03)
    both = (hit["coarse_dropout=0.3"] & hit["grid_dropout"]).float().mean()
    assert both == pytest.approx(0.15, abs=0.03)


def test_an_augmentation_may_be_restricted_to_datasets() -> None:
    store = torch.arange(40) % 4
    batch = make_batch(40, store=store)
    options = Augmentations.named(["self_mix=1@h36m,coco"], ["h36m", "coco", "pw3d", "h36m"])
    changed = (augment.augment(batch, options) != batch.images).flatten(1).any(dim=1)
    assert not changed[store == 2].any()
    assert changed[store != 2].float().mean() > 0.9
    with pytest.raises(HumandataError, match=r"self_mix .* mpii, but the mix holds h36m, coco"):
        Augmentations.named(["self_mix@mpii"], ["h36m", "coco", "h36m"])


def test_names_carry_a_probability_and_datasets() -> None:
    parse = recipes.parse_augmentation
    assert parse("self_mix@h36m") == recipes.Augmentation("self_mix", 0.5, ("h36m",))
    assert parse("hard_erasing=0.9") == recipes.Augmentation("hard_erasing", 0.9)
    assert parse("synthetic_occlusion").probability == 1
    both = parse("grid_dropout = 1 @ coco , mpii".replace(" = ", "="))
    assert both == recipes.Augmentation("grid_dropout", 1.0, ("coco", "mpii"))
    assert tuple(augment._STEPS) == EVERY
    assert Augmentations.named(reversed(EVERY)).names == EVERY, "the order is that of the reference"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hard_erase", "near names: hard_erasing"),
        ("mixup", "there are photometric_distortion"),
        ("self_mix=often", "'often' is not a probability"),
        ("self_mix=1.5", "not a probability"),
        ("self_mix=nan", "not a probability"),
        ("self_mix@", "name a dataset"),
        ("self_mix@h36m,", "name a dataset"),
    ],
)
def test_a_wrong_name_is_refused_with_the_right_ones(text: str, reason: str) -> None:
    with pytest.raises(HumandataError, match=reason):
        recipes.parse_augmentation(text)
    with pytest.raises(DataError, match="augment: expected NAME"):
        recipes.from_dict({"augment": [text]})


def test_naming_an_augmentation_twice_is_refused() -> None:
    with pytest.raises(DataError, match="'self_mix' is named twice"):
        recipes.from_dict({"augment": ["self_mix", "self_mix@h36m"]})


# Where pixels are ------------------------------------------------------------------------------


def test_pixels_of_boxes_are_listed_box_by_box_and_row_by_row() -> None:
    boxes = torch.tensor([[1, 2, 4, 4], [5, 5, 5, 9], [3, 3, 9, 3], [0, 7, 1, 8], [6, 1, 4, 4]])
    at = areas.pixels_in(boxes)
    listed = list(
        zip(at.of_rows(at.box).tolist(), at.x.tolist(), at.of_rows(at.y).tolist(), strict=True)
    )
    rows = [(0, x, y) for y in (2, 3) for x in (1, 2, 3)]
    assert listed == [*rows, (3, 0, 7)]
    assert areas.pixels_in(boxes[:0]).x.shape == (0,)
    linear = at.linear(torch.full((5,), 2.0), torch.full((5,), -1.0), torch.arange(5.0))
    assert linear.tolist() == [2 * x - y + box for box, x, y in listed]


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_affines_are_inverted_and_rectangles_found_as_by_opencv(seed: int) -> None:
    batch = make_batch(3, seed=seed)
    back = areas.inverse(batch.affine).double().numpy()
    for ours, forward in zip(back, batch.affine.double().numpy(), strict=True):
        np.testing.assert_allclose(ours, cv2.invertAffineTransform(forward), rtol=2e-4, atol=2e-3)
    low, high = batch.centre - 20, batch.centre + 12
    boxes = areas.boxes_around(batch.affine, low, high, 64)
    for n in range(3):
        corners = np.array(
            [
                [low[n, 0], low[n, 1]],
                [high[n, 0], low[n, 1]],
                [low[n, 0], high[n, 1]],
                [high[n, 0], high[n, 1]],
            ]
        )
        moved = cv2.transform(corners[None], batch.affine[n].double().numpy())[0]
        first = np.clip(np.ceil(moved.min(axis=0) - 1e-3), 0, 64)
        last = np.clip(np.floor(moved.max(axis=0) + 1e-3) + 1, 0, 64)
        assert np.abs(boxes[n].numpy() - np.concatenate([first, last])).max() <= 1


def test_what_lies_beyond_the_picture_is_what_the_warp_leaves_black() -> None:
    white = [np.full((240, 320, 3), 255, np.uint8)] * 24
    batch = make_batch(24, pictures=white)
    black = areas.outside_picture(batch.images, batch.affine, batch.picture_size)
    value = batch.images[:, 0]
    # Along the edge the warp mixes with black, half of it where our mask changes.
    assert (value[black] <= 140).all()
    assert (value[~black] >= 115).all()
    touched = areas.leaves_picture(batch.affine, batch.picture_size, 64)
    assert set(black.flatten(1).any(dim=1).nonzero().squeeze(1).tolist()) == set(touched.tolist())
    assert 4 < len(touched) < 24


# Photometric distortion ------------------------------------------------------------------------


def test_hsv_is_that_of_opencv_for_bytes() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (512, 512, 3)).astype(np.uint8)
    picture[:64] = rng.integers(0, 6, (64, 512, 3))
    picture[64:128] = picture[64:128, :, :1]
    wanted = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    images = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    h, s, v = colours.rgb_to_hsv(images)
    assert np.array_equal(torch.stack([h, s, v], dim=-1)[0].numpy(), wanted)
    back = rgb(colours.hsv_to_rgb(h, s, v))[0]
    away = np.abs(back - cv2.cvtColor(wanted, cv2.COLOR_HSV2RGB).astype(float))
    assert away.max() <= 1
    assert (away > 0).mean() < 0.001, "it rounds otherwise where a row ends beside whole vectors"


def by_opencv(picture: NDArray[np.uint8], how: colours.Distortions, n: int) -> NDArray[np.uint8]:
    """mmhuman3d's steps for one picture, with given draws."""

    def stored(
        values: NDArray[np.float32], factor: float = 1, offset: float = 0
    ) -> NDArray[np.uint8]:
        return np.clip(
            values.astype(np.float32) * np.float32(factor) + np.float32(offset), 0, 255
        ).astype(np.uint8)

    picture = stored(picture, offset=float(how.brightness[n]))
    if how.contrast_first[n]:
        picture = stored(picture, float(how.contrast[n]))
    if how.hsv[n]:
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = stored(hsv[..., 1], float(how.saturation[n]))
        hsv[..., 0] = (hsv[..., 0].astype(int) + int(how.hue[n])) % 180
        picture = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not how.contrast_first[n]:
        picture = stored(picture, float(how.contrast[n]))
    return picture


def test_photometric_distortion_is_that_of_opencv() -> None:
    batch = make_batch(60, side=(40, 60), turned=False)  # wholly inside their pictures
    how = colours.draw_photometric_distortion(batch.noise_seed, all_on(60))
    found = rgb(colours.photometric_distortion(batch.images, how, batch.affine, batch.picture_size))
    for n, picture in enumerate(rgb(batch.images)):
        away = np.abs(by_opencv(picture, how, n).astype(int) - found[n])
        assert away.max() <= 2, "one from HSV, times a contrast of at most 1.5"
        assert (away > 0).mean() < 0.01


def test_distorting_the_crop_is_distorting_the_picture_and_keeps_black_outside() -> None:
    rng = np.random.default_rng(1)
    pictures = [smooth_picture(rng, 320, 240) for _ in range(40)]
    batch = make_batch(40, pictures=pictures)
    how = colours.draw_photometric_distortion(batch.noise_seed, all_on(40))
    found = rgb(colours.photometric_distortion(batch.images, how, batch.affine, batch.picture_size))
    outside = areas.outside_picture(batch.images, batch.affine, batch.picture_size).numpy()
    assert outside.any()
    assert not found[outside].any()
    for n in range(40):
        changed = by_opencv(pictures[n], how, n)
        wanted = cv2.warpAffine(changed, batch.affine[n].double().numpy(), (64, 64))
        inside = ~cv2.dilate(outside[n].astype(np.uint8), np.ones((5, 5))).astype(bool)
        away = np.abs(found[n][inside].astype(int) - wanted[inside])
        assert not away.size or (np.median(away) <= 1 and away.mean() < 3)


def test_draws_of_photometric_distortion_follow_the_reference() -> None:
    how = colours.draw_photometric_distortion(seeds(), all_on(MANY))
    bright = how.brightness.numpy()
    assert (bright != 0).mean() == pytest.approx(0.5, abs=0.015)
    assert stats.kstest(bright[bright != 0], stats.uniform(-32, 64).cdf).pvalue > 1e-3
    contrast = how.contrast.numpy()
    assert (contrast != 1).mean() == pytest.approx(0.5, abs=0.015)
    assert stats.kstest(contrast[contrast != 1], stats.uniform(0.5, 1).cdf).pvalue > 1e-3
    assert how.contrast_first.float().mean() == pytest.approx(0.5, abs=0.015)
    assert how.hsv.float().mean() == pytest.approx(0.75, abs=0.015)
    assert (how.saturation != 1).float().mean() == pytest.approx(0.5, abs=0.015)
    assert (int(how.hue.min()), int(how.hue.max())) == (-18, 17)
    turned = (how.hue != 0).float().mean()
    assert turned == pytest.approx(0.5 * 35 / 36, abs=0.015)
    assert not how.hsv[(how.hue != 0) & (how.saturation != 1)].logical_not().any()
    nothing = colours.draw_photometric_distortion(seeds(), ~all_on(MANY))
    assert not nothing.hsv.any()
    assert not nothing.brightness.any()
    assert (nothing.contrast == 1).all()


# Sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 256])
def test_every_augmentation_works_on_crops_of_any_size(size: int) -> None:
    batch = make_batch(6, size=size)
    found = prepare(batch, Augmentations.named(ALWAYS)).images
    assert found.shape == (6, 3, size, size)
    assert torch.isfinite(found).all()

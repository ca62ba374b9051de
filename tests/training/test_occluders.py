"""Objects before people: the file, the made-up shapes, and where and how they are drawn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from crop_batch import make_batch
from numpy.typing import NDArray
from scipy import stats

from humandata.errors import DataError, HumandataError
from humandata.training import occluders, pasting
from humandata.training.augment import Augmentations, augment
from humandata.training.occluders import Objects

Picture = NDArray[np.uint8]
MANY = 5000


def save(path: Path, items: list[Any]) -> Path:
    """As numpy.save writes pascal_occluders.npy: an object array, a pickle inside."""
    array = np.empty(len(items), object)
    for number, item in enumerate(items):
        array[number] = item
    np.save(path, array, allow_pickle=True)
    return path


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return occluders.make(30, seed=3)


@pytest.fixture(scope="module")
def objects(pictures: list[Picture]) -> Objects:
    return occluders.pack(pictures)


def all_on(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.bool)


def seeds(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int64) * 31 + 5


# The file --------------------------------------------------------------------------------------


def test_the_objects_of_a_file_are_read_as_they_were_written(
    tmp_path: Path, pictures: list[Picture]
) -> None:
    found = occluders.read(save(tmp_path / "objects.npy", list(pictures)))
    assert len(found) == len(pictures)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, pictures, strict=True))
    np.save(tmp_path / "equal.npy", np.stack([pictures[0]] * 3))
    assert len(occluders.read(tmp_path / "equal.npy")) == 3


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was_here",)


def test_a_file_that_names_code_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: list[Picture]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "hostile.npy", [pictures[0], Hostile()])
    with pytest.raises(HumandataError, match="mkdir"):
        occluders.read(path)
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize(
    ("items", "where"),
    [
        ([np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)], "object 1.*.4, 4, 3"),
        ([np.zeros((4, 4, 4), np.float64)], "object 0.*float64"),
        ([np.zeros((0, 4, 4), np.uint8)], "object 0"),
        (["chair.png"], "object 0.*found str"),
        ([], "shape .0,"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_named(tmp_path: Path, items: list[Any], where: str) -> None:
    with pytest.raises(DataError, match=f"(?s)bad.npy.*{where}.*pascal_occluders"):
        occluders.read(save(tmp_path / "bad.npy", items))


def test_a_missing_or_cut_file_is_named(tmp_path: Path, pictures: list[Picture]) -> None:
    with pytest.raises(DataError, match=r"none\.npy"):
        occluders.read(tmp_path / "none.npy")
    whole = save(tmp_path / "whole.npy", list(pictures)).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.npy"):
        Augmentations.named(["synthetic_occlusion"], occluder_file=str(tmp_path / "cut.npy"))


def test_the_file_of_a_recipe_is_what_occludes(tmp_path: Path) -> None:
    red = np.zeros((60, 60, 4), np.uint8)
    red[..., [0, 3]] = 255
    path = save(tmp_path / "red.npy", [red])
    batch = make_batch(20)
    options = Augmentations.named(["keypoint_occlusion"], occluder_file=str(path))
    changed = augment(batch, options)
    redder = (changed[:, 0] == 255) & (changed[:, 1] == 0) & (changed[:, 2] == 0)
    assert redder.flatten(1).any(dim=1).float().mean() > 0.9, "red stays red"


# Shapes and sizes ------------------------------------------------------------------------------


def test_made_up_shapes_are_the_same_everywhere_and_like_those_of_pascal() -> None:
    made, again, other = occluders.make(), occluders.make(), occluders.make(seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(made, other, strict=False))
    for picture in made:
        assert picture.dtype == np.uint8
        assert min(picture.shape[:2]) >= 24
        assert max(picture.shape[:2]) <= 250
        assert set(np.unique(picture[..., 3])) <= {0, 192, 255}
        assert (picture[..., 3] > 0).sum() >= 125, "as large as Pascal's smallest, halved"
    assert len({picture.tobytes() for picture in made}) == len(made)


def test_every_size_of_an_object_is_its_area_average(
    pictures: list[Picture], objects: Objects
) -> None:
    table = objects.pixels.numpy().view(np.uint8).reshape(-1, 4)
    for number, picture in enumerate(pictures[:6]):
        solid = picture.astype(np.float64)
        solid[..., :3] *= solid[..., 3:] / 255
        assert objects.native[number].tolist() == list(picture.shape[1::-1])
        for level in range(occluders.LEVELS):
            width, height = objects.extent[number, level].tolist()
            start = int(objects.start[number, level])
            framed = table[start : start + (width + 2) * (height + 2)]
            framed = framed.reshape(height + 2, width + 2, 4)
            assert (width, height) == tuple(round(n / 2**level) for n in picture.shape[1::-1])
            assert framed.sum() == framed[1:-1, 1:-1].sum(), "surrounded by transparent pixels"
            mean = framed[1:-1, 1:-1].mean(axis=(0, 1))
            np.testing.assert_allclose(mean, solid.mean(axis=(0, 1)), atol=1)
    large = occluders.pack([np.full((600, 300, 4), 255, np.uint8)])
    assert large.extent[0, 0].tolist() == [128, 256]
    assert large.native[0].tolist() == [300, 600]


# Where they are --------------------------------------------------------------------------------


def test_places_and_sizes_follow_the_reference(objects: Objects) -> None:
    size = torch.tensor([640.0, 480.0]).expand(MANY, 2)
    found = pasting.draw_synthetic_occlusion(seeds(MANY), all_on(MANY), size, objects)
    counts = np.bincount(found.on.sum(dim=1).numpy(), minlength=8)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3
    used = found.on
    assert stats.chisquare(np.bincount(found.number[used].numpy(), minlength=30)).pvalue > 1e-3
    centre = (found.corner + found.extent // 2)[used].numpy()
    for axis, length in ((0, 640), (1, 480)):
        assert stats.kstest(centre[:, axis] + 0.0, stats.uniform(0, length).cdf).pvalue > 1e-4
    native = objects.native[found.number[used]]
    factor = (found.extent[used].amax(dim=1) / native.amax(dim=1)).numpy()
    assert factor.min() == pytest.approx(0.2 * 480 / 256, rel=0.03)
    assert factor.max() == pytest.approx(480 / 256, rel=0.03)
    assert stats.kstest(factor, stats.uniform(0.2 * 1.875, 0.8 * 1.875).cdf).statistic < 0.02
    wanted = np.rint(native.numpy() * factor[:, None])
    assert np.abs(found.extent[used].numpy() - wanted).max() <= 1


def test_objects_are_put_at_joints_that_are_certain(objects: Objects) -> None:
    batch = make_batch(300)
    joints = batch.keypoints2d.clone()
    joints[:, :, 2] = 0.9
    joints[:, [7, 20], 2] = 1
    joints[:50, :, 2] = 0.999
    found = pasting.draw_keypoint_occlusion(
        batch.noise_seed, all_on(300), joints, batch.affine, batch.side, batch.picture_size, objects
    )
    assert not found.on[:50].any(), "nobody certain: left alone"
    assert found.on[50:].any(dim=1).all()
    nearest, sides, inside = [], [], []
    for n in range(50, 300):
        back = cv2.invertAffineTransform(batch.affine[n].double().numpy())
        at = cv2.transform(joints[n, [7, 20], :2].double().numpy()[None], back)[0]
        centre = (found.corner[n] + found.extent[n] // 2)[found.on[n]].numpy()
        assert (centre >= 0).all()
        assert (centre <= [320, 240]).all()
        away = centre[:, None] + 0.5 - at
        best = np.abs(away).sum(axis=2).argmin(axis=1)
        nearest += best.tolist()
        sides += [float(batch.side[n])] * len(best)
        inside += (away[np.arange(len(best)), best] / float(batch.side[n])).tolist()
    assert np.mean(nearest) == pytest.approx(0.5, abs=0.06)
    # Taking the nearer of two joints makes the spread a little smaller than it is drawn.
    assert np.std(inside) == pytest.approx(0.1, rel=0.15)
    assert np.abs(np.mean(inside, axis=0)).max() < 0.015


def test_only_chosen_samples_are_occluded(objects: Objects) -> None:
    on = torch.arange(10) % 2 == 0
    batch = make_batch(10)
    found = pasting.draw_synthetic_occlusion(batch.noise_seed, on, batch.picture_size, objects)
    assert torch.equal(found.on.any(dim=1), on)


# What they look like ---------------------------------------------------------------------------


def pasted_by_opencv(
    picture: Picture, found: pasting.Occluders, n: int, objects: list[Picture]
) -> Picture:
    """The reference: each object resized and blended into the picture, clipped at its borders."""
    result = picture.astype(np.float32)
    height, width = picture.shape[:2]
    for k in np.flatnonzero(found.on[n].numpy()):
        number, extent = int(found.number[n, k]), found.extent[n, k].tolist()
        small = extent[0] <= objects[number].shape[1]
        how = cv2.INTER_AREA if small else cv2.INTER_LINEAR
        solid = objects[number].astype(np.float32)
        solid[..., :3] *= solid[..., 3:] / 255
        resized = cv2.resize(solid, extent, interpolation=how)
        x, y = found.corner[n, k].tolist()
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + extent[0], width), min(y + extent[1], height)
        if x1 > x0 and y1 > y0:
            part = resized[y0 - y : y1 - y, x0 - x : x1 - x]
            below = result[y0:y1, x0:x1]
            result[y0:y1, x0:x1] = np.floor(part[..., :3] + (1 - part[..., 3:] / 255) * below)
    return result.astype(np.uint8)


def test_pasting_into_the_crop_is_pasting_into_the_picture_and_warping(objects: Objects) -> None:
    """Smooth objects, so that what is compared is where they are and how they blend."""
    rng = np.random.default_rng(0)
    smooth = []
    for side in (40, 70, 110):
        picture = np.zeros((side, side + 20, 4), np.uint8)
        picture[..., :3] = cv2.resize(
            rng.integers(0, 256, (2, 3, 3)).astype(np.uint8), (side + 20, side)
        )
        mask = np.zeros((side, side + 20), np.uint8)
        cv2.ellipse(
            mask, (side // 2 + 10, side // 2), (side // 2, side // 2 - 4), 0, 0, 360, 255, -1
        )
        picture[..., 3] = cv2.GaussianBlur(mask, (9, 9), 3)
        smooth.append(picture)
    packed = occluders.pack(smooth)
    base = [np.full((240, 320, 3), value, np.uint8) for value in range(20, 140, 4)]
    batch = make_batch(30, pictures=base, side=(60, 120))
    found = pasting.draw_synthetic_occlusion(seeds(30), all_on(30), batch.picture_size, packed)
    ours = pasting.paste(batch.images, found, batch.affine, batch.picture_size, packed)
    touched = 0
    for n in range(30):
        crop = ours[n].permute(1, 2, 0).numpy()
        picture = pasted_by_opencv(base[n], found, n, smooth)
        wanted = cv2.warpAffine(picture, batch.affine[n].double().numpy(), (64, 64))
        away = np.abs(crop.astype(int) - wanted)
        away[cv2.dilate((wanted == 0).all(axis=2).astype(np.uint8), np.ones((3, 3))) > 0] = 0
        touched += (crop != batch.images[n].permute(1, 2, 0).numpy()).any()
        assert away.mean() < 1
        assert np.percentile(away, 99) <= 6
    assert touched > 15


def test_an_opaque_object_covers_its_rectangle_and_ends_with_the_picture() -> None:
    solid = occluders.pack([np.full((64, 64, 4), 255, np.uint8)])
    white = [np.full((240, 320, 3), 100, np.uint8)] * 2
    batch = make_batch(2, turned=False, pictures=white, side=(64, 64.001))
    affine = torch.eye(2, 3).expand(2, 2, 3).clone()
    affine[1, 0, 2] = 32  # the picture begins in the middle of the second crop
    found = pasting.Occluders(
        on=torch.eye(1, 7, dtype=torch.bool).expand(2, 7),
        number=torch.zeros(2, 7, dtype=torch.int64),
        corner=torch.tensor([20, 8]).expand(2, 7, 2) - torch.tensor([[[0, 0]], [[40, 0]]]),
        extent=torch.tensor([64, 64]).expand(2, 7, 2),
    )
    images = torch.full((2, 3, 64, 64), 100, dtype=torch.uint8)
    images[1, :, :, :32] = 0
    ours = pasting.paste(images, found, affine, batch.picture_size, solid)[:, 0].numpy()
    expected = np.full((64, 64), 100)
    expected[8:, 20:] = 255
    assert np.array_equal(ours[0], expected)
    expected = np.full((64, 64), 100)
    expected[8:, :] = 255  # from 20 before the picture to 44 inside it
    expected[:, :32] = 0
    assert np.array_equal(ours[1], expected)


def test_later_objects_lie_in_front() -> None:
    colours = [
        np.full((32, 32, 4), 255, np.uint8) * np.uint8([r, g, b, 1])
        for r, g, b in np.eye(3, dtype=np.uint8)
    ]
    objects = occluders.pack(colours)
    found = pasting.Occluders(
        on=torch.tensor([[True, True, False, True, False, False, False]]),
        number=torch.tensor([[0, 1, 0, 2, 0, 0, 0]]),
        corner=torch.tensor([[[0, 0], [16, 0], [0, 0], [8, 16], [0, 0], [0, 0], [0, 0]]]),
        extent=torch.full((1, 7, 2), 32),
    )
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    size = torch.tensor([[64.0, 64.0]])
    ours = pasting.paste(images, found, torch.eye(2, 3)[None], size, objects)[0]
    assert ours[:, 4, 4].tolist() == [255, 0, 0]
    assert ours[:, 4, 30].tolist() == [0, 255, 0]
    assert ours[:, 30, 30].tolist() == [0, 0, 255]
    assert not ours[:, :, 49:].any()

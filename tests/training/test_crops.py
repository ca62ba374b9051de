"""Crops: the same pixels as from the whole picture, and cameras that follow exactly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import humandata
from humandata import geometry, jpeg
from humandata.cropping import Crops
from humandata.errors import DamagedPictureError, DataError
from humandata.packs import Crop, Encoded
from humandata.store import Store
from humandata.training.crops import Geometry, crop_intrinsics, cut, geometry_of, transform

Pixels = NDArray[np.uint8]
SIZE = 48


def photo(width: int, height: int, seed: int, softness: float = 1.2) -> Pixels:
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), softness) * softness
    return np.clip(128 + 150 * soft, 0, 255).astype(np.uint8)


def encode(picture: Pixels, restart: int = 0, progressive: int = 0, quality: int = 92) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    flags += [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    return bytes(cv2.imencode(".jpg", picture[..., ::-1], flags)[1])


def write_store(
    path: Path,
    pictures: list[bytes | Encoded] | None,
    sizes: list[tuple[int, int]],
    crops: list[Crop | None] | None = None,
    **attributes: str,
) -> Store:
    """A person to a picture, with the rows of both tables in opposite order."""
    count = len(sizes)
    width, height = np.array(sizes, np.int32).T
    with humandata.create(path, dataset="crops", attributes=attributes) as writer:
        writer.append(
            images={
                "id": np.arange(1, count + 1, dtype=np.uint64),
                "path": [f"{number}.jpg" for number in range(count)],
                "height": height,
                "width": width,
            },
            instances={
                "id": np.arange(1, count + 1, dtype=np.uint64),
                "image": np.arange(count, dtype=np.int32)[::-1].copy(),
                "bbox_xywh": np.full((count, 5), [10, 20, 30, 40, 1], np.float32),
            },
            pictures=pictures,
            field_attributes={"bbox_xywh": {"rule": "annotator", "factor": 1.0}},
            crops=crops,
        )
    return humandata.open(path)


def whole(data: bytes, shrink: int) -> Pixels:
    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags[shrink])
    assert picture is not None
    return np.asarray(picture[..., ::-1], np.uint8)


def from_whole(data: bytes, affine: NDArray[np.float64], size: int = SIZE) -> Pixels:
    """The crop by way of the whole picture, decoded at the largest scale that does not upsample."""
    zoom_out = 1 / np.hypot(*affine[:, 0])
    shrink = max(s for s in (1, 2, 4, 8) if s == 1 or zoom_out >= s)
    if not data.startswith(b"\xff\xd8"):
        shrink = 1
    # A pixel of the reduced picture lies at the middle of those that it stands for.
    enlarge = np.array([[shrink, 0, (shrink - 1) / 2], [0, shrink, (shrink - 1) / 2], [0, 0, 1]])
    warped = cv2.warpAffine(
        np.ascontiguousarray(whole(data, shrink)), affine @ enlarge, (size, size)
    )
    return np.asarray(warped, np.uint8)


def assert_same_crop(found: Pixels, expected: Pixels) -> None:
    """Equal but for OpenCV's places in single precision, which depend on where a picture begins.

    They move a sample by 1e-4 pixels, hence a few of them over the middle between two numbers. (Of
    round numbers for a crop's place more than a few would lie right in the middle.)
    """
    off = np.abs(found.astype(int) - expected)
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


# Pixels ------------------------------------------------------------------------------------------

KINDS = ["tiled", "tiled by rows", "plain", "progressive", "png", "small", "4:2:0 strip"]


@pytest.fixture(scope="module")
def sources() -> list[bytes]:
    picture = photo(320, 240, 0)
    return [
        encode(picture, restart=4),
        encode(picture, restart=20),
        encode(picture),
        encode(picture, progressive=1),
        bytes(cv2.imencode(".png", photo(150, 110, 1))[1]),
        encode(photo(23, 31, 2)),
        encode(photo(640, 20, 3), restart=5),
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, sources: list[bytes]) -> Store:
    pictures: list[bytes | Encoded] = []
    for data in sources:
        tiles = data[:2] == b"\xff\xd8" and jpeg.read_frame(data).restart_interval > 0
        lengths = jpeg.tile_lengths(data, jpeg.read_frame(data)) if tiles else None
        pictures.append(Encoded(memoryview(data), lengths))
    sizes = [whole(data, 1).shape[1::-1] for data in sources]
    return write_store(tmp_path_factory.mktemp("crops") / "all.zarr", pictures, sizes)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None)
@given(
    across=st.floats(-0.2, 1.2),
    down=st.floats(-0.2, 1.2),
    side=st.floats(0.05, 2.5),
    rotation=st.floats(-180, 180),
    flip=st.booleans(),
)
def test_a_crop_is_what_the_whole_picture_gives(
    kind: str,
    store: Store,
    sources: list[bytes],
    across: float,
    down: float,
    side: float,
    rotation: float,
    flip: bool,
) -> None:
    image = KINDS.index(kind)
    height, width = whole(sources[image], 1).shape[:2]
    centre = [across * width + 0.0371, down * height + 0.0217]
    affine = geometry.crop_affine(
        centre, side * max(width, height) * 1.00137, SIZE, rotation + 0.0113, flip
    )
    out = np.full((SIZE, SIZE, 3), 7, np.uint8)
    cut(store, len(store) - 1 - image, affine, out)
    assert_same_crop(out, from_whole(sources[image], affine))


def test_the_fixture_holds_tiled_and_plain_pictures(store: Store) -> None:
    tiled = [store.encoded(image).lengths is not None for image in range(len(KINDS))]
    assert tiled == [True, True, False, False, False, False, True]


def test_a_crop_beside_the_picture_is_black_and_needs_no_decoding(tmp_path: Path) -> None:
    # The codes are broken, so that any decoding would fail.
    data = encode(photo(64, 64, 0), progressive=1)[:-200] + b"\xff\xd9"
    store = write_store(tmp_path / "s.zarr", [data], [(64, 64)])
    out = np.full((SIZE, SIZE, 3), 7, np.uint8)
    cut(store, 0, geometry.crop_affine([200, 30], 60, SIZE), out)
    assert not out.any()


def test_crops_of_a_folder_of_untouched_pictures(tmp_path: Path, sources: list[bytes]) -> None:
    for number, data in enumerate(sources):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    sizes = [whole(data, 1).shape[1::-1] for data in sources]
    store = write_store(tmp_path / "s.zarr", None, sizes, picture_root=str(tmp_path))
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    for row in range(len(store)):
        image = len(store) - 1 - row
        affine = geometry.crop_affine(np.array(sizes[image]) / 2, 0.7 * max(sizes[image]), SIZE, 20)
        cut(store, row, affine, out)
        assert_same_crop(out, from_whole(sources[image], affine))


@pytest.mark.parametrize("size", [40, 400])
def test_a_store_of_crops_gives_the_same_crops_as_the_pictures(tmp_path: Path, size: int) -> None:
    # Soft and grey pictures: what is left of a difference is that of interpolating twice and of
    # rounding, while a place that is half a pixel off would be 2 levels on average.
    pictures = [photo(300, 200, seed, 9)[..., :1].repeat(3, -1) for seed in range(3)]
    boxes = np.array([[100, 60, 70, 80, 1], [2, 5, 60, 90, 1], [240, 130, 60, 70, 1]], np.float32)
    made = Crops(size, factor=1, quality=100)
    crops = [
        next(made.cut(picture, box[None])) for picture, box in zip(pictures, boxes, strict=True)
    ]
    store = write_store(tmp_path / "c.zarr", None, [(300, 200)] * 3, crops)
    white = bytes(cv2.imencode(".png", np.full((200, 300, 3), 255, np.uint8))[1])
    rng = np.random.default_rng(0)
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    centre, side = geometry.xywh_to_square(boxes)
    for row in range(3):
        png = bytes(cv2.imencode(".png", pictures[row])[1])
        for _ in range(8):
            affine = geometry.crop_affine(
                centre[row],
                side[row] * 1.2 * rng.uniform(0.75, 1.25),
                SIZE,
                rng.uniform(-30, 30),
                rng.random() < 0.5,
            )
            cut(store, row, affine, out)
            inside = cv2.erode(from_whole(white, affine), np.ones((9, 9))) == 255
            outside = cv2.dilate(from_whole(white, affine), np.ones((9, 9))) == 0
            off = np.abs(out.astype(int) - from_whole(png, affine))
            assert off[inside].mean() < 0.75
            assert (out[outside] < 3).all()


def test_threads_give_the_same_crops(store: Store, sources: list[bytes]) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(store), 200)
    affines = [
        geometry.crop_affine(rng.uniform(0, 200, 2), rng.uniform(30, 500), SIZE, rng.uniform(0, 90))
        for _ in rows
    ]

    def make(number: int) -> Pixels:
        out = np.empty((SIZE, SIZE, 3), np.uint8)
        cut(store, int(rows[number]), affines[number], out)
        return out

    alone = [make(number) for number in range(len(rows))]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(make, range(len(rows))))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


# Damage ------------------------------------------------------------------------------------------


def test_a_damaged_picture_is_named_with_its_row_and_the_reason(tmp_path: Path) -> None:
    whole_file = encode(photo(160, 160, 0))
    (tmp_path / "0.jpg").write_bytes(whole_file)
    (tmp_path / "1.jpg").write_bytes(whole_file[: len(whole_file) // 2])
    sizes = [(160, 160)] * 2
    store = write_store(tmp_path / "s.zarr", None, sizes, picture_root=str(tmp_path))
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    below = geometry.crop_affine([80, 120], 60, SIZE)
    cut(store, 1, below, out)
    with pytest.raises(DamagedPictureError, match=r"instance row 0, picture 1\.jpg.*premature end"):
        cut(store, 0, below, out)
    # What the upper half shows is whole.
    above = geometry.crop_affine([80.037, 30.021], 40.137, SIZE, 0.3)
    cut(store, 0, above, out)
    assert_same_crop(out, from_whole(whole_file, above))


@pytest.mark.parametrize("crops", [False, True])
def test_bytes_that_changed_in_a_store_are_a_damaged_store(tmp_path: Path, crops: bool) -> None:
    data = encode(photo(160, 160, 0))
    crop = Crop(memoryview(data), 0.0, 0.0, 160.0)
    path = tmp_path / "s.zarr"
    write_store(path, None if crops else [data], [(160, 160)], [crop] if crops else None)
    table = "instances" if crops else "images"
    (chunk,) = (file for file in (path / table / "packs").rglob("*") if file.name == "0")
    content = bytearray(chunk.read_bytes())
    at = content.index(data[:600]) + len(data) // 2
    content[at : at + 60] = b"\xff\0" * 30
    chunk.write_bytes(bytes(content))
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    with pytest.raises(DataError, match="checksum") as raised:
        cut(humandata.open(path), 0, geometry.crop_affine([80, 80], 160, SIZE), out)
    assert not isinstance(raised.value, DamagedPictureError)


def test_a_crop_that_is_nowhere_is_an_error_that_names_the_row(store: Store) -> None:
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    for affine in (np.zeros((2, 3)), np.array([[1, 0, np.nan], [0, 1, 0]])):
        with pytest.raises(DataError, match="instance row 2.*a box to crop"):
            cut(store, 2, affine, out)


# Cameras -----------------------------------------------------------------------------------------


@st.composite
def changed_crops(draw: st.DrawFn) -> Geometry:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = 3
    return geometry_of(
        rng.uniform(-100, 1500, (count, 2)).astype(np.float32),
        rng.uniform(20, 900, count).astype(np.float32),
        draw(st.sampled_from([64, 224, 256])),
        rng.uniform(-180, 180, count).astype(np.float32),
        rng.random(count) < 0.5,
    )


def cameras(seed: int, count: int, square: bool = False) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    camera = np.zeros((count, 3, 3))
    camera[:, 0, 0], camera[:, 1, 1] = rng.uniform(300, 2500, (2, count))
    camera[:, :2, 2] = rng.uniform(100, 1200, (count, 2))
    camera[:, 2, 2] = 1
    if square:
        camera[:, 1, 1] = camera[:, 0, 0]
    else:
        camera[:, 0, 1] = rng.uniform(-50, 50, count)
    return camera


@settings(max_examples=60, deadline=None)
@given(crop=changed_crops(), seed=st.integers(0, 10_000))
def test_the_camera_of_a_crop_projects_changed_joints_onto_the_changed_picture(
    crop: Geometry, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    count = len(crop.side)
    points = rng.uniform([-1.5, -1.5, 2], [1.5, 1.5, 9], (count, 54, 3))
    camera = cameras(seed, count)
    seen = geometry.project(points, camera)
    one = np.ones((count, 54, 1))
    changed = transform(
        {
            "keypoints2d": np.dstack([seen, one]),
            "keypoints3d": np.dstack([points, one]),
            "pose": np.zeros((count, 24, 3)),
            "has_smpl": np.zeros(count, bool),
        },
        crop,
    )
    found = geometry.project(changed["keypoints3d"][..., :3], crop_intrinsics(camera, crop))
    expected = changed["keypoints2d"][..., :2]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_an_unknown_camera_stays_unknown() -> None:
    crop = geometry_of(
        np.full((2, 2), 50, np.float32),
        np.full(2, 80, np.float32),
        64,
        np.array([10, 0], np.float32),
        np.array([True, False]),
    )
    camera = np.stack([np.zeros((3, 3)), cameras(0, 1)[0]])
    found = crop_intrinsics(camera, crop)
    assert not found[0].any()
    np.testing.assert_allclose(found[1], geometry.crop_intrinsics(crop.affine[1], camera[1]))


@settings(max_examples=40, deadline=None)
@given(crop=changed_crops(), seed=st.integers(0, 10_000))
def test_the_box_moves_about_the_principal_point_as_the_body_does(
    crop: Geometry, seed: int
) -> None:
    # The rule that `Geometry` gives for CLIFF, against the middle of the box seen as a point.
    count = len(crop.side)
    camera = cameras(seed, count, square=True)
    principal, focal = camera[:, :2, 2], camera[:, 0, 0]
    away = crop.centre - principal
    ray = np.concatenate([away / focal[:, None], np.ones((count, 1))], axis=1)
    joints = np.zeros((count, 54, 4))
    joints[..., :3], joints[..., 3] = ray[:, None] * 3, 1
    still = {
        "keypoints2d": np.zeros((count, 54, 3)),
        "pose": np.zeros((count, 24, 3)),
        "has_smpl": np.zeros(count, bool),
    }
    moved = transform({**still, "keypoints3d": joints}, crop)["keypoints3d"][:, :1, :3]
    away[:, 0] *= np.where(crop.flip, -1, 1)
    angle = np.deg2rad(crop.rotation.astype(np.float64))
    turned = np.stack(
        [
            np.cos(angle) * away[:, 0] + np.sin(angle) * away[:, 1],
            -np.sin(angle) * away[:, 0] + np.cos(angle) * away[:, 1],
        ],
        axis=1,
    )
    found = geometry.project(moved, camera)[:, 0]
    np.testing.assert_allclose(found, principal + turned, atol=1e-6)

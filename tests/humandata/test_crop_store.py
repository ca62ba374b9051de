"""Crop stores: each person's pixels where the stored square says, and all that a loader may cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from coco_release import write_coco
from hypothesis import given, settings
from hypothesis import strategies as st

import humandata
from humandata import DataError, HumandataError, geometry, inspection
from humandata.cli.main import cli
from humandata.converters.converter import Columns, Report, Unit, convert
from humandata.cropping import ENLARGEMENT, RANDOM_SCALE, TURN_DEGREES, Crops, cut_square
from humandata.pictures import decode, encode_jpeg
from humandata.store import Crop

BOXES = {  # x, y, width, height in pictures of 640 x 480
    "small": [300.0, 200, 30, 50],
    "large": [200.5, 100.25, 150, 290],
    "over the edge": [-40.0, -30, 120, 200],
    "outside": [900.0, 500, 80, 90],
    "none": [10.0, 10, 20, 20],  # and a confidence of 0, see `made`
}


def slope(width: int, height: int, across: bool) -> np.ndarray:
    """Grey pixels whose value tells the column (or row): 0.35 per pixel, plus 10."""
    value = 10 + 0.35 * np.arange(width if across else height)
    plane = np.broadcast_to(value if across else value[:, None], (height, width))
    return np.repeat(np.rint(plane).astype(np.uint8)[..., None], 3, axis=2)


def release(root: Path, boxes: dict[str, list[float]] = BOXES) -> Path:
    """A COCO release: one picture that tells the column and one that tells the row, equal boxes."""
    write_coco(root)
    file = root / "annotations/person_keypoints_train2017.json"
    told = json.loads(file.read_text())
    person = told["annotations"][0]
    told |= {"images": [], "annotations": []}
    for number, across in enumerate((True, False)):
        data = encode_jpeg(slope(640, 480, across), 98)
        (root / f"train2017/{number}.jpg").write_bytes(data)
        told["images"].append(
            {"id": number, "file_name": f"{number}.jpg", "width": 640, "height": 480}
        )
        told["annotations"] += [
            person | {"id": 10 * number + i, "image_id": number, "bbox": box}
            for i, box in enumerate(boxes.values())
        ]
    file.write_text(json.dumps(told))
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[humandata.Store, Report]:
    from humandata.converters import coco

    read = coco.read

    def without_some_boxes(unit: Unit) -> Columns:
        columns = read(unit)
        columns.instances["bbox_xywh"][columns.instances["source_id"] % 10 == 4, 4] = 0
        return columns

    folder = tmp_path_factory.mktemp("crops")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco, "read", without_some_boxes)
        report = convert("coco", release(folder / "raw"), folder / "s.zarr", workers=1, crop=64)
    return humandata.open(folder / "s.zarr"), report


def rows_of(store: humandata.Store, name: str) -> tuple[int, int]:
    """Rows of one kind of box, in the picture that tells columns and in the one that tells rows."""
    ids = store.instances["source_id"][:].tolist()
    number = list(BOXES).index(name)
    return ids.index(number), ids.index(10 + number)


@pytest.mark.parametrize("name", ["small", "large", "over the edge"])
def test_a_pixel_of_a_crop_shows_the_place_that_its_square_says(
    made: tuple[humandata.Store, Report], name: str
) -> None:
    store, _ = made
    for axis, row in enumerate(rows_of(store, name)):
        crop = store.crop(row)
        assert crop is not None
        found = decode(crop.data)[..., 1].astype(float)
        count = len(found)
        start = (crop.left, crop.top)[axis]
        place = start - 0.5 + (np.arange(count) + 0.5) * crop.side / count
        profile = found.mean(axis=axis)  # along the axis across which the picture does not change
        inside = [(crop.left, 640), (crop.top, 480)]
        shares = []
        for first, size in inside:
            centre = first - 0.5 + (np.arange(count) + 0.5) * crop.side / count
            shares.append((centre > 8) & (centre < size - 9))
        seen = shares[axis]
        rows = shares[1 - axis]
        lines = found[rows] if axis == 0 else found[:, rows].T
        profile = lines.mean(axis=0)
        error = profile[seen] - (10 + 0.35 * place[seen])
        # A crop pixel of the large box is 9 pixels wide: half a pixel off would be 1.6.
        assert abs(error.mean()) < 0.12
        assert abs(error).max() < 2.5


def test_the_loaders_square_becomes_the_size_asked_for_and_never_more_than_it_has(
    made: tuple[humandata.Store, Report],
) -> None:
    store, _ = made
    crop = store.crop(rows_of(store, "large")[0])
    assert crop is not None
    scale = len(decode(crop.data)) / crop.side
    assert 290 * ENLARGEMENT * scale == pytest.approx(64, rel=0.01)
    small = store.crop(rows_of(store, "small")[0])
    assert small is not None
    assert len(decode(small.data)) == small.side


def test_what_lies_outside_of_the_picture_is_black(made: tuple[humandata.Store, Report]) -> None:
    store, _ = made
    crop = store.crop(rows_of(store, "over the edge")[0])
    assert crop is not None
    assert crop.left < 0
    pixels = decode(crop.data)
    edge = int(-crop.left * len(pixels) / crop.side)
    assert pixels[:, : edge - 2].max() <= 6
    outside = store.crop(rows_of(store, "outside")[0])
    assert outside is not None
    assert decode(outside.data).max() == 0


def test_a_person_without_a_box_has_no_crop_and_is_counted(
    made: tuple[humandata.Store, Report],
) -> None:
    store, report = made
    for row in rows_of(store, "none"):
        assert store.crop(row) is None
        assert store.instances["crop_length"][row] == 0
        store.check_crop(row)
    assert (report.crops, report.without_crop) == (8, 2)
    counts = store.attributes["counts"]
    assert (counts["crops"], counts["without_crop"]) == (8, 2)


def test_a_crop_store_holds_no_pictures_and_says_what_it_holds(
    made: tuple[humandata.Store, Report],
) -> None:
    store, _ = made
    assert store.has_crops
    assert not store.has_pictures
    assert "pack" not in store.images
    assert not (store.path / "images/packs").exists()
    said = store.attributes["crops"]
    assert (said["lossy"], said["size"], said["quality"]) == (True, 64, 92)
    assert said["margin"] > 1.25
    # The pictures are found as long as the raw folder is in place, as with --pictures none.
    assert decode(store.picture(0)).shape == (480, 640, 3)
    np.testing.assert_array_equal(store.images["width"][:], [640, 640])
    assert inspection.summarise(store)["crops"]["stored"] == 8
    told = CliRunner().invoke(cli, ["inspect", str(store.path)]).output
    assert "8 stored" in told
    assert "lossy; box 64 px wide, quality 92" in told


def test_plain_zarr_reads_a_crop(made: tuple[humandata.Store, Report]) -> None:
    store, _ = made
    instances = zarr.open_group(store.path, mode="r")["instances"]
    pack, offset, length = (
        int(instances[f"crop_{name}"][1])  # type: ignore[index,arg-type]
        for name in ("pack", "offset", "length")
    )
    data = instances[f"packs/{pack:05d}"][offset : offset + length]  # type: ignore[index]
    crop = store.crop(1)
    assert crop is not None
    assert data.tobytes() == bytes(crop.data)
    np.testing.assert_array_equal(instances["crop_square"][1], crop[1:])  # type: ignore[index]


def test_a_crop_store_is_sound_and_a_damaged_crop_is_found(
    made: tuple[humandata.Store, Report], tmp_path: Path
) -> None:
    store, _ = made
    checks = {check.name: check for check in inspection.verify(store)}
    for name in ("checksums", "structure", "references", "pictures", "schema", "fingerprint"):
        assert checks[name].passed, checks[name]
    assert "8 crops" in checks["pictures"].summary
    shutil.copytree(store.path, tmp_path / "s.zarr")
    chunk = tmp_path / "s.zarr/instances/packs/00000/c/0"
    content = bytearray(chunk.read_bytes())
    content[int(store.instances["crop_offset"][3]) + 30] ^= 1
    chunk.write_bytes(content)
    damaged = humandata.open(tmp_path / "s.zarr")
    (problem,) = damaged.verify_pictures()
    assert "crop of instances row 3" in problem
    assert "checksum" in problem
    with pytest.raises(DataError, match=r"crop of instances row 3 \(id \d+\)"):
        damaged.check_crop(3)
    shutil.rmtree(tmp_path / "s.zarr/instances/packs/00000")
    with pytest.raises(DataError, match="instances/packs/00000"):
        humandata.open(tmp_path / "s.zarr").crop(0)


def test_workers_and_interruptions_do_not_change_a_crop_store(
    made: tuple[humandata.Store, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    boxes = {name: box for name, box in BOXES.items() if name != "none"}
    raw = release(tmp_path / "raw", boxes)
    monkeypatch.setattr("humandata.converters.converter.PICTURES_PER_PACK", 1)
    two = convert("coco", raw, tmp_path / "two.zarr", workers=2, crop=64)
    with monkeypatch.context() as patch:
        patch.setattr("humandata.writer.StoreWriter.commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert("coco", raw, tmp_path / "again.zarr", workers=1, crop=64)
    # One pack of the finished ones is lost, as if the process had been killed while writing it.
    journal = tmp_path / "again.zarr.partial/journal.jsonl"
    lines = [line for line in journal.read_text().splitlines() if '"pack 1"' not in line]
    journal.write_text("\n".join(lines) + "\n")
    shutil.rmtree(tmp_path / "again.zarr.partial/store/instances/packs/00001")
    (tmp_path / "again.zarr.partial/crops/00001.npy").unlink()
    again = convert("coco", raw, tmp_path / "again.zarr", workers=1, crop=64)
    assert again.resumed
    assert again.fingerprint == two.fingerprint
    store = humandata.open(tmp_path / "two.zarr")
    assert [store.crop(row) for row in range(len(store))] == [
        crop for row in range(len(made[0])) if (crop := made[0].crop(row)) is not None
    ]


def test_people_in_damaged_pictures_are_rejected_as_in_any_store(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw")
    file = raw / "train2017/0.jpg"
    file.write_bytes(file.read_bytes()[:200])
    (raw / "train2017/1.jpg").unlink()
    report = convert("coco", raw, tmp_path / "s.zarr", workers=1, crop=64)
    people = len(BOXES)
    assert report.rejected == {"damaged_picture": people, "missing_picture": people}
    assert report.instances == 0


def test_quality_is_chosen_and_recorded(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw")
    size = {}
    for quality in (50, 92):
        path = tmp_path / f"{quality}.zarr"
        words = ["convert", "coco", str(raw), str(path), "--crop", "64", "--workers", "1"]
        told = CliRunner().invoke(cli, [*words, "--crop-quality", str(quality)])
        assert told.exit_code == 0, told.output
        assert "no box to crop" in told.output
        store = humandata.open(path)
        assert store.attributes["crops"]["quality"] == quality
        size[quality] = int(store.instances["crop_length"][:].sum())
    assert size[50] < size[92]


def test_crops_and_whole_pictures_exclude_each_other(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw")
    with pytest.raises(HumandataError, match="leave out --crop or --pictures tiled"):
        convert("coco", raw, tmp_path / "s.zarr", pictures="tiled", crop=64)
    words = ["convert", "coco", str(raw), str(tmp_path / "s.zarr")]
    for wrong in (["--crop", "64", "--pictures", "original"], ["--crop-quality", "80"]):
        told = CliRunner().invoke(cli, [*words, *wrong])
        assert told.exit_code == 2
        assert "--crop" in told.output
    text = CliRunner().invoke(cli, ["convert", "--help"]).output
    for word in ("tiled", "original", "none", "--crop", "lossy"):
        assert word in text


def test_joining_keeps_crops_beside_pictures(
    made: tuple[humandata.Store, Report], tmp_path: Path
) -> None:
    store, _ = made
    picture = encode_jpeg(slope(64, 64, True))
    with humandata.create(tmp_path / "b.zarr", dataset="frames") as writer:
        writer.append(
            images={"id": np.uint64([1]), "path": ["a.jpg"], "height": [64], "width": [64]},
            instances={
                "id": np.uint64([1]),
                "image": np.zeros(1, int),
                "bbox_xywh": np.array([[1.0, 2, 30, 40, 1]]),
            },
            pictures=[picture],
            field_attributes={
                "bbox_xywh": {
                    k: store.instances["bbox_xywh"].attributes[k] for k in ("rule", "factor")
                }
            },
        )
    joined = humandata.concatenate([store.path, tmp_path / "b.zarr"], tmp_path / "c.zarr")
    assert joined.has_crops
    assert joined.has_pictures
    for row in range(len(store)):
        a, b = store.crop(row), joined.crop(row)
        assert (a is None) == (b is None)
        assert a is None or b is None or (a.data == b.data and a[1:] == b[1:])
    assert joined.crop(len(store)) is None
    assert joined.picture(joined.images.rows - 1) == picture
    assert joined.attributes["crops"] == [store.attributes["crops"], None]
    assert joined.verify_pictures() == []


@pytest.mark.parametrize("per_pack", [1, 512])
def test_crops_of_ones_own_can_be_appended(
    tmp_path: Path, per_pack: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("humandata.writer.PICTURES_PER_PACK", per_pack)
    data = encode_jpeg(slope(32, 32, True))
    one: dict[str, Any] = {
        "images": {"id": np.uint64([1]), "path": ["a.jpg"], "height": [64], "width": [64]},
        "instances": {
            "id": np.uint64([1, 2]),
            "image": np.zeros(2, int),
            "bbox_xywh": np.array([[1.0, 2, 30, 40, 1]] * 2),
        },
        "field_attributes": {"bbox_xywh": {"rule": "annotator", "factor": 1.0}},
    }
    with humandata.create(tmp_path / "s.zarr", dataset="mine") as writer:
        writer.append(**one, crops=[None, Crop(memoryview(data), -3.5, 2.0, 48.0)])
        with pytest.raises(HumandataError, match="1 crops for 2 rows of instances"):
            writer.append(**one, crops=[None])
    store = humandata.open(tmp_path / "s.zarr")
    assert store.crop(0) is None
    assert store.crop(1) == Crop(memoryview(data), -3.5, 2.0, 48.0)


def test_the_enlargement_is_that_of_the_training_crops() -> None:
    crops = pytest.importorskip("humandata.training.crops")
    assert ENLARGEMENT == crops.ENLARGEMENT


@settings(deadline=None)
@given(
    box=st.tuples(*[st.floats(-500, 3000)] * 2, *[st.floats(1, 2000)] * 2),
    scale=st.floats(0.5, RANDOM_SCALE),
    turn=st.floats(-TURN_DEGREES, TURN_DEGREES),
    flip=st.booleans(),
    factor=st.sampled_from([1.0, 1.2]),
)
def test_a_crop_holds_whatever_a_loader_may_cut(
    box: tuple[float, float, float, float], scale: float, turn: float, flip: bool, factor: float
) -> None:
    (left, top, side), count = (a[0] for a in Crops(256, factor).squares(np.array([[*box, 1.0]])))
    centre, longer = geometry.xywh_to_square(np.array(box))
    wanted = float(longer) * (ENLARGEMENT if factor == 1 else 1) * scale
    back = geometry.invert_affine(geometry.crop_affine(centre, wanted, 224, turn, flip))
    corners = geometry.apply_affine(back, np.array([[0.0, 0], [0, 223], [223, 0], [223, 223]]))
    # Between the centres of the first and the last pixel of the crop there is no black.
    step = side / count
    assert (corners >= np.array([left, top]) - 0.5 + step / 2).all()
    assert (corners <= np.array([left, top]) - 0.5 + side - step / 2).all()


def area_average(picture: np.ndarray, left: int, top: int, side: int, count: int) -> np.ndarray:
    """Exact mean over the area of each new pixel, by differences of the integral over the plane.

    The integral of a picture of constant pixels is bilinear between the corners of its pixels.
    """
    height, width = picture.shape[:2]
    integral = np.zeros((height + 1, width + 1, 3))
    integral[1:, 1:] = picture.cumsum(0, dtype=float).cumsum(1)

    def at(axis: int, values: np.ndarray, places: np.ndarray) -> np.ndarray:
        places = np.clip(places, 0, values.shape[axis] - 1)
        low = np.minimum(np.floor(places).astype(int), values.shape[axis] - 2)
        part = (places - low).reshape([-1 if i == axis else 1 for i in range(3)])
        return values.take(low, axis) * (1 - part) + values.take(low + 1, axis) * part

    edges = np.arange(count + 1) * side / count
    found = at(1, at(0, integral, top + edges), left + edges)
    return np.diff(np.diff(found, axis=0), axis=1) / (side / count) ** 2


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    corner=st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
    side=st.integers(1, 130),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_scaling_down_averages_over_the_area_of_each_pixel(
    size: tuple[int, int], corner: tuple[int, int], side: int, share: float, seed: int
) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    count = max(1, round(side * share))
    found = cut_square(picture, *corner, side, count)
    expected = area_average(picture, *corner, side, count)
    assert found.shape == (count, count, 3)
    assert abs(found - expected).max() <= 0.51


def test_a_crop_that_is_not_scaled_has_the_pixels_of_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    np.testing.assert_array_equal(cut_square(picture, 30, 20, 50, 50), picture[20:70, 30:80])
    assert cv2.countNonZero(cut_square(picture, 500, 20, 50, 50)[..., 0]) == 0


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 0, 0, 1],
        [5, 5, 10, 10, 0],
        [np.nan, 0, 5, 5, 1],
        [0, 0, np.inf, 5, 1],
        [0, 0, 1e9, 5, 1],
    ],
)
def test_boxes_that_enclose_nothing_are_not_cut(box: list[float]) -> None:
    squares, pixels = Crops(256, 1.0).squares(np.array([box]))
    assert squares.tolist() == [[0, 0, 0]]
    assert pixels.tolist() == [0]
    assert list(Crops(256).cut(np.zeros((8, 8, 3), np.uint8), np.array([box]))) == [None]

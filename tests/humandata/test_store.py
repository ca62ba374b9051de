"""A store: what is written comes back, is whole or not there, and is plain Zarr."""

from __future__ import annotations

import copy
import hashlib
import itertools
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import xarray
import zarr

import humandata
from humandata import DataError, HumandataError
from humandata.pictures import encode_jpeg
from humandata.schema import row_ids
from humandata.zarr_files import write_json


def picture(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    return encode_jpeg(rng.integers(0, 255, (30 + seed, 40, 3), np.uint8))


def rows(images: int = 4, instances: int = 6, first: int = 0) -> dict[str, Any]:
    """Arguments of append: some pictures with some people in them."""
    rng = np.random.default_rng(first)
    box = np.hstack([rng.uniform(1, 30, (instances, 4)), np.ones((instances, 1))])
    return {
        "images": {
            "id": row_ids("test/image", np.arange(first, first + images)),
            "path": [f"ordner/bild_ä{first + i}.jpg" for i in range(images)],
            "height": np.arange(30, 30 + images),
            "width": np.full(images, 40),
            "sequence": np.arange(images) % 2 - 1,
        },
        "instances": {
            "id": row_ids("test", np.arange(first, first + instances)),
            "image": np.arange(instances) % images,
            "bbox_xywh": box,
            "keypoints2d": rng.uniform(0, 30, (instances, 17, 3)),
            "smpl/betas": rng.normal(size=(instances, 10)),
        },
        "sequences": {"name": ["walk"]},
        "field_attributes": {
            "keypoints2d": {"convention": "coco"},
            "bbox_xywh": {"rule": "annotator", "factor": 1.0},
        },
    }


def write(path: Path, *appends: dict[str, Any], **settings: Any) -> humandata.Store:
    with humandata.create(path, dataset="test", split="train", **settings) as writer:
        for arguments in appends or (rows(),):
            writer.append(**arguments)
    return humandata.open(path)


def test_columns_come_back_as_they_were_appended(tmp_path: Path) -> None:
    first, second = rows(), rows(3, 5, first=100)
    store = write(tmp_path / "s.zarr", first, second)
    assert len(store) == 11
    assert store.images["path"][:] == first["images"]["path"] + second["images"]["path"]
    assert store.images["path"][-1] == second["images"]["path"][-1]
    for name in ("keypoints2d", "smpl/betas", "bbox_xywh"):
        both = np.concatenate([first["instances"][name], second["instances"][name]])
        np.testing.assert_array_equal(store.instances[name][:], both.astype(np.float32))
    shifted = np.concatenate([first["instances"]["image"], second["instances"]["image"] + 4])
    np.testing.assert_array_equal(store.instances["image"][:], shifted)
    np.testing.assert_array_equal(store.images["sequence"][:], [-1, 0, -1, 0, -1, 1, -1])
    assert store.convention("keypoints2d") == "coco"
    assert store.instances["bbox_xywh"].attributes["unit"] == "pixel"


def test_plain_zarr_and_xarray_read_equal_values(tmp_path: Path) -> None:
    store = write(tmp_path / "s.zarr")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    for name in store.instances:
        np.testing.assert_array_equal(group[f"instances/{name}"][...], store.instances[name][:])
    instances = xarray.open_zarr(tmp_path / "s.zarr", group="instances", consolidated=False)
    assert instances["keypoints2d"].dims == ("instance", "keypoint2d", "xyc")
    np.testing.assert_array_equal(instances["keypoints2d"], store.instances["keypoints2d"][:])
    images = xarray.open_zarr(tmp_path / "s.zarr", group="images", consolidated=False)
    starts = [*images["path_offset"].values.tolist(), None]
    text = images["path_bytes"].values.tobytes()
    assert [text[a:b].decode() for a, b in itertools.pairwise(starts)] == store.images["path"][:]


def test_every_array_is_uncompressed_checked_unsharded_and_named(tmp_path: Path) -> None:
    write(tmp_path / "s.zarr", rows() | {"pictures": [picture(i) for i in range(4)]})
    arrays = 0
    for name, node in zarr.open_group(tmp_path / "s.zarr", mode="r").members(max_depth=None):
        if isinstance(node, zarr.Array):
            arrays += 1
            codecs = [codec.to_dict()["name"] for codec in node.metadata.codecs]  # type: ignore[union-attr]
            assert codecs == ["bytes", "crc32c"], name
            assert all(node.metadata.dimension_names), name  # type: ignore[union-attr,arg-type]
    assert arrays > 12


@pytest.mark.filterwarnings("error")
def test_zarr_opens_a_store_without_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "s.zarr", rows() | {"pictures": [picture(i) for i in range(4)]})
    assert list(zarr.open_group(tmp_path / "s.zarr", mode="r").members(max_depth=None))


def test_pictures_come_back_byte_for_byte_and_damaged_ones_take_their_people_along(
    tmp_path: Path,
) -> None:
    pictures = [picture(i) for i in range(4)]
    pictures[1] = pictures[1][:50]
    store = write(tmp_path / "s.zarr", rows() | {"pictures": pictures})
    assert store.images.rows == 3
    assert [store.picture(row) for row in range(3)] == [pictures[0], pictures[2], pictures[3]]
    # Six people in four pictures, 0 1 2 3 0 1: those of picture 1 are gone, the rest renumbered.
    np.testing.assert_array_equal(store.instances["image"][:], [0, 1, 2, 0])
    assert store.attributes["counts"]["rejected"] == {"damaged_picture": 2}
    assert store.verify_pictures() == []


def test_pictures_never_cross_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humandata.packing.MAX_BLOB_CHUNK", 5000)
    pictures = [picture(i) for i in range(4)]
    store = write(tmp_path / "s.zarr", rows() | {"pictures": pictures})
    assert [store.picture(row) for row in range(4)] == pictures
    chunk = zarr.open_array(tmp_path / "s.zarr/images/packs/00000").chunks[0]
    offsets, lengths = store.images["offset"][:], store.images["length"][:]
    np.testing.assert_array_equal(offsets // chunk, (offsets + lengths - 1) // chunk)
    assert (offsets // chunk).max() >= 1


def test_a_changed_byte_of_a_picture_is_found(tmp_path: Path) -> None:
    store = write(tmp_path / "s.zarr", rows() | {"pictures": [picture(i) for i in range(4)]})
    pack = tmp_path / "s.zarr/images/packs/00000/c/0"
    content = bytearray(pack.read_bytes())
    content[int(store.images["offset"][2]) + 20] ^= 1
    pack.write_bytes(content)
    (problem,) = humandata.open(tmp_path / "s.zarr").verify_pictures()
    assert "bild_ä2.jpg" in problem


def test_equal_content_has_an_equal_fingerprint_and_any_change_another(tmp_path: Path) -> None:
    one = write(tmp_path / "a.zarr")
    same = write(tmp_path / "b.zarr")
    assert one.fingerprint == same.fingerprint
    changed = copy.deepcopy(rows())
    changed["instances"]["keypoints2d"][3, 5, 1] += 1
    renamed = copy.deepcopy(rows())
    renamed["images"]["path"][2] += "x"
    other_rule = copy.deepcopy(rows())
    other_rule["field_attributes"]["bbox_xywh"]["factor"] = 1.2
    for name, arguments in (("c", changed), ("d", renamed), ("e", other_rule)):
        assert write(tmp_path / f"{name}.zarr", arguments).fingerprint != one.fingerprint


def test_how_rows_are_divided_into_appends_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    whole, first, second = rows(4, 4), rows(4, 4), rows(4, 4)
    for table in ("images", "instances"):
        for name, values in whole[table].items():
            first[table][name], second[table][name] = values[:2], values[2:]
    second["instances"]["image"] = second["instances"]["image"] - 2
    second["sequences"] = {}
    for part in (whole, first, second):
        part["images"]["sequence"] = np.full(len(part["images"]["path"]), -1)
    one = write(tmp_path / "a.zarr", whole)
    two = write(tmp_path / "b.zarr", first, second)
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize(
    ("field", "row", "value", "rule"),
    [
        ("keypoints2d", 3, np.nan, "finite"),
        ("bbox_xywh", 2, -5.0, "positive"),
        ("smpl/betas", 1, np.inf, "finite"),
    ],
)
def test_rows_that_break_the_schema_are_refused_with_array_row_and_rule(
    tmp_path: Path, field: str, row: int, value: float, rule: str
) -> None:
    arguments = rows()
    arguments["instances"][field][row] = np.where(
        np.arange(arguments["instances"][field][row].size).reshape(
            arguments["instances"][field][row].shape
        )
        % 5
        == 2,
        value,
        1,
    )
    with pytest.raises(HumandataError, match=f"instances/{field}, row {row}: .*{rule}"):
        write(tmp_path / "s.zarr", arguments)
    with pytest.raises(DataError, match="not finished"):
        humandata.open(tmp_path / "s.zarr")


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    unknown = rows()
    unknown["instances"]["keypoint2d"] = np.zeros((6, 17, 3))
    short = rows()
    short["instances"]["smpl/betas"] = np.zeros((5, 10))
    joints = rows()
    joints["instances"]["keypoints2d"] = np.zeros((6, 18, 3))
    no_convention = rows()
    del no_convention["field_attributes"]["keypoints2d"]
    twice = rows()
    twice["instances"]["id"][4] = twice["instances"]["id"][1]
    beyond = rows()
    beyond["images"]["sequence"][1] = 7
    fraction = rows()
    fraction["images"]["height"] = fraction["images"]["height"] + 0.5
    for number, (arguments, message) in enumerate(
        [
            (unknown, "no field 'keypoint2d'"),
            (short, "differ in length"),
            (joints, r"keypoints2d: must have shape \(rows, 17, 3\)"),
            (no_convention, "must carry the attribute 'convention'"),
            (twice, "instances/id, row 4: must be unique"),
            (beyond, "images/sequence, row 1: must be a row of sequences"),
            (fraction, "images/height must be int32"),
        ]
    ):
        with pytest.raises(HumandataError, match=message):
            write(tmp_path / f"{number}.zarr", arguments)


def test_what_is_not_a_committed_store_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing there"):
        humandata.open(tmp_path / "absent.zarr")
    zarr.create_group(tmp_path / "plain.zarr")
    with pytest.raises(DataError, match="without the attribute 'humandata'"):
        humandata.open(tmp_path / "plain.zarr")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"no zarr\.json"):
        humandata.open(tmp_path / "file")
    write(tmp_path / "s.zarr")
    root = zarr.open_group(tmp_path / "s.zarr").attrs["humandata"]
    for change, message in (({"format": 99}, "newer humandata"), ({"complete": False}, "finished")):
        metadata = {"zarr_format": 3, "node_type": "group"}
        attributes = {"humandata": {**root, **change}}  # type: ignore[dict-item]
        write_json(tmp_path / "s.zarr" / "zarr.json", metadata | {"attributes": attributes})
        with pytest.raises(DataError, match=message):
            humandata.open(tmp_path / "s.zarr")


def test_an_exception_in_the_block_leaves_no_store_and_can_be_begun_anew(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        humandata.create(tmp_path / "s.zarr", dataset="test", split="train") as writer,
    ):
        writer.append(**rows())
        raise ZeroDivisionError
    with pytest.raises(DataError, match="not finished"):
        humandata.open(tmp_path / "s.zarr")
    with pytest.raises(DataError, match="restart=True"):
        humandata.create(tmp_path / "s.zarr", dataset="test", split="train")
    assert len(write(tmp_path / "s.zarr", restart=True)) == 6
    assert not (tmp_path / "s.zarr.partial").exists()


def test_a_store_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    write(tmp_path / "s.zarr")
    with pytest.raises(DataError, match="--overwrite"):
        write(tmp_path / "s.zarr", rows(2, 2))
    assert len(humandata.open(tmp_path / "s.zarr")) == 6
    assert len(write(tmp_path / "s.zarr", rows(2, 2), overwrite=True)) == 2


def test_two_writers_of_one_path_are_told_apart(tmp_path: Path) -> None:
    with humandata.create(tmp_path / "s.zarr", dataset="test") as first:
        with pytest.raises(DataError, match=r"process \d+ on .* at work"):
            humandata.create(tmp_path / "s.zarr", dataset="test")
        first.append(**rows())
    assert len(humandata.open(tmp_path / "s.zarr")) == 6


def test_concatenating_keeps_rows_pictures_and_ids_and_fills_what_one_lacks(tmp_path: Path) -> None:
    first = rows() | {"pictures": [picture(i) for i in range(4)]}
    second = rows(3, 5, first=100) | {"pictures": [picture(i) for i in range(3)]}
    del second["instances"]["smpl/betas"]
    second["instances"]["gender"] = np.full(5, 2)
    a, b = write(tmp_path / "a.zarr", first), write(tmp_path / "b.zarr", second)
    joined = humandata.concatenate([a.path, b.path], tmp_path / "c.zarr")
    assert len(joined) == 11
    ids = np.concatenate([a.instances["id"][:], b.instances["id"][:]])
    np.testing.assert_array_equal(joined.instances["id"][:], ids)
    np.testing.assert_array_equal(joined.instances["gender"][:], [0] * 6 + [2] * 5)
    np.testing.assert_array_equal(joined.instances["smpl/betas"][6:], np.zeros((5, 10)))
    pictures = [a.picture(i) for i in range(4)] + [b.picture(i) for i in range(3)]
    assert [joined.picture(row) for row in range(7)] == pictures
    assert joined.convention("keypoints2d") == "coco"
    with pytest.raises(HumandataError, match="instances/id.*unique|images/id.*unique"):
        humandata.concatenate([a.path, a.path], tmp_path / "d.zarr")


def test_stores_of_different_conventions_are_not_joined_on_disk(tmp_path: Path) -> None:
    other = rows(first=50)
    other["field_attributes"]["keypoints2d"] = {"convention": "coco_wholebody"}
    other["instances"]["keypoints2d"] = np.zeros((6, 133, 3))
    a, b = write(tmp_path / "a.zarr"), write(tmp_path / "b.zarr", other)
    with pytest.raises(HumandataError, match="disagree on convention of keypoints2d"):
        humandata.concatenate([a.path, b.path], tmp_path / "c.zarr")


def test_a_store_pickles_as_its_path(tmp_path: Path) -> None:
    store = write(tmp_path / "s.zarr")
    np.asarray(store.instances["keypoints2d"])
    text = pickle.dumps(store)
    assert len(text) < 300
    again = pickle.loads(text)
    np.testing.assert_array_equal(again.instances["id"][:], store.instances["id"][:])


def test_decoding_ignores_exif_rotation(tmp_path: Path) -> None:
    from humandata.pictures import decode, probe

    data = picture(3)
    # An APP1 segment that says: rotate by 90 degrees (orientation 6).
    tiff = (
        b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
        + bytes(4)
    )
    body = b"Exif\x00\x00" + tiff
    rotated = data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:]
    assert cv2.imdecode(np.frombuffer(rotated, np.uint8), cv2.IMREAD_COLOR).shape == (40, 33, 3)
    assert (probe(rotated).height, probe(rotated).width) == (33, 40)
    np.testing.assert_array_equal(decode(rotated), decode(data))


def test_row_ids_are_stable_and_apart() -> None:
    ids = row_ids("coco/val2017", np.arange(200_000))
    assert len(np.unique(ids)) == 200_000
    assert not np.isin(ids, row_ids("coco/train2017", np.arange(200_000))).any()
    # Written into stores of released versions: must never change.
    np.testing.assert_array_equal(
        row_ids("coco/val2017", np.array([0, 442619])),
        np.array([2650074347975482459, 17909740967593723817], np.uint64),
    )


def test_row_ids_are_splitmix64_of_the_hashed_namespace_plus_the_key() -> None:
    def reference(namespace: str, key: int) -> int:
        word = 2**64 - 1
        digest = hashlib.blake2b(namespace.encode(), digest_size=8).digest()
        z = (int.from_bytes(digest, "little") + key) & word
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        return z ^ (z >> 31)

    keys = [0, 1, 442619, 900100000009, -3, 2**62]
    assert row_ids("a/b", np.array(keys)).tolist() == [reference("a/b", k) for k in keys]

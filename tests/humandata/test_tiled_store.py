"""Tiled pictures in a store: the pixels of the release, cut by slicing, readable by anyone."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner
from coco_release import write_coco
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import humandata
from humandata import DataError, HumandataError, inspection
from humandata.cli.main import cli
from humandata.converters.converter import Report, convert
from humandata.packing import _place
from humandata.schema import row_ids
from humandata.zarr_files import MAX_BLOB_CHUNK


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture that compresses as photographs do."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(fine + rng.normal(0, 6, fine.shape), 0, 255).astype(np.uint8)


def encode(picture: np.ndarray, ending: str = ".jpg", **settings: int) -> bytes:
    flags = [v for k, n in settings.items() for v in (getattr(cv2, f"IMWRITE_{k.upper()}"), n)]
    return bytes(cv2.imencode(ending, picture, flags)[1])


def pixels(data: bytes | memoryview) -> np.ndarray:
    """Decoded by a decoder that the store does not use for transcoding."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def rows(pictures: list[Any], first: int = 0) -> dict[str, Any]:
    """Arguments of append: one person in each picture."""
    count = len(pictures)
    numbers = np.arange(first, first + count)
    return {
        "images": {
            "id": row_ids("test/image", numbers),
            "path": [f"{number}.jpg" for number in numbers],
            "height": np.zeros(count),
            "width": np.zeros(count),
        },
        "instances": {
            "id": row_ids("test", numbers),
            "image": np.arange(count),
            "bbox_xywh": np.tile([10.0, 10, 40, 60, 1], (count, 1)),
        },
        "pictures": pictures,
        "field_attributes": {"bbox_xywh": {"rule": "annotator", "factor": 1.0}},
    }


def write(path: Path, pictures: list[Any], first: int = 0, **settings: Any) -> humandata.Store:
    with humandata.create(path, dataset="test", **settings) as writer:
        writer.append(**rows(pictures, first))
    return humandata.open(path)


PICTURES = {
    "4:2:0": encode(smooth(240, 384)),
    "4:4:4": encode(smooth(240, 384, 1), jpeg_sampling_factor=cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    "grey": encode(smooth(200, 256, 2)[..., 0]),
    "progressive": encode(smooth(250, 333, 3), jpeg_progressive=1),
    "no_divisor": encode(smooth(250, 16 * 23, 4)),
}


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> humandata.Store:
    path = tmp_path_factory.mktemp("tiled") / "s.zarr"
    return write(path, list(PICTURES.values()), tiled=True)


@pytest.mark.parametrize(("row", "kind"), list(enumerate(PICTURES)))
def test_a_tiled_picture_has_the_pixels_that_were_given(
    tiled: humandata.Store, row: int, kind: str
) -> None:
    assert tiled.images["tile_count"][row] > 0
    np.testing.assert_array_equal(pixels(tiled.picture(row)), pixels(PICTURES[kind]))


@pytest.mark.parametrize("row", range(len(PICTURES)))
def test_plain_zarr_finds_the_jpeg_and_the_index_behind_it(
    tiled: humandata.Store, row: int
) -> None:
    """By the code in docs/store.md alone: what a reader in any language has to do."""
    page = (Path(__file__).parents[2] / "docs/store.md").read_text(encoding="utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "tile_count" in c)
    names: dict[str, Any] = {}
    code = code.replace("pw3d_test.zarr", str(tiled.path)).replace("row = 0", f"row = {row}")
    exec(code, names)
    jpeg, index, length, count = (names[n] for n in ("jpeg", "lengths", "length", "count"))
    assert count == tiled.images["tile_count"][row]
    assert jpeg == tiled.picture(row) == bytes(tiled.encoded(row).data)
    np.testing.assert_array_equal(index, tiled.encoded(row).lengths)
    assert names["images"]["crc32c"][row] == tiled.images["crc32c"][row]
    # The intervals end where the file does, each with the marker that separates it from the next.
    lengths = index.astype(int)
    ends = length - lengths.sum() + np.cumsum(lengths)
    assert [jpeg[end - 2 : end] for end in ends[:-1]] == [
        bytes([0xFF, 0xD0 + number % 8]) for number in range(count - 1)
    ]
    assert jpeg[ends[-1] - 2 :] == b"\xff\xd9"


def test_a_picture_is_handed_out_without_a_copy(tiled: humandata.Store) -> None:
    once, again = (tiled.encoded(1) for _ in range(2))
    for a, b in ((once.data, again.data), (once.lengths, again.lengths)):
        assert np.shares_memory(np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8))  # type: ignore[call-overload]
    assert once.data.readonly


def test_a_cut_of_what_lies_in_the_store_is_that_part_of_the_picture(
    tiled: humandata.Store,
) -> None:
    from humandata.jpeg import cut

    encoded = tiled.encoded(0)
    assert encoded.lengths is not None
    part = cut(encoded.data, encoded.lengths, (150, 60, 260, 130))
    assert len(part.data) < len(encoded.data) / 2
    found = simplejpeg.decode_jpeg(part.data)[60 - part.top : 130 - part.top]
    whole = simplejpeg.decode_jpeg(PICTURES["4:2:0"])
    np.testing.assert_array_equal(
        found[:, 150 - part.left : 260 - part.left], whole[60:130, 150:260]
    )


def test_pictures_appended_are_kept_byte_for_byte_unless_tiling_is_asked_for(
    tmp_path: Path,
) -> None:
    store = write(tmp_path / "s.zarr", list(PICTURES.values()))
    assert [store.picture(row) for row in range(len(PICTURES))] == list(PICTURES.values())
    assert store.encoded(0).lengths is None
    assert "tile_count" not in store.images
    assert "tiled" not in store.attributes["counts"]


def release(root: Path) -> tuple[Path, dict[str, bytes]]:
    """A COCO release with one more picture of each kind that cannot be tiled."""
    write_coco(root)
    file = root / "annotations/person_keypoints_train2017.json"
    release = json.loads(file.read_text())
    sound = encode(smooth(240, 320, 7))
    contents = {
        "noise.png": encode(smooth(80, 90), ".png"),
        "tiny.jpg": encode(smooth(24, 40)),
        "tiny_too.jpg": encode(smooth(20, 20)),
        # Sound up to the header and with an end marker, but half of the codes are gone.
        "half.jpg": sound[: len(sound) // 2] + b"\xff\xd9",
        "truncated.jpg": sound[: len(sound) // 2],
    }
    for number, (name, data) in enumerate(contents.items()):
        width, height = Image.open(io.BytesIO(data)).size
        (root / "train2017" / name).write_bytes(data)
        release["images"].append(
            {"id": 100 + number, "file_name": name, "height": height, "width": width}
        )
        person = release["annotations"][0]
        release["annotations"].append(person | {"id": 9000 + number, "image_id": 100 + number})
    file.write_text(json.dumps(release))
    return root, {f"train2017/{name}": data for name, data in contents.items()}


def test_pictures_that_cannot_be_tiled_are_kept_as_they_are_counted_and_said(
    tmp_path: Path,
) -> None:
    raw, contents = release(tmp_path / "raw")
    report = convert("coco", raw, tmp_path / "s.zarr", workers=1)
    store = humandata.open(tmp_path / "s.zarr")
    kept = {"not JPEG": 1, "too small to tile": 2, "damaged": 2}
    assert report.tiled == 2
    assert report.kept_untiled == kept
    assert report.images == report.tiled + sum(report.kept_untiled.values())
    assert report.rejected == {}
    for row, path in enumerate(store.images["path"]):
        if path in contents:
            assert store.picture(row) == contents[path]
            assert store.encoded(row).lengths is None
            assert store.images["tile_count"][row] == store.images["tile_width"][row] == 0
    assert any("damaged, such as train2017/half.jpg" in note for note in report.notes)
    assert store.attributes["counts"]["kept_untiled"] == kept
    summary = inspection.summarise(store)["pictures"]
    assert (summary["stored"], summary["tiled"], summary["kept_untiled"]) == (7, 2, kept)
    told = CliRunner().invoke(cli, ["inspect", str(store.path)]).output
    assert "7 stored" in told
    assert "2 of them tiled; 2 kept as is: damaged" in told
    told = (
        CliRunner()
        .invoke(cli, ["convert", "coco", str(raw), str(tmp_path / "t.zarr"), "--workers", "1"])
        .output
    )
    for line in (
        r"tiled +2\b",
        r"kept as is: not JPEG +1\b",
        r"kept as is: too small to tile +2\b",
    ):
        assert re.search(line, told), told


def test_workers_and_interruptions_do_not_change_a_tiled_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    raw, _ = release(tmp_path / "raw")
    reports: list[Report] = []
    for pack, workers in (("1", 1), ("2", 2)):
        monkeypatch.setattr("humandata.converters.converter.PICTURES_PER_PACK", int(pack) * 2)
        reports.append(convert("coco", raw, tmp_path / f"{pack}.zarr", workers=workers))
    again = tmp_path / "again.zarr"
    with monkeypatch.context() as patch:
        patch.setattr("humandata.writer.StoreWriter.commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert("coco", raw, again, workers=1)
    # One pack of the finished ones is lost, as if the process had been killed while writing it.
    journal = tmp_path / "again.zarr.partial/journal.jsonl"
    lines = [line for line in journal.read_text().splitlines() if '"pack 0"' not in line]
    journal.write_text("\n".join(lines) + "\n")
    shutil.rmtree(tmp_path / "again.zarr.partial/store/images/packs/00000")
    reports.append(convert("coco", raw, again, workers=1))
    assert reports[2].resumed
    assert reports[1].fingerprint == reports[2].fingerprint
    assert all(report.kept_untiled == reports[0].kept_untiled for report in reports)


def test_a_picture_that_is_left_out_does_not_count_as_kept(tmp_path: Path) -> None:
    arguments = rows([PICTURES["4:2:0"], encode(smooth(20, 30)), encode(smooth(20, 30))])
    arguments["images"]["width"] = [0, 30, 31]  # the release is wrong about the last
    with humandata.create(tmp_path / "s.zarr", dataset="test", tiled=True) as writer:
        writer.append(**arguments)
    counts = humandata.open(tmp_path / "s.zarr").attributes["counts"]
    assert counts["rejected"] == {"picture_size": 1}
    assert (counts["tiled"], counts["kept_untiled"]) == (1, {"too small to tile": 1})


def test_joining_stores_takes_over_tiles_as_they_are(tmp_path: Path) -> None:
    raw, _ = release(tmp_path / "raw")
    convert("coco", raw, tmp_path / "a.zarr", workers=1)
    a = humandata.open(tmp_path / "a.zarr")
    b = write(tmp_path / "b.zarr", list(PICTURES.values()), first=50, tiled=True)
    c = write(tmp_path / "c.zarr", [PICTURES["4:2:0"]], first=90)
    joined = humandata.concatenate([a.path, b.path, c.path], tmp_path / "d.zarr")
    parts = [(store, row) for store in (a, b, c) for row in range(store.images.rows)]
    for row, (store, old) in enumerate(parts):
        here, there = joined.encoded(row), store.encoded(old)
        assert here.data == there.data
        np.testing.assert_array_equal(here.lengths, there.lengths)
        if "tile_width" in store.images:
            assert joined.images["tile_width"][row] == store.images["tile_width"][old]
    assert joined.attributes["counts"]["tiled"] == 2 + len(PICTURES)
    assert joined.attributes["counts"]["kept_untiled"] == a.attributes["counts"]["kept_untiled"]
    assert joined.verify_pictures() == []


def test_joining_stores_of_one_raw_folder_keeps_where_the_pictures_are(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        write_coco(tmp_path / "raw", split, seed=len(split))
        convert("coco", tmp_path / "raw", tmp_path / f"{split}.zarr", split=split, pictures="none")
    joined = humandata.concatenate(
        [tmp_path / "train2017.zarr", tmp_path / "val2017.zarr"], tmp_path / "both.zarr"
    )
    for row, path in enumerate(joined.images["path"]):
        assert joined.picture(row) == (tmp_path / "raw" / path).read_bytes()


def test_a_tiled_store_is_sound_and_damage_to_its_index_is_found(
    tiled: humandata.Store, tmp_path: Path
) -> None:
    whole = [c for c in inspection.verify(tiled) if c.passed is False and c.fatal]
    assert [c.name for c in whole] == []
    shutil.copytree(tiled.path, tmp_path / "s.zarr")
    chunk = tmp_path / "s.zarr/images/packs/00000/c/0"
    content = bytearray(chunk.read_bytes())
    content[int(tiled.images["offset"][1]) + int(tiled.images["length"][1]) + 4] ^= 1
    chunk.write_bytes(content)
    (problem,) = humandata.open(tmp_path / "s.zarr").verify_pictures()
    assert "picture 1.jpg (image row 1)" in problem
    assert "restart intervals" in problem


def test_a_damaged_picture_is_told_from_a_sound_one_by_its_checksum(
    tiled: humandata.Store, tmp_path: Path
) -> None:
    shutil.copytree(tiled.path, tmp_path / "s.zarr")
    chunk = tmp_path / "s.zarr/images/packs/00000/c/0"
    content = bytearray(chunk.read_bytes())
    content[int(tiled.images["offset"][2]) + 500] ^= 1
    chunk.write_bytes(content)
    store = humandata.open(tmp_path / "s.zarr")
    store.check_picture(1)
    expected = f"{int(store.images['crc32c'][2]):08x}"
    with pytest.raises(DataError, match=rf"2\.jpg \(image row 2\).*checksum {expected}, found"):
        store.check_picture(2)


def test_paths_only_give_the_file_as_it_lies_there(tmp_path: Path) -> None:
    raw, _ = release(tmp_path / "raw")
    convert("coco", raw, tmp_path / "s.zarr", workers=1, pictures="none")
    store = humandata.open(tmp_path / "s.zarr")
    for row, path in enumerate(store.images["path"]):
        assert bytes(store.encoded(row).data) == store.picture(row) == (raw / path).read_bytes()
        assert store.encoded(row).lengths is None
    (raw / store.images["path"][1]).unlink()
    with pytest.raises(DataError, match=r"image row 1 of .*keep the raw folder in place"):
        store.encoded(1)
    store.check_picture(0)


def test_an_unknown_way_to_keep_pictures_is_refused(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw")
    with pytest.raises(HumandataError, match="choose among tiled, original, none"):
        convert("coco", tmp_path / "raw", tmp_path / "s.zarr", pictures="copy")


def test_a_store_replaced_under_its_reader_is_noticed_at_the_next_map(tmp_path: Path) -> None:
    first = list(PICTURES.values())
    store = write(tmp_path / "s.zarr", first)
    held = store.picture(0)
    write(tmp_path / "s.zarr", first[::-1], overwrite=True)
    assert store.picture(0) == held  # the map that is open still shows the old store
    with pytest.raises(DataError, match=r"s\.zarr: .*changed while it was being read"):
        np.asarray(store.instances["bbox_xywh"])
    # Nothing but the root differs here: packs of equal length would be taken for each other.
    other = write(tmp_path / "t.zarr", first)
    os.replace(tmp_path / "t.zarr/zarr.json", tmp_path / "t.json")
    text = (tmp_path / "t.json").read_text().replace(other.fingerprint, store.fingerprint[::-1])
    (tmp_path / "t.zarr/zarr.json").write_text(text)
    with pytest.raises(DataError, match="changed while it was being read"):
        other.picture(0)


def test_a_store_that_is_gone_is_noticed_and_one_that_was_touched_goes_on(tmp_path: Path) -> None:
    store = write(tmp_path / "s.zarr", list(PICTURES.values()))
    os.utime(tmp_path / "s.zarr/zarr.json", (1, 1))
    assert store.picture(0) == PICTURES["4:2:0"]
    shutil.rmtree(tmp_path / "s.zarr")
    with pytest.raises(DataError, match=r"s\.zarr: .*changed while it was being read"):
        np.asarray(store.instances["bbox_xywh"])


def test_a_worker_does_not_open_another_store_than_it_was_sent(tmp_path: Path) -> None:
    text = pickle.dumps(write(tmp_path / "s.zarr", list(PICTURES.values())))
    assert len(pickle.loads(text)) == len(PICTURES)
    write(tmp_path / "s.zarr", [PICTURES["grey"]], overwrite=True)
    with pytest.raises(DataError, match="changed while it was being read"):
        pickle.loads(text)


@pytest.mark.parametrize("missing", ["", "c/0"])
def test_a_missing_pack_is_named(tmp_path: Path, missing: str) -> None:
    store = write(tmp_path / "s.zarr", list(PICTURES.values()))
    gone = tmp_path / "s.zarr/images/packs/00000" / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(DataError, match=r"images/packs/00000"):
        store.picture(0)
    assert len(store.verify_pictures()) == len(PICTURES)


def test_a_picture_that_would_end_outside_of_its_pack_is_named(tmp_path: Path) -> None:
    write(tmp_path / "s.zarr", list(PICTURES.values()))
    chunk = tmp_path / "s.zarr/images/offset/c/0"
    content = bytearray(chunk.read_bytes())
    content[8:16] = (10**9).to_bytes(8, "little")
    chunk.write_bytes(content)
    store = humandata.open(tmp_path / "s.zarr")
    with pytest.raises(DataError, match="images/packs/00000.*a reference to bytes 1,000,000,000"):
        store.encoded(1)
    assert store.encoded(0).data


def test_an_index_that_would_end_outside_of_its_pack_is_found(
    tiled: humandata.Store, tmp_path: Path
) -> None:
    shutil.copytree(tiled.path, tmp_path / "s.zarr")
    chunk = tmp_path / "s.zarr/images/tile_count/c/0"
    content = bytearray(chunk.read_bytes())
    last = len(PICTURES) - 1
    content[4 * last : 4 * last + 4] = (int(tiled.images["tile_count"][last]) + 1).to_bytes(
        4, "little"
    )
    chunk.write_bytes(content)
    checks = {c.name: c for c in inspection.verify(humandata.open(tmp_path / "s.zarr"))}
    assert checks["references"].passed is False
    assert f"images/offset, row {last}" in checks["references"].details[0]


@given(st.lists(st.integers(1, 3 * 2**26), max_size=40))
def test_no_picture_crosses_a_chunk_and_none_overlaps_another(lengths: list[int]) -> None:
    offsets, chunk, end = _place(lengths)
    assert chunk >= min(end, max([*lengths, 1]))
    assert chunk <= max([MAX_BLOB_CHUNK, *lengths])
    for offset, length in zip(offsets, lengths, strict=True):
        assert offset // chunk == (offset + length - 1) // chunk
    stops = [0, *(o + n for o, n in zip(offsets, lengths, strict=True))]
    assert all(stop <= offset for stop, offset in zip(stops, [*offsets, end], strict=True))
    assert stops[-1] == end

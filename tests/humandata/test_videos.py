"""Frames come out of a video by number, in any order, whoever read it before."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from humandata import jpeg, packing, pictures, videos
from humandata.packs import Encoded
from humandata.videos import VideoProblem

FRAMES = 30


def grey_of(frame: int) -> int:
    return 20 + 7 * frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of grey frames, in two codecs."""
    place = tmp_path_factory.mktemp("videos")
    for name, code in (("a.mp4", "mp4v"), ("b.avi", "XVID")):
        writer = cv2.VideoWriter(str(place / name), cv2.VideoWriter_fourcc(*code), 25, (320, 192))
        for frame in range(FRAMES):
            writer.write(np.full((192, 320, 3), grey_of(frame), np.uint8))
        writer.release()
    return place


def level(data: bytes | Encoded | OSError) -> float:
    assert not isinstance(data, OSError), data
    encoded = bytes(data.data) if isinstance(data, Encoded) else data
    return float(np.mean(pictures.decode(encoded)))


@pytest.mark.parametrize("name", ["a.mp4", "b.avi"])
@pytest.mark.parametrize("tiled", [False, True])
def test_frames_have_the_numbers_that_the_decoder_counts(
    folder: Path, name: str, tiled: bool
) -> None:
    wanted = [0, 1, 5, 5, 12, FRAMES - 1, 3, 4]
    found = list(videos.read_frames(folder, [name] * len(wanted), wanted, tiled))
    for frame, data in zip(wanted, found, strict=True):
        assert abs(level(data) - grey_of(frame)) < 4


def test_reading_goes_on_between_calls_and_between_videos(folder: Path) -> None:
    for name, frame in (("a.mp4", 2), ("a.mp4", 7), ("b.avi", 7), ("b.avi", 6), ("a.mp4", 29)):
        (data,) = videos.read_frames(folder, [name], [frame])
        assert abs(level(data) - grey_of(frame)) < 4


def test_what_cannot_be_read_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rubbish.mp4").write_bytes(b"no video" * 50)
    (beyond,) = videos.read_frames(folder, ["a.mp4"], [FRAMES])
    (rubbish,) = videos.read_frames(tmp_path, ["rubbish.mp4"], [0])
    (nothing,) = videos.read_frames(tmp_path, ["nothing.mp4"], [0])
    assert [str(e) for e in (beyond, rubbish, nothing)] == [
        f"the video a.mp4 ends after {FRAMES} frames",
        "the video rubbish.mp4 cannot be opened: it is damaged or empty",
        "there is no video nothing.mp4",
    ]
    reasons = [e.reason for e in (beyond, rubbish, nothing) if isinstance(e, VideoProblem)]
    assert reasons == ["video_too_short", "damaged_video", "missing_picture"]
    # The frames before the end are still there.
    (last,) = videos.read_frames(folder, ["a.mp4"], [FRAMES - 1])
    assert abs(level(last) - grey_of(FRAMES - 1)) < 4


def test_a_video_that_ends_before_its_header_says_is_damaged(folder: Path, tmp_path: Path) -> None:
    content = (folder / "b.avi").read_bytes()
    index = content.rindex(b"idx1")
    (tmp_path / "b.avi").write_bytes(content[: index // 2])
    *there, last = videos.read_frames(tmp_path, ["b.avi"] * 3, [0, 4, FRAMES - 1])
    for frame, data in zip((0, 4), there, strict=True):
        assert abs(level(data) - grey_of(frame)) < 4
    assert isinstance(last, VideoProblem)
    assert last.reason == "damaged_video"
    assert f"where its header says {FRAMES}: it is damaged there" in str(last)


def test_tiled_frames_are_what_transcoding_would_give(folder: Path) -> None:
    (plain,) = videos.read_frames(folder, ["a.mp4"], [9])
    (tiled,) = videos.read_frames(folder, ["a.mp4"], [9], tiled=True)
    assert isinstance(plain, bytes)
    assert isinstance(tiled, Encoded)
    data = bytes(tiled.data)
    np.testing.assert_array_equal(pictures.decode(data), pictures.decode(plain))
    frame = jpeg.read_frame(data)
    assert tiled.lengths is not None
    assert len(tiled.lengths) * frame.restart_interval == frame.mcus_per_row * frame.mcu_rows
    # 20 MCUs of 16 pixels in a row: tiles of 160 pixels are the nearest to 128 that divide it.
    assert frame.restart_interval * frame.mcu_width in (80, 160)


def test_packs_end_where_another_video_begins() -> None:
    films = ["a"] * 70 + ["b"] * 30 + ["c"] * 5
    slices = packing.blocks(films, 50)
    assert [(s.start, s.stop) for s in slices] == [(0, 50), (50, 100), (100, 105)]
    assert packing.blocks(["a"] * 70 + ["b"] * 70) == [slice(0, 70), slice(70, 140)]
    assert packing.blocks([""] * 130, 50) == [slice(0, 50), slice(50, 100), slice(100, 130)]
    assert packing.blocks([]) == []

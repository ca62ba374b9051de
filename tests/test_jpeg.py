"""What a JPEG header says, and cuts of a restart-tiled file: the whole's pixels from few bytes.

The reference are three decoders that know nothing of tiles: OpenCV, Pillow and simplejpeg.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from humandata import HumandataError, jpeg
from humandata.pictures import DamagedPicture

SAMPLINGS = {"444": (8, 8), "422": (16, 8), "420": (16, 16), "440": (8, 16), "411": (32, 8)}


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Colours that change at every scale, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for step in (64, 16, 4, 1):
        coarse = rng.normal(0, 12 * step**0.4, (height // step + 2, width // step + 2, 3))
        picture += cv2.resize(coarse.astype(np.float32), (width, height))
    return (picture + 128).clip(0, 255).astype(np.uint8)


def tiled_by_opencv(picture: np.ndarray, sampling: str, interval: int) -> bytes:
    flags = {
        cv2.IMWRITE_JPEG_QUALITY: 88,
        cv2.IMWRITE_JPEG_RST_INTERVAL: interval,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}"),
    }
    done, data = cv2.imencode(
        ".jpg", picture, [number for pair in flags.items() for number in pair]
    )
    assert done
    return bytes(data)


def opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def turbo(data: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, "BGR")  # raises at a warning


def lengths_of(data: bytes) -> np.ndarray:
    return jpeg.tile_lengths(data, jpeg.read_frame(data))


# --- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampling", "mcu"), SAMPLINGS.items())
def test_a_frame_tells_size_and_blocks(sampling: str, mcu: tuple[int, int]) -> None:
    frame = jpeg.read_frame(tiled_by_opencv(texture(211, 123), sampling, 3))
    assert (frame.width, frame.height, frame.components) == (211, 123, 3)
    assert (frame.mcu_width, frame.mcu_height) == mcu
    assert (frame.mcus_per_row, frame.mcu_rows) == (-(-211 // mcu[0]), -(-123 // mcu[1]))
    assert frame.restart_interval == 3
    assert not frame.progressive
    assert frame.jfif


def test_a_grey_block_is_eight_pixels_whatever_its_sampling_factors() -> None:
    _, data = cv2.imencode(".jpg", texture(100, 70)[..., 0])
    frame = jpeg.read_frame(bytes(data))
    changed = bytearray(data)
    changed[frame.size_at + 6] = 0x22
    frame = jpeg.read_frame(changed)
    assert (frame.components, frame.mcu_width, frame.mcus_per_row) == (1, 8, 13)


def test_a_frame_tells_progressive_and_adobe() -> None:
    out = io.BytesIO()
    Image.fromarray(texture(64, 64)).convert("CMYK").save(out, "JPEG", progressive=True)
    frame = jpeg.read_frame(out.getvalue())
    assert frame.progressive
    assert frame.components == 4
    assert frame.adobe is not None
    assert out.getvalue()[frame.adobe[0] + 4 :].startswith(b"Adobe")


def test_the_scan_begins_behind_the_header_and_nothing_behind_it_is_needed() -> None:
    data = tiled_by_opencv(texture(100, 70), "420", 7)
    frame = jpeg.read_frame(data)
    assert data[frame.scan - 14 : frame.scan - 12] == b"\xff\xda"
    assert jpeg.read_frame(data[: frame.scan]) == frame
    height, width = np.frombuffer(data, ">u2", 2, frame.size_at)
    assert (width, height) == (100, 70)


def test_half_a_header_is_a_damaged_picture() -> None:
    data = tiled_by_opencv(texture(64, 64), "420", 4)
    for end in range(jpeg.read_frame(data).scan):
        with pytest.raises(DamagedPicture):
            jpeg.read_frame(data[:end])


@given(st.binary(max_size=200))
def test_rubbish_is_a_damaged_picture_and_nothing_else(rubbish: bytes) -> None:
    for data in (rubbish, b"\xff\xd8" + rubbish, b"\xff\xd8\xff\xc0\x00\x11" + rubbish):
        with contextlib.suppress(DamagedPicture):
            jpeg.read_frame(data)


# --- the index ----------------------------------------------------------------------------------


def test_lengths_lead_from_marker_to_marker() -> None:
    data = tiled_by_opencv(texture(320, 200), "420", 5)
    lengths = lengths_of(data)
    assert lengths.dtype == np.uint16
    assert len(lengths) == 4 * 13
    ends = jpeg.read_frame(data).scan + np.cumsum(lengths, dtype=int)
    assert ends[-1] == len(data)
    markers = [data[end - 2 : end] for end in ends]
    assert markers[:-1] == [bytes([0xFF, 0xD0 + i % 8]) for i in range(51)]
    assert markers[-1] == b"\xff\xd9"


def test_markers_that_are_not_those_of_the_header_are_damage() -> None:
    data = tiled_by_opencv(texture(160, 96), "420", 5)
    frame = jpeg.read_frame(data)
    lengths = jpeg.tile_lengths(data, frame).astype(int)
    one = frame.scan + lengths[0]
    for broken in (
        data[:-2],
        data[: one - 2] + data[one:],
        data[: one - 1] + b"\xd3" + data[one:],
        data[: one - 1] + b"\x30" + data[one:],
    ):
        with pytest.raises(DamagedPicture):
            jpeg.tile_lengths(broken, frame)


# --- cuts ---------------------------------------------------------------------------------------


def check_cut(data: bytes, box: tuple[int, int, int, int]) -> jpeg.Cut:
    """Every pixel of the box, by every decoder, is that of the whole picture."""
    part = jpeg.cut(data, lengths_of(data), box)
    frame = jpeg.read_frame(data)
    x0, y0 = max(box[0], 0), max(box[1], 0)
    x1, y1 = min(box[2], frame.width), min(box[3], frame.height)
    assert part.left <= x0 < x1 <= part.left + part.width
    assert part.top <= y0 < y1 <= part.top + part.height
    for decode in (opencv, pillow, turbo):
        small = decode(part.data)
        assert small.shape[:2] == (part.height, part.width)
        np.testing.assert_array_equal(
            small[y0 - part.top : y1 - part.top, x0 - part.left : x1 - part.left],
            decode(data)[y0:y1, x0:x1],
        )
    return part


@settings(max_examples=60, deadline=None)
@given(
    sampling=st.sampled_from(sorted(SAMPLINGS)),
    size=st.tuples(st.integers(1, 333), st.integers(1, 140)),
    choice=st.integers(0, 100),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_cut_has_the_pixels_of_the_whole(
    sampling: str, size: tuple[int, int], choice: int, corners: tuple[float, ...]
) -> None:
    width, height = size
    per_row = -(-width // SAMPLINGS[sampling][0])
    divisors = [d for d in range(1, per_row + 1) if per_row % d == 0]
    data = tiled_by_opencv(texture(width, height), sampling, divisors[choice % len(divisors)])
    x = sorted(int(corner * width) for corner in corners[:2])
    y = sorted(int(corner * height) for corner in corners[2:])
    check_cut(data, (min(x[0], width - 1), min(y[0], height - 1), x[1] + 1, y[1] + 1))


def test_a_box_may_reach_over_the_edge() -> None:
    data = tiled_by_opencv(texture(211, 123), "420", 7)
    assert check_cut(data, (-50, -20, 40, 1000)).height == 123
    assert check_cut(data, (120, 100, 5000, 5000)).width == 211 - 112


def test_a_whole_picture_is_a_cut_too() -> None:
    data = tiled_by_opencv(texture(211, 123), "420", 7)
    part = check_cut(data, (0, 0, 211, 123))
    assert (part.left, part.top, part.width, part.height) == (0, 0, 211, 123)


def test_rows_without_divisor_are_cut_as_rows() -> None:
    data = tiled_by_opencv(texture(16 * 13, 160), "420", 13)
    part = check_cut(data, (100, 70, 120, 90))
    assert (part.left, part.width) == (0, 208)
    assert part.height == 32


def test_grey_is_cut() -> None:
    _, encoded = cv2.imencode(".jpg", texture(200, 120)[..., 0], [cv2.IMWRITE_JPEG_RST_INTERVAL, 5])
    data = bytes(encoded)
    part = jpeg.cut(data, lengths_of(data), (50, 30, 90, 70))
    # No chroma, so nothing is interpolated and nothing beside the tiles of the box is taken.
    assert (part.left, part.top, part.width, part.height) == (40, 24, 80, 48)
    for decode in (opencv, pillow):
        np.testing.assert_array_equal(decode(part.data), decode(data)[24:72, 40:120])


def test_scaled_decoding_of_a_cut_is_that_of_the_whole() -> None:
    data = tiled_by_opencv(texture(400, 300), "420", 5)
    part = jpeg.cut(data, lengths_of(data), (130, 110, 270, 190))
    assert (part.left % 8, part.top % 8) == (0, 0)
    for shrink in (2, 4, 8):
        whole, small = (
            simplejpeg.decode_jpeg(
                encoded, min_height=-(-height // shrink), min_width=-(-width // shrink)
            )
            for encoded, width, height in (
                (data, 400, 300),
                (part.data, part.width, part.height),
            )
        )
        assert whole.shape[1] == 400 // shrink
        left, top = part.left // shrink, part.top // shrink
        there = whole[top : top + small.shape[0], left : left + small.shape[1]]
        np.testing.assert_array_equal(small, there)


def test_only_the_bytes_of_the_tiles_are_read(tmp_path: Path) -> None:
    data = tiled_by_opencv(texture(640, 480), "420", 8)
    frame, lengths, box = jpeg.read_frame(data), lengths_of(data), (300, 200, 400, 300)
    part = jpeg.cut(data, lengths, box)
    assert len(part.data) < len(data) / 4
    # Everything but the header and the tiles under the box, 5 of them in a row, is overwritten.
    ends = (frame.scan + np.cumsum(lengths, dtype=int)).reshape(-1, 5)
    rows = slice(part.top // 16, -(-(part.top + part.height) // 16))
    columns = slice(part.left // 128, -(-(part.left + part.width) // 128))
    kept = np.zeros(len(data), bool)
    kept[: frame.scan] = True
    starts = ends - lengths.reshape(-1, 5)
    for start, end in zip(starts[rows, columns].ravel(), ends[rows, columns].ravel(), strict=True):
        kept[start:end] = True
    blanked = np.where(kept, np.frombuffer(data, np.uint8), 0).astype(np.uint8)
    assert jpeg.cut(blanked, lengths, box) == part
    # Any buffer will do, a file's map above all.
    (tmp_path / "pack").write_bytes(data)
    for source in (memoryview(data), np.memmap(tmp_path / "pack", np.uint8, "r")):
        assert jpeg.cut(source, lengths, box) == part


def test_a_cut_leaves_exif_and_profiles_behind_but_not_what_colours_depend_on() -> None:
    out = io.BytesIO()
    picture = Image.fromarray(texture(160, 96))
    picture.save(out, "JPEG", keep_rgb=True, restart_marker_blocks=5, icc_profile=b"p" * 30_000)
    data = out.getvalue()
    part = jpeg.cut(data, lengths_of(data), (50, 30, 90, 70))
    assert len(part.data) < 10_000
    left, top = part.left, part.top
    np.testing.assert_array_equal(
        pillow(part.data), pillow(data)[top : top + part.height, left : left + part.width]
    )


def test_jfif_decides_over_the_names_of_components() -> None:
    # libjpeg takes components named R, G and B for such, unless there is a JFIF segment.
    data = bytearray(tiled_by_opencv(texture(160, 96), "444", 5))
    frame = jpeg.read_frame(data)
    scan_names = data.rfind(b"\xff\xda") + 5
    for i, name in enumerate(b"RGB"):
        data[frame.size_at + 5 + 3 * i] = name
        data[scan_names + 2 * i] = name
    check_cut(bytes(data), (30, 30, 90, 60))


def test_lengths_that_do_not_fit_are_damage() -> None:
    data = tiled_by_opencv(texture(320, 200), "420", 5)
    lengths, box = lengths_of(data), (60, 60, 200, 150)
    more = lengths.copy()
    more[3] += 1
    moved = more.copy()
    moved[20] -= 1
    for wrong in (lengths[:-1], np.append(lengths, lengths[:1]), more, moved, lengths[::-1]):
        with pytest.raises(DamagedPicture):
            jpeg.cut(data, wrong, box)
    with pytest.raises(DamagedPicture):
        jpeg.cut(data[:-1], lengths, box)


@pytest.mark.parametrize(
    "box", [(400, 0, 410, 10), (0, 300, 10, 310), (-9, -9, 0, 5), (5, 5, 5, 9), (9, 9, 3, 12)]
)
def test_a_box_without_picture_is_an_error(box: tuple[int, int, int, int]) -> None:
    data = tiled_by_opencv(texture(320, 200), "420", 5)
    with pytest.raises(HumandataError, match="outside"):
        jpeg.cut(data, lengths_of(data), box)


def test_a_file_without_tiles_is_an_error() -> None:
    for interval in (0, 3):
        data = tiled_by_opencv(texture(320, 200), "420", interval)
        with pytest.raises(HumandataError, match="not tiled"):
            jpeg.cut(data, lengths_of(data), (0, 0, 9, 9))

"""Pictures are tiled without losing anything; what cannot be tiled is kept, with the reason.

The reference are the pixels that OpenCV, Pillow and simplejpeg give for the original. Run as a
script, this file damages pictures at random and checks what becomes of them.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from humandata import jpeg, libjpeg
from humandata.transcode import Kept, Tiled, tile, tile_widths


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Colours that change at every scale, as in a photograph; uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for step in (64, 16, 4, 1):
        shape = height // step + 2, width // step + 2
        light = rng.normal(0, 8 * step**0.4, (*shape, 1))
        colour = rng.normal(0, 2 * step**0.4, (*shape, 3))
        picture += cv2.resize((light + colour).astype(np.float32), (width, height))
    return (picture + 128).clip(0, 255).astype(np.uint8)


def saved(picture: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    """The picture as Pillow writes it."""
    out = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def opencv(data: bytes, reduced: bool = False) -> np.ndarray:
    flags = cv2.IMREAD_REDUCED_COLOR_2 if reduced else cv2.IMREAD_COLOR
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    assert picture is not None
    return picture


def turbo(data: bytes) -> np.ndarray:
    space = "CMYK" if jpeg.read_frame(data).components == 4 else "RGB"
    return simplejpeg.decode_jpeg(data, space)  # raises at a warning


DECODERS = pillow, opencv, turbo


def check(data: bytes, decoders: tuple[Callable[..., np.ndarray], ...] = DECODERS) -> Tiled:
    """The tiled picture, whole, at half size and in parts, has the pixels of the original."""
    result = tile(data)
    assert isinstance(result, Tiled), result
    frame = jpeg.read_frame(result.data)
    assert not frame.progressive
    assert frame.restart_interval == result.tile_width
    assert frame.mcus_per_row % result.tile_width == 0
    np.testing.assert_array_equal(result.lengths, jpeg.tile_lengths(result.data, frame))
    assert frame.scan + result.lengths.sum(dtype=int) == len(result.data)
    half = opencv(data, reduced=True)
    np.testing.assert_array_equal(opencv(result.data, reduced=True), half)
    rng = np.random.default_rng(len(data))
    for decode in decoders:
        whole = decode(data)
        np.testing.assert_array_equal(decode(result.data), whole)
        height, width = whole.shape[:2]
        for _ in range(3):
            x0, x1 = np.sort(rng.choice(width + 1, 2, replace=False)).tolist()
            y0, y1 = np.sort(rng.choice(height + 1, 2, replace=False)).tolist()
            part = jpeg.cut(result.data, result.lengths, (x0, y0, x1, y1))
            np.testing.assert_array_equal(
                decode(part.data)[y0 - part.top : y1 - part.top, x0 - part.left : x1 - part.left],
                whole[y0:y1, x0:x1],
            )
    return result


def reason(data: bytes) -> str:
    result = tile(data)
    assert isinstance(result, Kept), "it was tiled"
    return result.reason


# --- pixels stay --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(64, 400),
    height=st.integers(64, 200),
    sampling=st.sampled_from(["444", "422", "420", "440", "411", "Gray"]),
    quality=st.integers(30, 100),
)
def test_every_size_and_subsampling(width: int, height: int, sampling: str, quality: int) -> None:
    picture = texture(width, height)
    grey = sampling == "Gray"
    data = simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture[..., :1]) if grey else picture,
        quality,
        colorspace="GRAY" if grey else "RGB",
        colorsubsampling=sampling,
    )
    check(data)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_progressive_becomes_baseline(mode: str, sampling: int) -> None:
    data = saved(texture(310, 170), mode, progressive=True, subsampling=sampling, quality=85)
    assert jpeg.read_frame(data).progressive
    # TurboJPEG does not know subsampled CMYK.
    check(data, DECODERS[:2] if mode == "CMYK" and sampling else DECODERS)


@pytest.mark.parametrize("transform", [0, 2])
def test_four_components_keep_their_meaning(transform: int) -> None:
    data = bytearray(saved(texture(310, 170), "CMYK"))
    adobe = jpeg.read_frame(data).adobe
    assert adobe is not None
    data[adobe[1] - 1] = transform  # 0 is CMYK, 2 is YCCK
    assert b"Adobe" in check(bytes(data)).data


def test_components_that_are_red_green_and_blue() -> None:
    check(saved(texture(310, 170), keep_rgb=True))


def test_marked_pictures_are_marked_anew() -> None:
    for options in ({"restart_marker_blocks": 7}, {"restart_marker_rows": 2}):
        assert check(saved(texture(640, 170), **options)).tile_width == 8


def test_a_scan_for_every_component() -> None:
    # The scan of one component is that of a grey picture, so three of them make a colour picture.
    greys = [saved(np.repeat(texture(310, 170)[..., i : i + 1], 3, 2), "L") for i in range(3)]
    first = jpeg.read_frame(greys[0])
    tables = b"".join(greys[0][a:b] for a, b in first.tables)
    frame = tables.index(b"\xff\xc0")
    scan = tables.index(b"\xff\xda")
    components = b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
    header = (
        tables[:frame]
        + b"\xff\xc0\x00\x11"
        + tables[frame + 4 : frame + 9]
        + b"\x03"
        + components
        + tables[frame + 13 : scan]
    )
    data = b"\xff\xd8" + header
    for i, grey in enumerate(greys, 1):
        data += b"\xff\xda\x00\x08\x01" + bytes([i]) + b"\x00\x00\x3f\x00"
        data += grey[jpeg.read_frame(grey).scan : -2]
    check(data + b"\xff\xd9")


def test_orientation_and_all_that_is_said_of_a_picture_is_kept_and_not_applied() -> None:
    exif = Image.Exif()
    exif[274] = 6
    options = {
        "exif": exif.tobytes(),
        "icc_profile": bytes(range(256)) * 300,  # longer than one segment holds
        "comment": b"after lunch",
        "dpi": (300, 300),
    }
    data = saved(texture(310, 170), **options)
    result = check(data)
    assert pillow(result.data).shape == (170, 310, 3)
    before, after = (Image.open(io.BytesIO(d)) for d in (data, result.data))
    assert after.getexif()[274] == 6
    assert after.applist == before.applist
    assert after.info["icc_profile"] == options["icc_profile"]
    assert after.info["dpi"] == (300, 300)
    assert result.data.count(b"JFIF\0") == 1
    spans = [data[a:b] for m, a, b in jpeg.segments(memoryview(data)) if m >= 0xE0]
    assert result.data.startswith(b"\xff\xd8" + b"".join(spans))


def test_what_a_camera_put_behind_the_picture_is_left_out() -> None:
    data = saved(texture(310, 170))
    assert check(data + b"\0\0 a second picture \xff\xd8").data == check(data).data


def test_real_pictures(samples: Path) -> None:
    before = after = 0
    for file in sorted(samples.rglob("*.jpg")):
        data = file.read_bytes()
        result = tile(data)
        assert isinstance(result, Tiled), (file, result)
        for decode in (opencv, turbo):
            np.testing.assert_array_equal(decode(result.data), decode(data))
        before, after = before + len(data), after + len(result.data) + result.lengths.nbytes
    assert before
    assert after <= 1.05 * before


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [60, 75, 85, 95])
@pytest.mark.parametrize("size", [(1920, 1080), (640, 425), (300, 200)])
def test_tiles_take_at_most_five_percent(size: tuple[int, int], quality: int) -> None:
    picture = texture(*size)
    for options in ({}, {"subsampling": 0}, {"optimize": True}):
        data = saved(picture, quality=quality, **options)
        result = tile(data)
        assert isinstance(result, Tiled)
        assert len(result.data) + result.lengths.nbytes <= 1.05 * len(data)


@pytest.mark.parametrize(
    ("size", "tiles"),
    [((1920, 1080), 8), ((640, 480), 8), ((1000, 1002), 9), ((592, 400), 37)],
)
def test_a_tile_is_about_128_pixels_wide_or_a_row(size: tuple[int, int], tiles: int) -> None:
    # At 16 pixels an MCU: 120, 40, 63 of them in a row, and 37, which is a prime.
    data = saved(texture(*size), quality=92, subsampling="4:2:0")
    assert tile_widths(jpeg.read_frame(data), len(data))[0] == tiles
    assert check(data).tile_width == tiles


@given(st.integers(64, 8000), st.integers(64, 8000), st.floats(0.05, 8))
def test_the_first_tile_width_is_affordable_and_the_rest_are_all_divisors(
    width: int, height: int, bits: float
) -> None:
    data = bytearray(saved(np.zeros((64, 64, 3), np.uint8), subsampling="4:2:0"))
    at = jpeg.read_frame(data).size_at
    data[at : at + 4] = (height << 16 | width).to_bytes(4, "big")
    frame = jpeg.read_frame(data)
    across, down, size = -(-width // 16), -(-height // 16), int(width * height * bits / 8)
    widths = tile_widths(frame, size)
    assert sorted(widths) == [d for d in range(1, across + 1) if across % d == 0]
    best = widths[0]
    # At 5.5 bytes an interval, markers and index take at most 4 % of the file.
    assert best == across or across // best * down * 5.5 <= 0.04 * size
    assert best == across or best * 16 >= 48


def test_a_picture_with_little_in_it_has_wide_tiles_or_is_kept() -> None:
    flat = np.full((480, 640, 3), 90, np.uint8)
    assert reason(saved(flat, optimize=True)).startswith("tiles would make it much larger")
    sparse = flat.copy()
    sparse[100:380, 200:440] = texture(240, 280)
    data = saved(sparse, quality=30, optimize=True)
    result = check(data)
    assert result.tile_width > 8
    assert len(result.data) + result.lengths.nbytes <= 1.05 * len(data)


def test_an_interval_fits_the_index() -> None:
    # 251 MCUs in a row, a prime, and a row of noise takes more than 65,535 bytes.
    noise = np.random.default_rng(0).integers(0, 256, (64, 251 * 16, 3), np.uint8)
    data = saved(noise, quality=100, subsampling="4:2:0")
    assert len(data) / 4 > 65535
    assert check(data).tile_width == 1


# --- pictures that are kept ---------------------------------------------------------------------


def test_other_formats_are_kept() -> None:
    out = io.BytesIO()
    Image.fromarray(texture(80, 80)).save(out, "PNG")
    for data in (out.getvalue(), b"", b"\xff", b"RIFF"):
        assert reason(data) == "not JPEG"


def test_tiny_pictures_are_kept() -> None:
    assert reason(saved(texture(63, 200))) == "too small to tile: 63×200 pixels"
    check(saved(texture(64, 64)))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_picture_is_kept_as_damaged(progressive: bool) -> None:
    data = saved(texture(200, 150), progressive=progressive, restart_marker_rows=3)
    ends = [*range(2, 700, 13), *range(700, len(data), 101), len(data) - 2, len(data) - 1]
    for end in ends:
        assert reason(data[:end]).startswith("damaged")
    # The same with an end marker, as careless tools write it.
    for end in range(jpeg.read_frame(data).scan + 50, len(data) - 50, 101):
        assert reason(data[:end] + b"\xff\xd9").startswith("damaged")


def test_unusual_kinds_of_jpeg_are_kept() -> None:
    data = saved(texture(200, 150))
    at = jpeg.read_frame(data).size_at
    for place, value in ((at - 4, 0xC3), (at - 4, 0xC9), (at - 1, 12), (at + 6, 0x44)):
        changed = bytearray(data)
        changed[place] = value
        assert reason(bytes(changed)).startswith("unusual JPEG")


def handmade(blocks: list[tuple[int, int]]) -> bytes:
    """A grey picture of 64 blocks in a row, of DC differences and first AC values.

    Its tables have symbols for 0 and for values of 11 bits, which is 1024 to 2047 either way.
    """
    bits = ""
    for values in blocks:
        for value in values:
            bits += "0" if value == 0 else "10" + f"{value - (value < 0) & 0x7FF:011b}"
        bits += "" if values[1] == 0 else "0"  # end of block
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    size = (len(blocks) // 64 * 8).to_bytes(2, "big") + (512).to_bytes(2, "big")
    counts = bytes([1, 1, *[0] * 14])
    return (
        bytes.fromhex("ffd8 ffdb 0043 00")
        + b"\x01" * 64
        + (bytes.fromhex("ffc0 000b 08") + size + bytes.fromhex("01 01 11 00"))
        + (bytes.fromhex("ffc4 0015 00") + counts + bytes.fromhex("00 0b"))
        + (bytes.fromhex("ffc4 0015 10") + counts + bytes.fromhex("00 0b"))
        + (bytes.fromhex("ffda 0008 01 01 00 00 3f 00") + coded + b"\xff\xd9")
    )


def test_coefficients_that_baseline_cannot_hold_are_kept() -> None:
    # libjpeg reads them without complaint, and writing them would end this process.
    sound = [(0, 0), (-1024, 0), (1024, 0)] * 256
    assert isinstance(tile(handmade(sound)), Tiled)
    for wrong in ((2000, 0), (-1025, 0), (0, 1024), (0, -1024), (0, -2000)):
        data = handmade([*sound[:300], wrong, *sound[301:]])
        assert pillow(data).shape == (96, 512)
        assert reason(data).startswith("unusual JPEG: coefficients")


def test_a_small_file_that_promises_a_huge_picture_is_kept() -> None:
    data = bytearray(saved(texture(200, 150)))
    at = jpeg.read_frame(data).size_at
    for size in (b"\xff\xdc\xff\xdc", b"\x20\x00\x20\x00"):
        data[at : at + 4] = size
        assert reason(bytes(data)).startswith(("too large", "damaged"))


def test_without_a_library_pictures_are_kept_and_the_reason_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libjpeg, "_candidates", lambda: iter(["libjpeg-that-is-not-there.so.62"]))
    libjpeg.library.cache_clear()
    try:
        assert "pip install" in reason(saved(texture(80, 80)))
    finally:
        libjpeg.library.cache_clear()


# --- the process --------------------------------------------------------------------------------


def test_threads_write_what_one_thread_writes() -> None:
    pictures = [saved(texture(200, 150, i), progressive=i % 2 == 0) for i in range(8)]
    pictures[3] = pictures[3][:2000]
    alone = [tile(data) for data in pictures]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(tile, pictures * 5))
    for i, result in enumerate(together):
        expected = alone[i % 8]
        if isinstance(expected, Tiled):
            assert isinstance(result, Tiled)
            assert result.data == expected.data
        else:
            assert result == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat(tmp_path: Path) -> None:
    whole = saved(texture(640, 480))
    pictures = [whole, saved(texture(640, 480), progressive=True), whole[:-400], whole[:-2]]
    for i, data in enumerate(pictures):
        (tmp_path / f"{i}.jpg").write_bytes(data)
    # In a process of its own, where other tests leave nothing behind.
    script = (
        "import sys, pathlib, humandata.transcode\n"
        "pictures = [file.read_bytes() for file in pathlib.Path(sys.argv[1]).iterdir()]\n"
        "for _ in range(4):\n"
        "    for data in pictures * 10: humandata.transcode.tile(data)\n"
        "    print(pathlib.Path('/proc/self/statm').read_text().split()[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    first, *_, last = map(int, done.stdout.split())
    assert (last - first) * 4096 < 1_500_000  # a leak of 25 KB a picture


def test_a_fatal_error_of_libjpeg_ends_the_process_with_a_sentence() -> None:
    script = (
        "from humandata import libjpeg\n"
        "libjpeg.transform(libjpeg.library()).read(b'no picture at all')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 70
    assert "Not a JPEG file" in done.stderr
    assert "--pictures original" in done.stderr


def fuzz(seed: int, count: int) -> Counter[str]:
    """Damage pictures at random; whatever is tiled nevertheless has the pixels of the original."""
    rng = np.random.default_rng(seed)
    picture = texture(121, 90)
    sound = [
        saved(picture, mode, **options)
        for mode in ("RGB", "L", "CMYK")
        for options in (
            {},
            {"subsampling": 0, "restart_marker_blocks": 3},
            {"subsampling": 1, "optimize": True},
            {"progressive": True},
            {"progressive": True, "subsampling": 1},
            {"quality": 100, "restart_marker_rows": 1},
            {"quality": 30, "progressive": True, "restart_marker_blocks": 4},
        )
    ]
    counts: Counter[str] = Counter()
    for _ in range(count):
        data = bytearray(sound[rng.integers(len(sound))])
        # Half of the damage is in headers, where a few bytes decide about everything.
        end = data.rfind(b"\xff\xda") + 14 if rng.random() < 0.5 else len(data)
        at, length = int(rng.integers(2, end)), int(rng.integers(1, 20))
        match rng.integers(6):
            case 0:
                data[at] = rng.integers(256)
                data[rng.integers(2, end)] = rng.integers(256)
            case 1:
                data[at] ^= 1 << rng.integers(8)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = rng.bytes(length)
            case 4:
                start = int(rng.integers(2, len(data)))
                data[at:at] = data[start : start + 15 * length]
            case 5:
                data[at : at + 2] = bytes([255, rng.integers(256)])
        result = tile(bytes(data))
        counts[result.reason.split(":")[0] if isinstance(result, Kept) else "tiled"] += 1
        if isinstance(result, Tiled):
            whole = pillow(bytes(data))
            np.testing.assert_array_equal(pillow(result.data), whole)
            box = 0, 0, whole.shape[1], whole.shape[0]
            part = jpeg.cut(result.data, result.lengths, box)
            np.testing.assert_array_equal(pillow(part.data), whole)
    return counts


@pytest.mark.parametrize("count", [400, pytest.param(4000, marks=pytest.mark.slow)])
def test_random_damage_is_survived(count: int) -> None:
    script = str(Path(__file__))
    command = [sys.executable, script, str(count), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "damaged" in done.stdout
    assert "tiled" in done.stdout


if __name__ == "__main__":
    print(fuzz(int(sys.argv[1]), int(sys.argv[2])))

"""Regions of pictures: the pixels that a decoder of the whole picture gives, or an error."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from humandata import HumandataError, jpeg, regions, turbojpeg
from humandata.packs import Encoded
from humandata.pictures import DamagedPicture, Memory, decode
from humandata.regions import decode_part, decode_region, take_part

Pixels = NDArray[np.uint8]

DECODERS = ["both libraries", "no libturbojpeg", "no simplejpeg", "OpenCV alone"]


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each of the ways that a machine may be equipped."""
    with monkeypatch.context() as patch:
        equip(patch, request.param)
        yield request.param


def equip(patch: pytest.MonkeyPatch, decoder: str) -> None:
    if decoder in ("both libraries", "no simplejpeg") and turbojpeg.find() is None:
        pytest.skip("no libturbojpeg on this machine")
    if decoder in ("no libturbojpeg", "OpenCV alone"):
        patch.setattr(turbojpeg, "find", lambda: None)
    if decoder in ("no simplejpeg", "OpenCV alone"):
        patch.setattr(regions, "_simplejpeg", lambda: None)


# Pictures ----------------------------------------------------------------------------------------

FACTORS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}


def colourful(width: int, height: int, seed: int = 0) -> Pixels:
    """RGB whose colours change from pixel to pixel, so that chroma interpolation shows."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(height, width, 3)).astype(np.float32)
    return np.clip(128 + 150 * cv2.GaussianBlur(noise, (0, 0), 1.0), 0, 255).astype(np.uint8)


def as_jpeg(picture: Pixels, sampling: str = "4:2:0", restart: int = 0, **options: int) -> bytes:
    """A JPEG by OpenCV; ``restart`` in MCUs."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, options.get("quality", 90)]
    flags += [cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    flags += [cv2.IMWRITE_JPEG_PROGRESSIVE, options.get("progressive", 0)]
    if sampling == "grey":
        picture = picture[..., 1]
    else:
        flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, FACTORS[sampling]]
        picture = picture[..., ::-1]
    done, data = cv2.imencode(".jpg", picture, flags)
    assert done
    return bytes(data)


def tiled(data: bytes) -> Encoded:
    return Encoded(memoryview(data), jpeg.tile_lengths(data, jpeg.read_frame(data)))


def plain(data: bytes) -> Encoded:
    return Encoded(memoryview(data))


def in_scans(planes: list[Pixels], factors: list[tuple[int, int]]) -> bytes:
    """A baseline JPEG with a scan per component, put together from the scans of grey ones.

    Few encoders write such files, but decoders read them; their chroma factors can be any.
    """
    height, width = planes[0].shape
    body, header = b"", b""
    for number, plane in enumerate(planes, 1):
        data = as_jpeg(np.repeat(plane[..., None], 3, -1), "grey")
        start = jpeg.read_frame(data).scan
        table = b"\xff\xda\0\x08\x01" + bytes([number]) + b"\0\0\x3f\0"
        body += table + data[start:-2]
        header = data[:start]  # OpenCV's tables, the same for each plane
    keep = b"".join(
        header[at:end]
        for marker, at, end in jpeg.segments(memoryview(header))
        if marker in (jpeg.DHT, jpeg.DQT, jpeg.APP0)
    )
    frame = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([len(planes)])
    for number, (across, down) in enumerate(factors, 1):
        frame += bytes([number, across << 4 | down, 0])
    size = (len(frame) + 2).to_bytes(2, "big")
    return b"\xff\xd8" + keep + b"\xff\xc0" + size + frame + body + b"\xff\xd9"


def whole(data: bytes, shrink: int = 1) -> Pixels:
    """OpenCV's decode of the whole picture, RGB."""
    flags: dict[int, Any] = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }
    flag = flags[shrink] | cv2.IMREAD_IGNORE_ORIENTATION
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    assert picture is not None
    return np.asarray(picture[..., ::-1], np.uint8)


def assert_is_part_of(found: regions.Region, reference: Pixels, box: regions.Box) -> None:
    """The region is exactly the box, widened to whole reduced pixels, of the reference."""
    shrink = found.shrink
    left, top = max(box[0], 0) // shrink, max(box[1], 0) // shrink
    right, bottom = (-(-max(edge, 0) // shrink) for edge in box[2:])
    expected = reference[top:bottom, left:right]
    if not expected.size:
        assert not found.pixels.size
        return
    assert (found.left, found.top) == (left * shrink, top * shrink)
    assert found.pixels.dtype == np.uint8
    np.testing.assert_array_equal(found.pixels, expected)


def boxes(width: int, height: int) -> st.SearchStrategy[regions.Box]:
    """Boxes that lie in a picture, reach over its edges, or miss it."""

    def side(length: int) -> st.SearchStrategy[tuple[int, int]]:
        ends = st.integers(-length // 2 - 1, length + length // 2 + 1)
        long = st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair)))
        return long | st.tuples(ends, st.integers(1, 6)).map(lambda pair: (pair[0], sum(pair)))

    return st.tuples(side(width), side(height)).map(
        lambda both: (both[0][0], both[1][0], both[0][1], both[1][1])
    )


# The pixels of the whole picture -----------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["tiled", "intervals", "plain", "progressive"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_region_of_a_jpeg_is_exactly_that_part_of_the_whole_picture(
    decoder: str, kind: str, data: st.DataObject
) -> None:
    sampling = data.draw(st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey"]))
    mcu = {"4:4:4": 8, "grey": 8, "4:4:0": 8, "4:1:1": 32}.get(sampling, 16)
    width, height = data.draw(st.integers(1, 140)), data.draw(st.integers(1, 90))
    across = -(-width // mcu)
    divisors = [n for n in range(1, across + 1) if across % n == 0]
    # "intervals": restart markers anywhere, as some cameras set them.
    restart = data.draw(
        {
            "tiled": st.sampled_from(divisors),
            "intervals": st.integers(1, 3 * across),
        }.get(kind, st.just(0))
    )
    picture = colourful(width, height, data.draw(st.integers(0, 3)))
    encoded = as_jpeg(picture, sampling, restart, progressive=int(kind == "progressive"))
    shrink = data.draw(st.sampled_from([1, 2, 4, 8]))
    box = data.draw(boxes(width, height))
    with pytest.MonkeyPatch.context() as patch:
        equip(patch, decoder)
        given_as = tiled(encoded) if kind == "tiled" else plain(encoded)
        region = decode_region(given_as, box, shrink)
    assert region.shrink == (shrink if max(width, height) >= 8 else 1)
    assert_is_part_of(region, whole(encoded, region.shrink), box)


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("sampling", "width", "height"), [("4:2:2", 41, 3), ("4:2:0", 37, 18), ("4:4:4", 1, 18)]
)
def test_tiles_of_a_few_pixels_are_exact_too(
    sampling: str, width: int, height: int, shrink: int
) -> None:
    # libjpeg does not interpolate chroma of two samples a row, and simplejpeg takes a size that
    # several of its fractions give for the smallest of them.
    data = as_jpeg(colourful(width, height), sampling, restart=1)
    reference = whole(data, shrink)
    for left in range(width):
        box = (left, height - 1, left + 1, height)
        assert_is_part_of(decode_region(tiled(data), box, shrink), reference, box)


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
def test_scans_of_single_components_and_unusual_chroma_factors_are_decoded(
    shrink: int, decoder: str
) -> None:
    picture = cv2.cvtColor(colourful(93, 70), cv2.COLOR_RGB2YCrCb)
    y, cr, cb = (np.ascontiguousarray(picture[..., i]) for i in range(3))
    box = (20, 15, 61, 44)
    equal = in_scans([y, cb, cr], [(1, 1)] * 3)
    assert_is_part_of(decode_region(plain(equal), box, shrink), whole(equal, shrink), box)
    # 4:1:0, which turbojpeg.h does not know.
    few = in_scans([y, cb[::2, ::4].copy(), cr[::2, ::4].copy()], [(4, 2), (1, 1), (1, 1)])
    assert_is_part_of(decode_region(plain(few), box, shrink), whole(few, shrink), box)


@pytest.mark.parametrize("shrink", [1, 2])
def test_cmyk_becomes_the_rgb_that_opencv_makes_of_it(shrink: int, decoder: str) -> None:
    file = io.BytesIO()
    Image.fromarray(colourful(90, 60)).convert("CMYK").save(file, "JPEG", quality=90)
    data = file.getvalue()
    assert jpeg.read_frame(data).components == 4
    box = (11, 7, 50, 41)
    assert_is_part_of(decode_region(plain(data), box, shrink), whole(data, shrink), box)
    np.testing.assert_array_equal(decode(data), whole(data))


def test_orientation_in_exif_is_not_applied(decoder: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture = colourful(64, 40)
    for name in ("JPEG", "PNG"):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, name, exif=exif)
        region = decode_region(plain(file.getvalue()), (0, 0, 100, 100))
        assert region.pixels.shape == (40, 64, 3)
        assert np.abs(region.pixels.astype(int) - picture).mean() < 20


@settings(max_examples=30, deadline=None)
@given(
    box=boxes(53, 40),
    kind=st.sampled_from(["RGB", "RGBA", "L", "P", "I;16"]),
    shrink=st.sampled_from([1, 2, 8]),
)
def test_a_png_is_cut_at_full_size(box: regions.Box, kind: str, shrink: int) -> None:
    picture = colourful(53, 40)
    file = io.BytesIO()
    if kind == "I;16":
        Image.fromarray(picture[..., 0].astype(np.uint16) * 257).save(file, "PNG")
        expected = picture[..., :1].repeat(3, -1)
    else:
        made = Image.fromarray(picture).convert(kind)
        made.save(file, "PNG")
        expected = np.asarray(made.convert("RGB"))
    region = decode_region(plain(file.getvalue()), box, shrink)
    assert region.shrink == 1
    assert_is_part_of(region, expected, box)


def test_a_loose_region_holds_the_box_and_perhaps_a_fourth_channel(decoder: str) -> None:
    picture, (x0, y0, x1, y1) = colourful(64, 48), (9, 7, 40, 33)
    png = bytes(cv2.imencode(".png", picture)[1])
    for encoded in (tiled(as_jpeg(picture, restart=2)), plain(as_jpeg(picture)), plain(png)):
        loose = decode_part(take_part(encoded, (x0, y0, x1, y1)), loose=True)
        jpeg_library = decoder != "OpenCV alone" and encoded.data[0] == 0xFF
        assert loose.pixels.shape[2] == (4 if jpeg_library else 3)
        rows = slice(y0 - loose.top, y1 - loose.top)
        columns = slice(x0 - loose.left, x1 - loose.left)
        expected = decode_region(encoded, (x0, y0, x1, y1)).pixels
        np.testing.assert_array_equal(loose.pixels[rows, columns, :3], expected)


def test_a_box_beside_the_picture_gives_an_empty_region() -> None:
    picture = colourful(64, 48)
    png = bytes(cv2.imencode(".png", picture)[1])
    for encoded in (tiled(as_jpeg(picture, restart=2)), plain(as_jpeg(picture)), plain(png)):
        for box in ((64, 0, 90, 20), (-30, 0, 0, 20), (0, 48, 5, 60), (9, 9, 9, 20)):
            assert decode_region(encoded, box, 1).pixels.size == 0
        assert decode_region(encoded, (-9, -9, 999, 999), 1).pixels.shape == (48, 64, 3)


def test_other_reductions_are_refused() -> None:
    with pytest.raises(HumandataError, match="shrunk by 3"):
        decode_region(plain(as_jpeg(colourful(16, 16))), (0, 0, 9, 9), 3)


# Damage ------------------------------------------------------------------------------------------

STRICT = [name for name in DECODERS if name != "OpenCV alone"]


@pytest.mark.parametrize("decoder", STRICT, indirect=True)
@pytest.mark.parametrize("restart", [0, 5, 6])
@pytest.mark.parametrize("shrink", [1, 2])
def test_a_file_cut_off_below_the_region_decodes_and_one_cut_off_above_does_not(
    decoder: str, restart: int, shrink: int
) -> None:
    data = as_jpeg(colourful(192, 192), "4:2:0", restart)
    reference = whole(data, shrink)
    box = (50, 60, 120, 90)
    outcomes = []
    for end in range(jpeg.read_frame(data).scan, len(data), 97):
        for ending in (b"", b"\xff\xd9"):
            try:
                region = decode_region(plain(data[:end] + ending), box, shrink)
            except DamagedPicture as error:
                assert re.search("(?i)premature end|found marker 0xd9", str(error))  # noqa: PT017
                outcomes.append(False)
            else:
                assert_is_part_of(region, reference, box)
                outcomes.append(True)
    # Rows down to 96 or 112 of 192 are needed.
    assert outcomes == sorted(outcomes)
    assert 0.35 < np.mean(outcomes) < 0.55


@pytest.mark.parametrize("decoder", STRICT, indirect=True)
def test_a_progressive_file_that_is_cut_off_is_damaged_everywhere(decoder: str) -> None:
    data = as_jpeg(colourful(96, 96), progressive=1)
    with pytest.raises(DamagedPicture, match="(?i)premature end"):
        decode_region(plain(data[:-300]), (0, 0, 20, 20))


@pytest.mark.parametrize("decoder", STRICT, indirect=True)
@pytest.mark.parametrize("kind", ["tiled", "intervals", "plain", "progressive"])
def test_codes_that_make_no_sense_are_an_error_in_the_librarys_words(
    decoder: str, kind: str
) -> None:
    restart = {"tiled": 4, "intervals": 5}.get(kind, 0)
    data = as_jpeg(colourful(128, 128), restart=restart, progressive=int(kind == "progressive"))
    given_as = tiled(data) if kind == "tiled" else plain(data)
    # Sixteen ones are no code of any table (a zero byte behind 0xFF says that it is no marker).
    for at in (jpeg.read_frame(data).scan + 200, len(data) - 100):
        broken = bytearray(data)
        broken[at : at + 60] = b"\xff\0" * 30
        with pytest.raises(DamagedPicture, match="Corrupt JPEG data"):
            decode_region(Encoded(memoryview(bytes(broken)), given_as.lengths), (0, 0, 128, 128))


@pytest.mark.parametrize("decoder", STRICT, indirect=True)
def test_a_few_bytes_more_than_the_picture_do_no_harm(decoder: str) -> None:
    # Some files are padded; every pixel is there when a decoder meets that.
    box = (0, 30, 64, 64)
    for restart in (0, 2, 3):
        data = as_jpeg(colourful(64, 64), restart=restart)
        for more in (data[:-2] + bytes(7) + data[-2:], data + b"made by a camera", data[:-2]):
            assert_is_part_of(decode_region(plain(more), box), whole(data), box)
        with pytest.raises(DamagedPicture, match="extraneous"):
            decode_region(plain(data[:-2] + bytes(700) + data[-2:]), box)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8", b"no picture", b"\x89PNG\r\n\x1a\n", as_jpeg(colourful(32, 32))[:100]],
    ids=["empty", "only the marker", "text", "PNG signature", "half a header"],
)
def test_what_is_no_picture_is_called_damaged(data: bytes) -> None:
    with pytest.raises(DamagedPicture):
        decode_region(plain(data), (0, 0, 9, 9))


def test_a_damaged_png_is_damaged_wherever_the_box_lies() -> None:
    data = bytes(cv2.imencode(".png", colourful(64, 64))[1])
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    for broken in (data[: len(data) // 2], bytes(flipped)):
        with pytest.raises(DamagedPicture):
            decode_region(plain(broken), (0, 0, 5, 5))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["tiled", "intervals", "plain", "progressive"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    box=boxes(64, 48),
    shrink=st.sampled_from([1, 4]),
)
def test_whatever_is_changed_in_a_file_gives_pixels_or_says_that_it_is_damaged(
    kind: str, changes: list[tuple[float, int]], box: regions.Box, shrink: int
) -> None:
    restart = {"tiled": 2, "intervals": 3}.get(kind, 0)
    data = as_jpeg(colourful(64, 48), restart=restart, progressive=int(kind == "progressive"))
    lengths = tiled(data).lengths if kind == "tiled" else None
    broken = bytearray(data)
    for place, value in changes:
        broken[int(place * (len(data) - 1))] = value
    try:
        region = decode_region(Encoded(memoryview(bytes(broken)), lengths), box, shrink)
    except DamagedPicture as error:
        assert str(error)  # noqa: PT017
    else:
        assert region.pixels.ndim == 3
        assert region.pixels.shape[2] == 3


def test_a_header_that_cannot_be_read_does_not_disturb_the_next_picture(decoder: str) -> None:
    data = as_jpeg(colourful(32, 32))
    at = data.index(b"\xff\xc4") + 5  # how many codes of one bit there are: two at most
    bogus = data[:at] + b"\xff" + data[at + 1 :]
    with pytest.raises(DamagedPicture):
        decode_region(plain(bogus), (0, 0, 9, 9))
    assert_is_part_of(decode_region(plain(data), (0, 0, 9, 9)), whole(data), (0, 0, 9, 9))


# Memory and threads ------------------------------------------------------------------------------


def test_memory_is_reused_when_given_and_left_alone_otherwise(decoder: str) -> None:
    first, second = (as_jpeg(colourful(64, 64, seed)) for seed in (1, 2))
    box = (8, 8, 40, 40)
    memory = Memory()
    kept = decode_region(plain(first), box)
    lent = decode_region(plain(first), box, 1, memory)
    before = lent.pixels.copy()
    again = decode_region(plain(second), box, 1, memory)
    np.testing.assert_array_equal(kept.pixels, before)
    if decoder != "OpenCV alone":
        assert np.shares_memory(lent.pixels, again.pixels)
        assert not np.shares_memory(kept.pixels, lent.pixels)


def test_memory_grows_with_pictures_and_keeps_no_more_than_it_says() -> None:
    memory = Memory()
    small = memory.take(10, 10, 3)
    assert small.shape == (10, 10, 3)
    large = memory.take(4000, 3000, 3)
    assert large.shape == (4000, 3000, 3)
    assert np.shares_memory(memory.take(10, 10, 3), small)
    kept = memory.take(1000, 1000, 3)
    while isinstance(kept.base, np.ndarray):
        kept = kept.base
    assert kept.nbytes <= Memory.KEPT


def test_no_row_of_pixels_begins_where_processors_write_past_their_caches() -> None:
    memory = Memory()
    for shape in ((3, 5, 4), (300, 200, 4), (2000, 1000, 4), (10, 10, 3)):
        assert memory.take(*shape).ctypes.data % 16 == 8


def test_threads_do_not_disturb_each_other() -> None:
    pictures = [as_jpeg(colourful(120, 90, seed)) for seed in range(6)]
    references = [whole(data) for data in pictures]

    def work(seed: int) -> None:
        memory, rng = Memory(), np.random.default_rng(seed)
        for number in rng.integers(0, len(pictures), 60):
            x, y = rng.integers(0, 80, 2).tolist()
            box = (x, y, x + 30, y + 25)
            region = decode_region(plain(pictures[number]), box, 1, memory)
            assert_is_part_of(region, references[number], box)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))


# Which libraries ---------------------------------------------------------------------------------


def test_the_decoders_in_use_are_named(decoder: str) -> None:
    names = regions.decoders()
    assert list(names) == ["restart-tiled", "JPEG", "PNG and others"]
    assert names["PNG and others"].startswith("opencv")
    tiles = {"no simplejpeg": "libturbojpeg", "OpenCV alone": "opencv"}.get(decoder, "simplejpeg")
    assert names["restart-tiled"].startswith(tiles)
    assert ("libturbojpeg" in names["JPEG"]) == (decoder in ("both libraries", "no simplejpeg"))
    assert ("whole rows" in names["JPEG"]) != ("libturbojpeg" in names["JPEG"])


def test_libraries_that_are_too_old_or_none_at_all_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "libturbojpeg.so"
    text.write_text("not a library")
    found = turbojpeg.find()
    monkeypatch.setattr(turbojpeg, "_places", lambda: iter([str(text), "no such library"]))
    turbojpeg.find.cache_clear()
    try:
        assert turbojpeg.find() is None
        assert "whole rows" in regions.decoders()["JPEG"]
    finally:
        monkeypatch.undo()
        turbojpeg.find.cache_clear()
    assert (turbojpeg.find() is None) == (found is None)

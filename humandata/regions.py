"""Pixels of a part of an encoded picture, at a fraction of its size, without decoding the rest.

What is decoded, by format:

- restart-tiled JPEG: the tiles under the region (`humandata.jpeg.cut`), by simplejpeg;
- other baseline JPEG: entropy codes down to the bottom of the region, pixels of the region only, by
  libturbojpeg. Where that library is missing, simplejpeg decodes all columns down to the bottom;
- progressive JPEG: every code of the file, since each scan spans the whole picture, but pixels of
  the region only;
- PNG and whatever else OpenCV reads: the whole picture, of which the region is cut.

Pixels are the same whichever way is taken, and the same as in the whole picture decoded by
libjpeg-turbo with its exact integer DCT and smooth chroma upsampling.

What libjpeg calls a warning (codes that make no sense, an early end) is an error here, unless it
lies below the region. Where there are restart markers, damage shows at the next of them; a baseline
file without them has nothing to compare with before its end, so that changed bytes which still read
as codes are noticed only when the lowest rows are decoded (or by a store's checksums). OpenCV does
not tell of warnings; it decodes JPEG only where neither library is installed, or neither knows the
format (unusual chroma factors).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from humandata import jpeg, turbojpeg
from humandata.errors import HumandataError
from humandata.packs import Encoded
from humandata.pictures import DamagedPicture, Memory, cmyk_to_rgb
from humandata.pictures import decode as decode_whole

Box = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]

# Of several warnings libjpeg keeps the first. This one comes after the last row, so that it is the
# only one: what lies between the codes of that row and the end marker.
_SPARE = re.compile(r"(\d+) extraneous bytes before marker 0xd9")

# Some files are padded by a few bytes. More are a sign of codes that do not come out even.
_PADDING = 16

# Chroma of two samples a row and less is repeated by libjpeg, not interpolated: what is decoded of
# a wider picture must be more pixels across than this.
_NARROW = 4

# simplejpeg knows the layouts of turbojpeg.h and refuses the header of a file with another one.
_UNKNOWN_LAYOUT = re.compile(r"Could not determine (subsampling|colorspace)")


class Part(NamedTuple):
    """A region of a picture that is still to be decoded, and the bytes that it takes.

    Attributes
    ----------
    source : Encoded
        The file. Not looked at any more where there is a cut.
    frame : Frame or None
        Its header; None where it is no JPEG.
    cut : Cut or None
        The tiles under the region, of a tiled JPEG.
    box : (int, int, int, int)
        Left, top, right and bottom of the region in pixels of the reduced picture; empty where it
        does not meet the picture.
    shrink : int
    """

    source: Encoded
    frame: jpeg.Frame | None
    cut: jpeg.Cut | None
    box: Box
    shrink: int


class Region(NamedTuple):
    """A part of a picture.

    Attributes
    ----------
    pixels : (h, w, 3) uint8
        RGB, or (h, w, 4) with a channel without meaning where that was allowed. Empty (h or w is 0)
        where the box does not meet the picture.
    left, top : int
        Pixels of the picture; multiples of ``shrink``.
    shrink : int
        Pixel (i, j) covers the pixels ``left + shrink * j ... left + shrink * (j + 1) - 1`` and
        ``top + shrink * i ...`` of the picture.
    """

    pixels: Pixels
    left: int
    top: int
    shrink: int


def decode_region(
    encoded: Encoded,
    box: Box,
    shrink: int = 1,
    memory: Memory | None = None,
) -> Region:
    """Decode the part of a picture under a box.

    EXIF orientation is not applied; grey is repeated, CMYK and YCCK become RGB, transparency is
    dropped.

    Parameters
    ----------
    encoded : Encoded
        File and restart intervals, as `Store.encoded` gives them; ``Encoded(memoryview(data))``
        for any file.
    box : (int, int, int, int)
        Left, top, right and bottom, right and bottom excluded, in pixels of the picture. What lies
        outside of the picture is left out.
    shrink : {1, 2, 4, 8}
        Decode a JPEG at this fraction of its size (fewer coefficients, which is cheaper). Other
        formats have no smaller form and come at full size; so do JPEGs of less than a block.
    memory : Memory, optional
        Where pixels are written; they are then valid until it is used again. By default every
        region has its own.

    Returns
    -------
    Region
        Exactly the box, widened to multiples of ``shrink``.

    Raises
    ------
    DamagedPicture
        With the reason in the decoder's words.
    """
    return decode_part(take_part(encoded, box, shrink), memory)


def take_part(encoded: Encoded, box: Box, shrink: int = 1) -> Part:
    """The first half of `decode_region`: find and cut the bytes, decode nothing.

    Who decodes many regions takes several parts at once: decoding turns the interpreter out of the
    processor's caches, so that code which runs between two pictures takes twice as long.

    Parameters and errors are those of `decode_region`.
    """
    if shrink not in (1, 2, 4, 8):
        raise HumandataError(f"a picture cannot be shrunk by {shrink}: 1, 2, 4 and 8 are possible")
    data = encoded.data
    if bytes(data[:2]) != b"\xff\xd8":
        return Part(encoded, None, None, box, 1)
    frame = jpeg.read_frame(data)
    if frame.width < 8 and frame.height < 8:
        shrink = 1
    x0, y0, x1, y1 = box
    # In pixels of the reduced picture; negative numbers are divided after they are cut off.
    left, top = (x0 // shrink if x0 > 0 else 0), (y0 // shrink if y0 > 0 else 0)
    right = -(-(x1 if x1 < frame.width else frame.width) // shrink)
    bottom = -(-(y1 if y1 < frame.height else frame.height) // shrink)
    box = left, top, right, bottom
    if left >= right or top >= bottom:
        return Part(encoded, frame, None, box, shrink)
    if encoded.lengths is None:
        encoded = _intervals(data, frame)
        if encoded.lengths is None:
            return Part(encoded, frame, None, box, shrink)
    return Part(encoded, frame, _cut(encoded, frame, box, shrink), box, shrink)


def decode_part(part: Part, memory: Memory | None = None, loose: bool = False) -> Region:
    """The other half of `decode_region`.

    Parameters
    ----------
    part : Part
    memory : Memory, optional
    loose : bool
        Allow what suits a warp. A fourth channel without meaning: OpenCV warps four in less than
        half of the time of three, and libjpeg writes them as fast. And pixels around the box, which
        are near enough to the picture's to be looked at, but not always the same.

    Returns
    -------
    Region
        Of the box, widened to multiples of its ``shrink``; where loose, of what was decoded.

    Raises
    ------
    DamagedPicture
        With the reason in the decoder's words.
    """
    source, frame, cut, (left, top, right, bottom), shrink = part
    if frame is None:
        return _other(source.data, part.box)
    if left >= right or top >= bottom:
        return Region(np.empty((0, 0, 3), np.uint8), left * shrink, top * shrink, shrink)
    memory = Memory() if memory is None else memory
    layout = "CMYK" if frame.components == 4 else "RGBX" if loose else "RGB"
    if cut is None:
        pixels = _plain(source.data, frame, part.box, shrink, memory, layout)
    else:
        pixels = _whole(cut.data, cut.width, cut.height, shrink, memory, layout, _PADDING)
        if loose:
            left, top = cut.left // shrink, cut.top // shrink
        else:
            x, y = cut.left // shrink, cut.top // shrink
            pixels = pixels[top - y : bottom - y, left - x : right - x]
    if layout == "CMYK" and pixels.shape[2] == 4:
        pixels = cmyk_to_rgb(pixels)
    return Region(pixels, left * shrink, top * shrink, shrink)


def _intervals(data: memoryview, frame: jpeg.Frame) -> Encoded:
    """A file that may happen to be tiled, with its restart intervals if so."""
    if frame.restart_interval and not frame.mcus_per_row % frame.restart_interval:
        # Damaged, perhaps below the region only; or intervals too long.
        with suppress(HumandataError):
            lengths = jpeg.tile_lengths(data, frame)
            return Encoded(data[: frame.scan + int(lengths.sum())], lengths)
    return Encoded(data)


def _cut(encoded: Encoded, frame: jpeg.Frame, box: Box, shrink: int) -> jpeg.Cut:
    """The tiles under a box of the reduced picture."""
    left, top, right, bottom = box
    x, y = frame.mcu_width, frame.mcu_height
    outer = left * shrink, top * shrink, right * shrink, bottom * shrink
    # Reduced pixels of the commonest layout have a sample of chroma each: libjpeg shrinks its
    # blocks less, and interpolates nothing.
    margin = 0 if shrink > 1 and x == y == 16 else shrink
    assert encoded.lengths is not None
    try:
        cut = jpeg.cut(encoded.data, encoded.lengths, outer, frame, margin)
        if cut.width <= _NARROW * shrink:
            outer = outer[0] - x, outer[1] - y, outer[2] + x, outer[3] + y
            cut = jpeg.cut(encoded.data, encoded.lengths, outer, frame, margin)
    except HumandataError as error:  # the header does not fit the index
        raise DamagedPicture(str(error)) from error
    return cut


def _plain(
    data: memoryview, frame: jpeg.Frame, box: Box, shrink: int, memory: Memory, layout: str
) -> Pixels:
    """Pixels under a box of the reduced picture, from a JPEG that cannot be cut."""
    left, top, right, bottom = box
    height, spare = frame.height, _PADDING
    if not frame.progressive and _one_scan(data, frame):
        # A pixel more than asked for: chroma between two rows of samples is a mean of both.
        rows = -(-(bottom + 1) * shrink // frame.mcu_height)
        height = min(rows * frame.mcu_height, height)
        if height < frame.height or bytes(data[-2:]) != b"\xff\xd9":
            data = _upper_part(data, frame, rows, height)
        if height < frame.height:
            spare = len(data)
    library = turbojpeg.find()
    if library is None:
        whole = _whole(data, frame.width, height, shrink, memory, layout, spare)
        return whole[top:bottom, left:right]
    # Beside the left and the right edge of what is decoded chroma is not interpolated.
    last = -(-frame.width // shrink)
    wide = max(left - _NARROW, 0), top, min(right + _NARROW, last), bottom
    source = np.frombuffer(data, np.uint8)
    pixels, x, y, warning = library.decode(source, wide, shrink, memory, layout)
    _refuse(warning, spare)
    return pixels[top - y : bottom - y, left - x : right - x]


def _one_scan(data: memoryview, frame: jpeg.Frame) -> bool:
    # The scan header ends with 2 bytes per component and 3 more; before them, their number.
    return data[frame.scan - 4 - 2 * frame.components] == frame.components


def _upper_part(data: memoryview, frame: jpeg.Frame, rows: int, height: int) -> memoryview:
    """The file of a picture's upper MCU rows, at the end of which a decoder stops.

    It ends with an end marker in any case: a decoder that misses codes then calls that a premature
    end of the data, and one that has codes left calls them extraneous.
    """
    end = len(data)
    if frame.restart_interval:
        markers = jpeg.find_markers(data, frame.scan)
        last = -(-rows * frame.mcus_per_row // frame.restart_interval) - 1
        if last < len(markers):
            end = int(markers[last])
    at = frame.size_at
    parts = data[:at], height.to_bytes(2, "big"), data[at + 2 : end], b"\xff\xd9"
    return memoryview(b"".join(parts))


def _whole(
    data: bytes | bytearray | memoryview,
    width: int,
    height: int,
    shrink: int,
    memory: Memory,
    layout: str,
    spare: int,
) -> Pixels:
    """All pixels of a JPEG of the given size, reduced.

    ``spare`` is how many bytes may lie between the last row and the end marker.
    """
    height, width = -(-height // shrink), -(-width // shrink)
    decode = _simplejpeg()
    if decode is not None:
        pixels = memory.take(height, width, len(layout))
        try:
            # Of the library's fractions, the smallest that gives this size is 1 / shrink.
            decode(
                data,
                colorspace=layout,
                min_height=height,
                min_width=width,
                buffer=pixels.reshape(-1),
            )
            return pixels
        except ValueError as error:
            words = str(error)
            if not _UNKNOWN_LAYOUT.search(words):
                _refuse(words, spare)
                return pixels  # a warning is raised when the pixels are written already
    library = turbojpeg.find()
    if library is not None:
        box = 0, 0, width, height
        source = np.frombuffer(data, np.uint8)
        pixels, _, _, warning = library.decode(source, box, shrink, memory, layout)
        _refuse(warning, spare)
        return pixels
    return decode_whole(data, shrink)


def _refuse(warning: str, spare: int) -> None:
    found = _SPARE.search(warning)
    if warning and not (found and int(found[1]) <= spare):
        raise DamagedPicture(warning)


def _other(data: memoryview, box: Box) -> Region:
    """A picture that only OpenCV reads, decoded whole; the pixels are a copy of the part."""
    whole = decode_whole(data)
    left, top = max(box[0], 0), max(box[1], 0)
    pixels = whole[top : max(box[3], 0), left : max(box[2], 0)]
    return Region(pixels if pixels.size else pixels[:0], left, top, 1)


@cache
def _simplejpeg() -> Callable[..., Pixels] | None:
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    return decode_jpeg  # type: ignore[no-any-return]


def decoders() -> dict[str, str]:
    """The library that decodes each kind of picture: its name, version and place.

    Returns
    -------
    dict
        Keys ``restart-tiled``, ``JPEG`` and ``PNG and others``.
    """
    library, simple = turbojpeg.find(), _simplejpeg()
    other = _described("opencv", "cv2")
    turbo = f"libturbojpeg {library.version} ({library.path})" if library else ""
    tiles = _described("simplejpeg", "simplejpeg") if simple else turbo or other
    return {
        "restart-tiled": tiles,
        "JPEG": turbo or f"{tiles}, which decodes whole rows",
        "PNG and others": other,
    }


def _described(name: str, module: str) -> str:
    imported = importlib.import_module(module)
    return f"{name} {getattr(imported, '__version__', '')} ({imported.__file__})"

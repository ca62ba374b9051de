"""JPEG files as bytes: what a header says, where the restart intervals lie, and cuts made of them.

A restart-tiled JPEG is an ordinary baseline file with a restart marker after every few MCUs (the
blocks of 8×8 to 32×32 pixels that JPEG codes together), whose number divides the MCUs of a row.
Every interval decodes by itself, so the intervals under a region, put behind a header that gives
the region's size, are an ordinary small JPEG file: :func:`cut` makes it by slicing bytes, without
decoding anything. :mod:`humandata.transcode` makes tiled files of others.

Source: ITU-T T.81 (ISO/IEC 10918-1), Annex B for the segments, E.1.4 and E.2.4 for restarts; JFIF
1.02 and Adobe Technical Note 5116 for the two segments that say what the components mean.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from humandata.errors import HumandataError
from humandata.pictures import DamagedPicture

Buffer = bytes | bytearray | memoryview | NDArray[np.uint8]

SOF0, SOF1, SOF2, DHT, RST0, RST7 = 0xC0, 0xC1, 0xC2, 0xC4, 0xD0, 0xD7
SOI, EOI, SOS, DQT, DRI, APP0, APP14, COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE

# Start-of-frame markers: C0-CF but for DHT (C4), JPG (C8) and DAC (CC).
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# A JFIF segment without thumbnail. Only its presence tells decoders that the colours are YCbCr.
_JFIF = bytes.fromhex("ffe0 0010 4a46494600 0101 00 0001 0001 0000")


_segment = struct.Struct(">BBH").unpack_from  # 0xFF, marker, length
_frame = struct.Struct(">HBHHB").unpack_from  # length, precision, height, width, components

_CYCLE = bytes(range(RST0, RST7 + 1))  # restart markers, one after the other
_ENDS = _CYCLE + bytes([EOI])  # what an interval may end with


class Frame(NamedTuple):
    """What the header of a JPEG file says.

    Attributes
    ----------
    width, height : int
        Pixels, as stored (EXIF orientation is not looked at).
    components : int
        1 for grey, 3 for colour, 4 for CMYK and YCCK.
    mcu_width, mcu_height : int
        Pixels of one MCU. With one component it is a block of 8×8 whatever the sampling factors.
    mcus_per_row, mcu_rows : int
        How many MCUs the picture has; those at the right and bottom may reach over its edge.
    progressive : bool
        Coded in several scans of growing detail (SOF2, or a hierarchical or lossless process that
        is no single pass either). Such a file cannot be cut.
    restart_interval : int
        MCUs between restart markers, 0 for none.
    scan : int
        Offset of the first byte of entropy-coded data (of the first scan).
    size_at : int
        Offset of the frame header's height; height and width are big-endian 16-bit words there.
    tables : tuple of (int, int)
        Start and end offsets of everything in the header but APPn and COM segments: quantisation
        and Huffman tables, frame, restart interval and scan header, in the file's order. Ranges
        that touch are one.
    jfif : bool
        Whether there is a JFIF segment.
    adobe : tuple of (int, int) or None
        Start and end of the Adobe segment, which says whether components were transformed.
    """

    width: int
    height: int
    components: int
    mcu_width: int
    mcu_height: int
    mcus_per_row: int
    mcu_rows: int
    progressive: bool
    restart_interval: int
    scan: int
    size_at: int
    tables: tuple[tuple[int, int], ...]
    jfif: bool
    adobe: tuple[int, int] | None


class Cut(NamedTuple):
    """A part of a picture, as a JPEG file of its own.

    Attributes
    ----------
    data : bytearray
        A standard JPEG file.
    left, top : int
        Where its first pixel lies in the picture, in pixels.
    width, height : int
        Its size in pixels.
    """

    data: bytearray
    left: int
    top: int
    width: int
    height: int


def segments(view: memoryview, at: int = 2) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of one segment after the other; the start is that of the 0xFF.

    The last one given is a start of scan. Fill bytes before a marker belong to no segment.

    Raises
    ------
    DamagedPicture
        Where no marker is, where one stands that cannot be in a header, and at an early end.
    """
    size = len(view)
    while True:
        if at + 4 > size:
            raise DamagedPicture(f"JPEG file ends early, in its header ({size} bytes)")
        fixed, marker, length = _segment(view, at)
        if fixed != 0xFF:
            raise DamagedPicture(f"JPEG header is damaged: no marker at byte {at}")
        if marker == 0xFF:
            at += 1
            continue
        if marker < 0xC0 or RST0 <= marker <= EOI:
            raise DamagedPicture(f"JPEG header is damaged: marker {marker:#04x} at byte {at}")
        end = at + 2 + length
        if length < 2:
            raise DamagedPicture(f"JPEG header is damaged: a segment of no length at byte {at}")
        if end > size:
            raise DamagedPicture(f"JPEG file ends early, in its header ({size} bytes)")
        yield marker, at, end
        if marker == SOS:
            return
        at = end


def read_frame(data: Buffer) -> Frame:
    """Read the header of a JPEG file, up to its first scan; no byte behind that is touched.

    Parameters
    ----------
    data : bytes, memoryview or uint8 ndarray
        The file, or at least its header.

    Raises
    ------
    DamagedPicture
        If this is no JPEG file, or its header is damaged or incomplete.
    """
    view = memoryview(data)
    if bytes(view[:2]) != b"\xff\xd8":
        raise DamagedPicture("not a JPEG file")
    tables: list[tuple[int, int]] = []
    frame = interval = start = 0
    kind, jfif, adobe = -1, False, None
    for marker, at, end in segments(view):
        if APP0 <= marker <= COM:  # APPn, and extension segments that mean nothing
            if marker == APP0:
                jfif = jfif or bytes(view[at + 4 : at + 9]) == b"JFIF\0"
            elif marker == APP14 and bytes(view[at + 4 : at + 9]) == b"Adobe":
                adobe = at, end
            continue
        if tables and tables[-1][1] == at:
            tables[-1] = tables[-1][0], end
        else:
            tables.append((at, end))
        if marker in FRAMES:
            if kind >= 0 or end < at + 10:
                raise DamagedPicture("JPEG header is damaged: its frame header")
            kind, frame = marker, at
        elif marker == DRI:
            if end != at + 6:
                raise DamagedPicture("JPEG header is damaged: its restart interval")
            interval = view[at + 4] << 8 | view[at + 5]
        start = end
    if kind < 0:
        raise DamagedPicture("JPEG header gives no size")
    length, _, height, width, components = _frame(view, frame + 2)
    if not height or not width:
        raise DamagedPicture("JPEG header gives no size")
    if not components or length != 8 + 3 * components:
        raise DamagedPicture("JPEG header is damaged: its frame header")
    across = down = 1
    if components > 1:
        for factors in view[frame + 11 : frame + 10 + 3 * components : 3]:
            across, down = max(across, factors >> 4), max(down, factors & 15)
    across, down = 8 * across, 8 * down
    return Frame(
        width,
        height,
        components,
        across,
        down,
        -(-width // across),
        -(-height // down),
        kind not in (SOF0, SOF1),
        interval,
        start,
        frame + 5,
        tuple(tables),
        jfif,
        adobe,
    )


def find_markers(data: Buffer, start: int) -> NDArray[np.int64]:
    """Offsets of the markers in entropy-coded data: of each 0xFF that is not a stuffed byte.

    Parameters
    ----------
    data : bytes, memoryview or uint8 ndarray
        A JPEG file.
    start : int
        Where the entropy-coded data begin.

    Returns
    -------
    int64 ndarray
        Restart markers and the end marker, and whatever else stands there; offsets into ``data``.
    """
    coded = np.frombuffer(data, np.uint8)[start:]
    found: NDArray[np.int64] = np.flatnonzero(coded[:-1] == 0xFF)
    following = coded[found + 1]
    found = found[(following != 0) & (following != 0xFF)]
    found += start
    return found


def tile_lengths(data: Buffer, frame: Frame) -> NDArray[np.uint16]:
    """Length of every restart interval of a file with one scan.

    Parameters
    ----------
    data : bytes, memoryview or uint8 ndarray
        The whole file.
    frame : Frame
        Its header.

    Returns
    -------
    uint16 ndarray, shape (intervals,)
        Bytes of each interval with the marker behind it: a restart marker, and the end marker for
        the last one. They add up to the bytes from ``frame.scan`` to the end of the picture.

    Raises
    ------
    DamagedPicture
        If the markers are not those that the header promises.
    HumandataError
        If an interval is longer than 65,535 bytes, or there is more than one scan.
    """
    lengths = interval_lengths(data, frame)
    if lengths.max() > 0xFFFF:
        raise HumandataError(f"a restart interval of {lengths.max()} bytes; at most 65535 fit")
    return lengths.astype(np.uint16)


def interval_lengths(data: Buffer, frame: Frame) -> NDArray[np.int64]:
    """As :func:`tile_lengths`, of any length."""
    if frame.progressive:
        raise HumandataError("a progressive JPEG file has no restart intervals to cut")
    coded = np.frombuffer(data, np.uint8)
    found = find_markers(data, frame.scan)
    kinds = coded[found + 1]
    others = np.flatnonzero((kinds < RST0) | (kinds > RST7))
    if not len(others):
        raise DamagedPicture(f"JPEG file ends early ({len(coded)} bytes, no end marker)")
    last = int(others[0])
    if kinds[last] in (SOS, DHT, DQT, DRI):
        raise HumandataError("a JPEG file of several scans has no restart intervals to cut")
    if kinds[last] != EOI:
        raise DamagedPicture(f"JPEG file is damaged: marker {kinds[last]:#04x} in its scan")
    mcus = frame.mcus_per_row * frame.mcu_rows
    expected = -(-mcus // frame.restart_interval) if frame.restart_interval else 1
    if last + 1 != expected:
        raise DamagedPicture(
            f"JPEG file is damaged: {last + 1} restart intervals where its header says {expected}"
        )
    if (kinds[:last] != RST0 + np.arange(last) % 8).any():
        raise DamagedPicture("JPEG file is damaged: restart markers are out of order")
    return np.diff(found[:expected] + 2, prepend=frame.scan)


def cut(
    data: Buffer,
    lengths: NDArray[np.uint16],
    box: tuple[int, int, int, int],
    frame: Frame | None = None,
    margin: int = 1,
) -> Cut:
    """A small JPEG file of the tiles under a box; it decodes to the pixels of the whole picture.

    Where chroma is subsampled, decoders interpolate it across tile borders, so that the outermost
    pixels of the small file may differ. The tiles taken are those under the box widened by a
    margin, and every pixel of the box itself is exact.

    Parameters
    ----------
    data : bytes, memoryview or uint8 ndarray
        A tiled JPEG file: one scan, a restart interval that divides the MCUs of a row. Only the
        header and the bytes under the box are touched.
    lengths : uint16 ndarray, shape (intervals,)
        See :func:`tile_lengths`.
    box : (int, int, int, int)
        Left, top, right and bottom in pixels, right and bottom excluded. What lies outside of the
        picture is left out.
    frame : Frame, optional
        The file's header, where it has been read already.
    margin : int
        Pixels beyond the box that must be there too, for the sake of those in it: between two
        samples of chroma a pixel is made of both, the farther of which is in the tile of the next
        pixel. Where chroma is not subsampled there is none.

    Raises
    ------
    DamagedPicture
        If the lengths do not fit the file.
    HumandataError
        If the box lies outside of the picture, or the file is not tiled.
    """
    view = memoryview(data)
    frame = read_frame(view) if frame is None else frame
    step = frame.restart_interval
    if frame.progressive or not step or frame.mcus_per_row % step:
        raise HumandataError("this JPEG file is not tiled: no restart interval divides its rows")
    left, top, right, bottom = box
    if not (left < right and top < bottom and right > 0 and bottom > 0) or (
        left >= frame.width or top >= frame.height
    ):
        raise HumandataError(
            f"box {box} lies outside of a picture of {frame.width}×{frame.height} pixels"
        )
    across, rows = frame.mcus_per_row // step, frame.mcu_rows
    count = across * rows
    if len(lengths) != count:
        raise DamagedPicture(f"{len(lengths)} tiles in the index of a picture with {count}")
    ends = np.add.accumulate(lengths, dtype=np.int64)
    ends += frame.scan
    if ends.item(-1) != len(view):
        raise DamagedPicture(
            f"the tiles of the index end at byte {ends[-1]} of a picture of {len(view)} bytes"
        )

    tile_width, tile_height = frame.mcu_width * step, frame.mcu_height
    beside = margin if frame.mcu_width > 8 else 0
    above = margin if tile_height > 8 else 0
    first, last = max(left - beside, 0) // tile_width, -(-(right + beside) // tile_width)
    start, stop = max(top - above, 0) // tile_height, -(-(bottom + above) // tile_height)
    last, stop = min(last, across), min(stop, rows)
    left, top = first * tile_width, start * tile_height
    width = min(last * tile_width, frame.width) - left
    height = min(stop * tile_height, frame.height) - top

    header = _header(view, frame, width, height)
    taken = lengths.reshape(rows, across)[start:stop, first:last]
    parts: list[bytes | bytearray | memoryview] = [header]
    if last - first == across:  # neighbours in the file too
        begin = ends.item(start * across) - taken.item(0)
        parts.append(view[begin : ends.item(stop * across - 1)])
    else:
        nexts = ends[start * across + last - 1 : stop * across : across]
        begins = ends[start * across + first : stop * across : across] - taken[:, 0]
        parts += [view[a:b] for a, b in zip(begins.tolist(), nexts.tolist(), strict=True)]
    joined = bytearray().join(parts)

    # Restart markers count from 0 to 7 and over again; the last tile ends with the end marker.
    at = np.add.accumulate(taken.ravel(), dtype=np.int64)
    at += len(header) - 1
    merged = np.frombuffer(joined, np.uint8)
    count = len(at)
    # Whole byte strings are compared and stripped faster than arrays of this size.
    if merged[at].tobytes().strip(_ENDS) or merged[at - 1].tobytes() != b"\xff" * count:
        raise DamagedPicture("the index of tiles does not lead from marker to marker")
    merged[at] = np.frombuffer(_CYCLE * (count // 8 + 1), np.uint8, count)
    joined[-1] = EOI
    return Cut(joined, left, top, width, height)


def _header(view: memoryview, frame: Frame, width: int, height: int) -> bytearray:
    """The header of a picture of another size with the same tables."""
    header = bytearray(b"\xff\xd8")
    if frame.jfif:
        header += _JFIF
    if frame.adobe is not None:
        header += view[slice(*frame.adobe)]
    for start, end in frame.tables:
        if start < frame.size_at < end:
            size_at = len(header) + frame.size_at - start
        header += view[start:end]
    header[size_at : size_at + 4] = (height << 16 | width).to_bytes(4, "big")
    return header

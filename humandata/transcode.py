"""Lossless transcoding of JPEG pictures to restart-tiled JPEG.

:func:`tile` writes the quantised coefficients of a picture anew: in one baseline scan, with Huffman
tables made for the picture, and a restart marker after every tile. No coefficient changes, so every
decoder gives the pixels it gave before, at every DCT scale. :func:`humandata.jpeg.cut` takes parts
of the result.

A fatal error of libjpeg would end the process (:mod:`humandata.libjpeg` says why), so everything
that it checks is checked here first (ITU-T T.81 Annex B, and the checks of jdmarker.c, jdinput.c,
jdhuff.c, jdphuff.c, jchuff.c and jcmaster.c of libjpeg-turbo), and what does not pass is kept as
it is. Pictures of several scans are decoded first by simplejpeg, or by OpenCV, which survive what
they meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from humandata import jpeg, libjpeg
from humandata.jpeg import Frame
from humandata.pictures import DamagedPicture

SMALLEST = 64  # pixels; a smaller picture is no longer than the header of a cut
LARGEST = 1 << 27  # pixels; their coefficients take 0.8 GB without subsampling
MOST_SCANS = 100  # real files have some ten; a hostile one can have as many as it likes

TILE_WIDTH = 128  # pixels, and the range around it
NARROWEST, WIDEST = 48, 256

# A marker of 2 bytes, 2 bytes of the index, padding to whole bytes, and DC values coded as they
# are and not as differences: measured 5.0 to 5.9 on photographs at qualities 60 to 95.
INTERVAL_COST = 5.5
MARKERS_SHARE = 0.04  # of the picture's bytes that markers and index may take, as estimated
GROWTH = 1.05  # of the file with its index, as measured
# A progressive file is a little smaller than any baseline file of the same coefficients, so less
# is left for markers. But any part of it takes the whole to decode: even a larger file is a gain.
MARKERS_SHARE_PROGRESSIVE = 0.03
GROWTH_PROGRESSIVE = 1.15


@dataclass(frozen=True, slots=True)
class Tiled:
    """A picture with restart intervals.

    Attributes
    ----------
    data : bytes
        The JPEG file, from its start to its end marker.
    lengths : uint16 ndarray, shape (intervals,)
        Bytes of every interval, row by row (:func:`humandata.jpeg.tile_lengths`).
    tile_width : int
        MCUs in an interval; divides the MCUs of a row.
    """

    data: bytes
    lengths: NDArray[np.uint16]
    tile_width: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture that stays as it is.

    Attributes
    ----------
    reason : str
        Why, in words. Pictures kept for the same cause have the same words up to the first colon.
    """

    reason: str


class _Keep(Exception):
    """Leaves the work on a picture with the reason."""


def tile(data: bytes) -> Tiled | Kept:
    """Transcode a JPEG picture so that parts of it can be cut out.

    Parameters
    ----------
    data : bytes
        An encoded picture of any kind.

    Returns
    -------
    Tiled or Kept
        APPn and COM segments of the header (EXIF, ICC profile, XMP) are kept byte for byte. Data
        behind the end marker is not. The result depends on ``data`` and the version of the library
        alone.
    """
    lib = libjpeg.library()
    if isinstance(lib, str):
        return Kept(f"no library for transcoding: {lib}")
    if data[:2] != b"\xff\xd8":
        return Kept("not JPEG")
    try:
        frame, check = _inspect(data)
        if min(frame.width, frame.height) < SMALLEST:
            raise _Keep(f"too small to tile: {frame.width}×{frame.height} pixels")
        if check.scans > 1:
            _decode(data, frame)
        transform = libjpeg.transform(lib)
        try:
            if not transform.read(data):
                raise _Keep(f"damaged: {transform.warning}")
            _check_coefficients(transform, frame, check)
            return _write(transform, data, frame, check)
        finally:
            transform.close()
    except DamagedPicture as error:
        return Kept(f"damaged: {error}")
    except _Keep as reason:
        return Kept(str(reason))


def tile_widths(frame: Frame, size: int) -> list[int]:
    """Tile widths to try, the best first.

    Divisors of the MCUs in a row: the one nearest to 128 pixels, among those from 48 to 256 pixels
    whose markers and index take no more than 4 % of the file (3 % if it is progressive); where
    there is none, the narrowest above 256 pixels that takes no more, or a whole row. Then wider
    ones, and then narrower ones for pictures of so many bytes that the length of an interval does
    not fit 16 bits.

    Parameters
    ----------
    frame : Frame
        Header of the picture.
    size : int
        Bytes of the file.

    Returns
    -------
    list of int
        In MCUs; all divisors.
    """
    row = frame.mcus_per_row
    divisors = [width for width in range(1, row + 1) if row % width == 0]

    share = MARKERS_SHARE_PROGRESSIVE if frame.progressive else MARKERS_SHARE
    most = share * size / (INTERVAL_COST * frame.mcu_rows)  # tiles in a row

    def strangeness(width: int) -> tuple[bool, float]:
        pixels = width * frame.mcu_width
        return pixels > WIDEST, abs(math.log(pixels / TILE_WIDTH))

    affordable = [
        width for width in divisors if width * frame.mcu_width >= NARROWEST and row <= width * most
    ]
    best = min(affordable, key=strangeness, default=row)
    wider = [width for width in divisors if width > best]
    narrower = [width for width in reversed(divisors) if width < best]
    return [best, *wider, *narrower]


def _write(transform: libjpeg.Transform, data: bytes, frame: Frame, check: _Check) -> Tiled:
    """Write with the first tile width that keeps the file small and its intervals below 64 KiB."""
    limit = len(data) * (GROWTH_PROGRESSIVE if check.scans > 1 else GROWTH)
    reason = ""
    longest_fails = frame.mcus_per_row + 1  # tiles as wide as this have too long intervals
    largest_fails = 0  # tiles as narrow as this make the file too large
    for width in tile_widths(frame, len(data)):
        if not largest_fails < width < longest_fails:
            continue
        written = _splice(transform.write(width), data, frame, check)
        result = jpeg.read_frame(written)
        same = ("width", "height", "components", "mcu_width", "mcu_height")
        if (
            result.progressive
            or result.restart_interval != width
            or any(getattr(result, name) != getattr(frame, name) for name in same)
        ):
            raise _Keep("the libjpeg found writes something else than it was asked for")
        lengths = jpeg.interval_lengths(written, result)
        if lengths.max() > 0xFFFF:
            reason = f"a tile takes more than 65535 bytes: {lengths.max()}"
            longest_fails = width
        elif (size := len(written) + 2 * len(lengths)) > limit:
            reason = f"tiles would make it much larger: {size / len(data) - 1:.0%}"
            largest_fails = width
        else:
            return Tiled(written, lengths.astype(np.uint16), width)
    raise _Keep(reason)


def _splice(written: bytes, data: bytes, frame: Frame, check: _Check) -> bytes:
    """Put the original's APPn and COM segments in the place of those that libjpeg wrote."""
    tables = jpeg.read_frame(written).tables
    return b"".join(
        [
            b"\xff\xd8",
            *(data[start:end] for start, end in check.kept_segments),
            *(written[start:end] for start, end in tables),
            memoryview(written)[tables[-1][1] :],
        ]
    )


def _decode(data: bytes, frame: Frame) -> None:
    """Decode at an eighth of the size, to see that libjpeg can read all scans."""
    import simplejpeg

    try:
        space = "CMYK" if frame.components == 4 else "GRAY"
        simplejpeg.decode_jpeg(data, space, min_height=1, min_width=1)
    except ValueError as error:
        # TurboJPEG, which simplejpeg uses, knows the customary sampling factors only.
        if "subsampling" not in str(error):
            raise _Keep(f"damaged: {error}") from error
        import cv2

        flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
        if cv2.imdecode(np.frombuffer(data, np.uint8), flags) is None:
            raise _Keep("damaged: some of its scans cannot be read") from None


def _check_coefficients(transform: libjpeg.Transform, frame: Frame, check: _Check) -> None:
    """Make sure that every coefficient has a Huffman symbol in a baseline file.

    DC values of 8-bit pictures lie from -1024 to 1023, so that differences have at most 11 bits
    (T.81 F.1.2.1); AC values have at most 10 bits, which -1024 has not (F.1.2.2). Tables can
    describe more, and a damaged file may accumulate more; the writer ends with a fatal error there.
    """
    for number, (across, down) in enumerate(check.sampling):
        if len(check.sampling) == 1:
            # One block an MCU, but libjpeg rounds its arrays up to whole sampling factors.
            blocks = -(-frame.mcus_per_row // across) * across
            rows = -(-frame.mcu_rows // down) * down
        else:
            blocks, rows = frame.mcus_per_row * across, frame.mcu_rows * down
        values = transform.coefficients(number, rows, blocks)
        if check.plain_tables:
            values = values[..., :1]  # the others cannot be larger
        if values.max() > 1023 or (
            values.min() < -1023
            and (values[..., 0].min() < -1024 or values[..., 1:].min(initial=0) < -1023)
        ):
            raise _Keep("unusual JPEG: coefficients beyond what the baseline process holds")


@dataclass(slots=True)
class _Check:
    """What following a whole file has found, beyond its :class:`Frame`."""

    sampling: list[tuple[int, int]] = field(default_factory=list)  # across, down; by component
    scans: int = 0
    plain_tables: bool = True  # Huffman symbols as T.81 has them for 8 bits, and one scan
    kept_segments: list[tuple[int, int]] = field(default_factory=list)


def _inspect(data: bytes) -> tuple[Frame, _Check]:
    """Follow a file from marker to marker and check all that libjpeg would fail on.

    Raises
    ------
    DamagedPicture
        If the file breaks the rules of the format, or ends early.
    _Keep
        If it keeps them but cannot be transcoded.
    """
    frame = jpeg.read_frame(data)
    check = _Check()
    kind = data[frame.size_at - 4]
    if kind not in (jpeg.SOF0, jpeg.SOF1, jpeg.SOF2):
        raise _Keep("unusual JPEG: a lossless, hierarchical or arithmetic process")
    components = _components(data, frame, check)
    quantisation: set[int] = set()
    huffman: set[tuple[int, int]] = set()
    seen: set[int] = set()
    coded = 0
    markers = jpeg.find_markers(data, frame.scan)
    kinds = np.frombuffer(data, np.uint8)[markers + 1]
    markers = markers[(kinds < jpeg.RST0) | (kinds > jpeg.RST7)]
    at = 2
    while True:
        for marker, start, end in jpeg.segments(memoryview(data), at):
            body = data[start + 4 : end]
            if marker == jpeg.DQT:
                if check.scans:
                    raise _Keep("unusual JPEG: quantisation tables that change between scans")
                quantisation |= _quantisation(body)
            elif marker == jpeg.DHT:
                huffman |= _huffman(body, check)
            elif marker == jpeg.SOS:
                names = _scan(body, components, huffman, kind == jpeg.SOF2)
                if kind != jpeg.SOF2 and names & seen:
                    raise DamagedPicture("a component has more than one scan")
                seen |= names
            elif jpeg.APP0 <= marker < 0xF0 or marker == jpeg.COM:
                if not check.scans:
                    check.kept_segments.append((start, end))
            elif marker == jpeg.DRI:
                if len(body) != 2:
                    raise DamagedPicture("JPEG header is damaged: its restart interval")
            elif marker != kind or check.scans:
                raise _Keep(f"unusual JPEG: marker {marker:#04x}")
        check.scans += 1
        following = int(np.searchsorted(markers, end))
        if following == len(markers):
            raise DamagedPicture(f"JPEG file ends early ({len(data)} bytes, no end marker)")
        at = int(markers[following])
        coded += at - end
        if data[at + 1] == jpeg.EOI:
            break
        if check.scans == MOST_SCANS:
            raise _Keep(f"unusual JPEG: more than {MOST_SCANS} scans")
    if not {table for *_, table in components.values()} <= quantisation:
        raise DamagedPicture("a quantisation table is missing")
    if seen != set(components):
        raise DamagedPicture("a component has no scan")
    # Every block takes a symbol of at least one bit for its DC value, and in a sequential file one
    # more. So a small file cannot make us allocate a large picture. (Scans of one component leave
    # out blocks beyond the edge, never half of them in a picture that is not too small.)
    sampled = check.sampling if len(check.sampling) > 1 else [(1, 1)]
    blocks = sum(across * down for across, down in sampled) * frame.mcus_per_row * frame.mcu_rows
    if coded * 8 < blocks * (1 if kind == jpeg.SOF2 else 2) // 2:
        raise DamagedPicture(f"JPEG file ends early ({len(data)} bytes)")
    check.plain_tables = check.plain_tables and check.scans == 1
    return frame, check


def _components(data: bytes, frame: Frame, check: _Check) -> dict[int, tuple[int, int, int]]:
    """Sampling factors (across, down) and quantisation table of every component, by its id."""
    if data[frame.size_at - 1] != 8:
        raise _Keep(f"unusual JPEG: {data[frame.size_at - 1]} bits a sample")
    if max(frame.width, frame.height) > 65500 or frame.width * frame.height > LARGEST:
        raise _Keep(f"too large to transcode: {frame.width}×{frame.height} pixels")
    if frame.components not in (1, 3, 4):
        raise _Keep(f"unusual JPEG: {frame.components} components")
    found: dict[int, tuple[int, int, int]] = {}
    at = frame.size_at + 5
    for name, factors, table in zip(
        *(data[at + i : at + 3 * frame.components : 3] for i in range(3)), strict=True
    ):
        across, down = factors >> 4, factors & 15
        if not 1 <= across <= 4 or not 1 <= down <= 4 or table > 3 or name in found:
            raise DamagedPicture("JPEG header is damaged: its frame header")
        found[name] = across, down, table
        check.sampling.append((across, down))
    blocks = sum(across * down for across, down in check.sampling)
    if frame.components > 1 and blocks > 10:
        raise _Keep(f"unusual JPEG: {blocks} blocks in an MCU, where 10 may be in one scan")
    return found


def _quantisation(body: bytes) -> set[int]:
    """Numbers of the tables that a DQT segment defines (T.81 B.2.4.1)."""
    found = set()
    at = 0
    while at < len(body):
        precision, number = body[at] >> 4, body[at] & 15
        at += 1 + 64 * (precision + 1)
        if precision > 1 or number > 3 or at > len(body):
            raise DamagedPicture("JPEG header is damaged: its quantisation tables")
        found.add(number)
    return found


def _huffman(body: bytes, check: _Check) -> set[tuple[int, int]]:
    """Class (0 for DC, 1 for AC) and number of the tables of a DHT segment (T.81 B.2.4.2)."""
    found = set()
    at = 0
    while at < len(body):
        kind, number = body[at] >> 4, body[at] & 15
        counts = body[at + 1 : at + 17]
        symbols = body[at + 17 : at + 17 + sum(counts)]
        at += 17 + sum(counts)
        if kind > 1 or number > 3 or sum(counts) > 256 or at > len(body):
            raise DamagedPicture("JPEG header is damaged: its Huffman tables")
        code = 0
        for length, count in enumerate(counts, 1):
            code = 2 * code + count
            # No code may be all ones (T.81 C.2), and there must be room for all.
            if code >= 1 << length:
                raise DamagedPicture("JPEG header is damaged: its Huffman tables")
        if kind == 0:
            if max(symbols, default=0) > 15:
                raise DamagedPicture("JPEG header is damaged: its Huffman tables")
            check.plain_tables &= max(symbols, default=0) <= 11
        else:
            check.plain_tables &= all(symbol & 15 <= 10 for symbol in symbols)
        found.add((kind, number))
    return found


def _scan(
    body: bytes,
    components: dict[int, tuple[int, int, int]],
    huffman: set[tuple[int, int]],
    progressive: bool,
) -> set[int]:
    """Ids of the components of a scan, once its header is sound (T.81 B.2.3, G.1.1.1.1)."""
    wrong = DamagedPicture("JPEG header is damaged: its scan header")
    if not body or not 1 <= body[0] <= 4 or len(body) != 4 + 2 * body[0]:
        raise wrong
    names, tables = body[1:-3:2], body[2:-3:2]
    first, last, high, low = body[-3], body[-2], body[-1] >> 4, body[-1] & 15
    if len(set(names)) != len(names) or not set(names) <= set(components):
        raise wrong
    if len(names) > 1 and sum(components[n][0] * components[n][1] for n in names) > 10:
        raise wrong
    constant, varying = True, True  # which tables the scan needs
    if progressive:
        constant, varying = first == 0 and high == 0, first > 0
        if (last != 0) if first == 0 else (first > last or last > 63 or len(names) > 1):
            raise wrong
        if (high and low != high - 1) or low > 13:
            raise wrong
    elif (first, last, high, low) != (0, 63, 0, 0):
        raise wrong
    for both in tables:
        if (constant and (0, both >> 4) not in huffman) or (
            varying and (1, both & 15) not in huffman
        ):
            raise DamagedPicture("a Huffman table is missing")
    return set(names)

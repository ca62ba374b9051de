"""Encoded pictures: what a file is, whether it is whole, and its pixels.

Pixels are taken as they lie in the file. EXIF rotation is never applied, because annotations were
made on the stored pixels; OpenCV would rotate by default, libjpeg and PIL do not.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.errors import HumandataError


class DamagedPicture(HumandataError):
    """An encoded picture that is truncated, or is no picture at all."""


@dataclass(frozen=True)
class PictureInfo:
    """Format and size of an encoded picture, read from its header.

    ``damage`` says in words what is missing of a picture that is whole in its upper part at best;
    it is empty where nothing is known to be.
    """

    format: str
    width: int
    height: int
    damage: str = ""


class Memory:
    """Room for decoded pixels, kept from one picture to the next.

    Fresh memory makes decoding up to a fifth dearer, since the system clears and maps every page of
    it on the first touch. One `Memory` serves one thread.

    Nor does it start where a processor likes it: rows that begin at multiples of 16 or 32 bytes are
    written by libjpeg-turbo past the caches ("streaming stores"), and whoever looks at the pixels
    next waits for main memory. Warping what was just decoded takes half as long again then.
    """

    KEPT = 4 << 20
    """Bytes that are kept; a larger picture gets memory of its own each time."""

    _OFF = 8
    """Bytes from a multiple of 32 at which pixels begin."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def take(self, height: int, width: int, channels: int) -> NDArray[np.uint8]:
        """An array of that shape, not filled; valid until the next call."""
        needed = height * width * channels
        if needed <= self._bytes.size:
            return self._bytes[:needed].reshape(height, width, channels)
        room = needed + self._OFF + 32
        kept = room <= self.KEPT
        fresh = np.empty(min(2 * room, self.KEPT) if kept else room, np.uint8)
        fresh = fresh[-fresh.ctypes.data % 32 + self._OFF :]
        if kept:
            self._bytes = fresh
        return fresh[:needed].reshape(height, width, channels)


def probe(data: bytes, partial: bool = False) -> PictureInfo:
    """Read format and size, and see whether the file is whole, without decoding pixels.

    JPEG: the markers are followed to the first scan, and the end marker must be there. PNG: the
    header and the end chunk. Anything else is decoded.

    Parameters
    ----------
    data : bytes
        The file.
    partial : bool
        Accept a JPEG file that ends after its header and before its end: its upper rows can be
        decoded.

    Raises
    ------
    DamagedPicture
        With the reason in words.
    """
    if data[:2] == b"\xff\xd8":
        return _probe_jpeg(data, partial)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        if len(data) < 33 or b"IEND" not in data[-16:]:
            raise DamagedPicture(f"PNG file ends early ({len(data)} bytes, no end chunk)")
        width, height = struct.unpack(">II", data[16:24])
        return PictureInfo("png", width, height)
    if not data:
        raise DamagedPicture("the file is empty")
    height, width = decode(data).shape[:2]
    return PictureInfo("other", width, height)


# Start-of-frame markers carry the size: C0-CF but for DHT (C4), JPG (C8) and DAC (CC).
_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _probe_jpeg(data: bytes, partial: bool) -> PictureInfo:
    """Follow the segments of ITU-T T.81 Annex B up to the first scan."""
    size: tuple[int, int] | None = None
    at = 2
    while True:
        if at + 4 > len(data):
            raise DamagedPicture(f"JPEG file ends early, in its header ({len(data)} bytes)")
        if data[at] != 0xFF:
            raise DamagedPicture(f"JPEG header is damaged: no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _SIZE_MARKERS:
            if at + 9 > len(data):
                raise DamagedPicture("JPEG file ends early, in its frame header")
            size = (
                int.from_bytes(data[at + 7 : at + 9], "big"),
                int.from_bytes(data[at + 5 : at + 7], "big"),
            )
        at += 2 + length
    if size is None or 0 in size:
        raise DamagedPicture("JPEG header gives no size")
    # Cameras and tools append data behind the end marker, so look for it rather than at the end.
    damage = ""
    if data.rfind(b"\xff\xd9", at) < 0:
        damage = f"JPEG file ends early ({len(data)} bytes, no end marker)"
        if not partial:
            raise DamagedPicture(damage)
    return PictureInfo("jpeg", *size, damage)


def decode(
    data: bytes | bytearray | memoryview | NDArray[np.uint8], reduce: int = 1
) -> NDArray[np.uint8]:
    """Decode to RGB.

    Parameters
    ----------
    data : bytes, memoryview or uint8 ndarray
        An encoded picture.
    reduce : {1, 2, 4, 8}
        Decode at this fraction of the size (JPEG decodes fewer coefficients, which is faster).

    Returns
    -------
    uint8 ndarray, shape (height, width, 3)
        RGB; greyscale is repeated. EXIF rotation is not applied.

    Raises
    ------
    DamagedPicture
        If no picture can be decoded.
    """
    import cv2

    flags: dict[int, Any] = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }
    buffer = np.frombuffer(data, np.uint8)
    try:
        picture = cv2.imdecode(buffer, flags[reduce] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DamagedPicture(f"cannot be decoded: {error}") from error
    if picture is None:
        raise DamagedPicture(f"no known picture format ({len(buffer)} bytes)")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def cmyk_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB of the four components of a JPEG, (h, w, 4), which are inverted (Adobe Photoshop's way).

    The formula is OpenCV's, so that `decode` gives the same.
    """
    wide = pixels.astype(np.int32)
    black = wide[..., 3:]
    return (black - ((255 - wide[..., :3]) * black >> 8)).astype(np.uint8)


def encode_jpeg(picture: NDArray[np.uint8], quality: int = 92) -> bytes:
    """Encode an RGB picture, uint8 (height, width, 3), as baseline JPEG."""
    import cv2

    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise HumandataError(f"a picture of shape {picture.shape} cannot be encoded as JPEG")
    return bytes(data)

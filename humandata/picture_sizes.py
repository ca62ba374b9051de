"""Sizes of picture files from their headers, without reading or decoding the rest."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata.pictures import DamagedPicture, probe

_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def picture_sizes(root: Path, paths: Sequence[str]) -> NDArray[np.int32]:
    """Width and height of each picture, (n, 2), as it lies in the file (EXIF is not applied).

    Zeros where there is no such file, or no size can be read; a truncated picture still has one.
    A path that occurs several times is opened once.
    """
    known: dict[str, tuple[int, int]] = {}
    for path in paths:
        if path not in known:
            known[path] = _size(root / path)
    return np.array([known[path] for path in paths], np.int32).reshape(-1, 2)


def _size(file: Path) -> tuple[int, int]:
    try:
        with open(file, "rb") as stream:
            start = stream.read(26)
            if start[:8] == b"\x89PNG\r\n\x1a\n" and len(start) >= 24:
                width, height = struct.unpack(">II", start[16:24])
                return width, height
            if start[:2] == b"\xff\xd8":
                stream.seek(2)
                return _jpeg_size(stream.read)
        info = probe(file.read_bytes())
    except (OSError, DamagedPicture, struct.error):
        return 0, 0
    return info.width, info.height


def _jpeg_size(read: Callable[[int], bytes]) -> tuple[int, int]:
    """Follow the segments up to the frame header (ITU-T T.81, B.2.2)."""
    while True:
        byte = read(1)
        while byte == b"\xff":
            marker = read(1)
            if marker != b"\xff":
                break
        else:
            return 0, 0
        (length,) = struct.unpack(">H", read(2))
        if marker[0] in _FRAME_MARKERS:
            _, height, width = struct.unpack(">BHH", read(5))
            return width, height
        if marker == b"\xda":
            return 0, 0
        read(max(length - 2, 0))

"""Frames of videos as encoded pictures, decoded one after another and straight from the file.

Frames are counted from 0 in the order in which the decoder hands them out. Nothing is sought:
with B-frames or edit lists, a seek lands a frame or two beside the one asked for, and the
annotation with it. Frames between those wanted are decoded, since later ones build upon them, but
neither converted to pixels nor copied.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from humandata.jpeg import Frame
    from humandata.packs import Encoded

QUALITY = 95
"""JPEG quality of the pictures, with colour at half resolution, as the videos have it."""

RECORDED = {
    "pictures": f"frames decoded from the video and encoded as JPEG of quality {QUALITY}, 4:2:0"
}
"""Attribute of ``images/video``, so that a store says that its pictures are not the release's."""


class VideoProblem(OSError):
    """Why a frame cannot be had; ``reason`` is the word under which a reject is counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


_open: _Reader | None = None
"""The video read last in this process: the next pack mostly goes on where the last one ended."""


def read_frames(
    root: Path, videos: Sequence[str], frames: Sequence[int], tiled: bool = False
) -> Iterator[bytes | Encoded | VideoProblem]:
    """Decode frames and encode each as JPEG.

    Parameters
    ----------
    root : Path
        Folder that ``videos`` are relative to.
    videos : sequence of str, length N
        Rows of one video are best neighbours: it is opened anew whenever another one was asked
        for in between, or an earlier frame.
    frames : sequence of int, length N
        Frame numbers, from 0.
    tiled : bool
        Write restart markers at once; this spares the transcoding that picture files need.

    Yields
    ------
    bytes, Encoded or VideoProblem
        A JPEG per row, tiled where that was asked for and is possible; or why there is none: the
        video is missing, damaged or ends before that frame. Damage that the decoder can paint over
        is not noticed; it does not shift the frames behind it.
    """
    global _open
    for video, frame in zip(videos, frames, strict=True):
        if _open is None or (_open.root, _open.name) != (root, video) or frame < _open.at:
            if _open is not None:
                _open.close()
            _open = _Reader(root, video)
        try:
            picture = _open.read(int(frame))
            yield _tiled(picture) if tiled else _encode(picture, 0)
        except VideoProblem as error:
            yield error
    if _open is not None and _open.ended:
        _open.close()
        _open = None


class _Reader:
    """One video that is read forwards."""

    def __init__(self, root: Path, name: str) -> None:
        import cv2

        file = root / name
        self.root = root
        self.name = name
        self.at = -1  # frame that was handed out or skipped last
        self._problem: VideoProblem | None = None
        self._capture: Any = None
        self._picture: Any = None  # its memory is used again: fresh pages cost a tenth of decoding
        # FFmpeg writes each complaint to standard error; ours go to the list of rejects.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")
        if not file.is_file():
            # Not a word about videos: the user may have meant frames that lie extracted.
            self._problem = VideoProblem("missing_picture", f"there is no video {name}")
            return
        # One thread per worker process: the runner has as many of these as there are cores.
        settings = [cv2.CAP_PROP_N_THREADS, 1]
        self._capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG, settings)
        if not self._capture.isOpened():
            self._problem = VideoProblem(
                "damaged_video", f"the video {name} cannot be opened: it is damaged or empty"
            )
        # Annotations were made on the pixels as they are stored.
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)

    @property
    def ended(self) -> bool:
        """Whether nothing more can be read."""
        return self._problem is not None

    def read(self, frame: int) -> Any:
        """The frame, uint8 (height, width, 3), BGR; VideoProblem where the video has none.

        It is valid until the next call.
        """
        while self._problem is None and self.at < frame:
            if self._capture.grab():
                self.at += 1
            else:
                self._problem = self._ended(frame)
        if self._problem is not None:
            raise self._problem
        done, self._picture = self._capture.retrieve(self._picture)
        if not done:
            raise VideoProblem(
                "damaged_video", f"frame {frame} of the video {self.name} cannot be decoded"
            )
        return self._picture

    def _ended(self, frame: int) -> VideoProblem:
        """Nothing more can be decoded: is the video over, or does its header promise the frame?"""
        import cv2

        count, promised = self.at + 1, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        said = f"the video {self.name} ends after {count} frames"
        if promised <= frame:
            return VideoProblem("video_too_short", said)
        return VideoProblem(
            "damaged_video", f"{said} where its header says {promised}: it is damaged there"
        )

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()


def _tiled(picture: Any) -> bytes | Encoded:
    from humandata import jpeg
    from humandata.packs import Encoded

    width, header, frame = _tiling(*picture.shape[:2])
    data = _encode(picture, width)
    if not data.startswith(header):
        frame = jpeg.read_frame(data)
    lengths = jpeg.interval_lengths(data, frame)
    if lengths.max() > 0xFFFF:  # the lengths are kept in 16 bits
        return _encode(picture, 0)
    return Encoded(memoryview(data), lengths.astype(np.uint16))


@functools.cache
def _tiling(height: int, width: int) -> tuple[int, bytes, Frame]:
    """How frames of a size are tiled: MCUs per tile, and the header that all of them share.

    The width is what transcoding takes where the bytes of the markers do not matter.
    """
    from humandata import jpeg
    from humandata.transcode import tile_widths

    empty = np.zeros((height, width, 3), np.uint8)
    mcus = tile_widths(jpeg.read_frame(_encode(empty, 0)), 2**40)[0]
    data = _encode(empty, mcus)
    frame = jpeg.read_frame(data)
    return mcus, data[: frame.scan], frame


def _encode(picture: Any, restart: int) -> bytes:
    """Baseline JPEG with colour at half resolution; ``restart`` MCUs between markers, 0: none."""
    import cv2

    settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    done, data = cv2.imencode(".jpg", picture, settings)
    if not done:
        raise VideoProblem("damaged_video", "a frame cannot be encoded as JPEG")
    return bytes(data)


def existing(root: Path, names: Sequence[str]) -> set[str]:
    """Which of some files exist, all of them in one folder, which is listed once.

    Parameters
    ----------
    root : Path
    names : sequence of str
        Relative to ``root``.
    """
    if not names:
        return set()
    folder = os.path.dirname(names[0])
    try:
        # A flat folder that holds the frames of all videos is much larger than one video's names.
        if "/" not in folder:
            return {name for name in names if (root / name).is_file()}
        return {f"{folder}/{entry}" for entry in os.listdir(root / folder)}
    except OSError:
        return set()

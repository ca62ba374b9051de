"""Write packs: encoded pictures one after another, tiled where that is wished, and crops.

A pack is written once, by one process, and what it turned out to hold lies beside it
(``pictures/NNNNN.json``, ``crops/NNNNN.npy``) until the commit makes columns of it.
:mod:`humandata.packs` reads them.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from humandata.columns import Reject
from humandata.cropping import Crops
from humandata.packs import Crop, Encoded
from humandata.pictures import DamagedPicture, decode, probe
from humandata.tar_files import read_file
from humandata.videos import VideoProblem, read_frames
from humandata.zarr_files import MAX_BLOB_CHUNK, Array, crc32c, write_array

PICTURES_PER_PACK = 512
FEWEST_FRAMES = 64
FOUND = ("there", "offset", "length", "crc32c", "width", "height", "tile_width", "tile_count")
"""Columns of ``pictures/NNNNN.json``; ``there`` 0 says that the picture could not be used."""
CROP = np.dtype(
    [
        ("row", np.int64),
        ("offset", np.int64),
        ("length", np.int64),
        ("crc32c", np.uint32),
        ("square", np.float32, 3),
    ]
)
"""Rows of ``crops/NNNNN.npy``: the row of instances within its unit, and where its crop lies."""


@dataclass
class _Found:
    """What the pictures of one pack turned out to be, in their order."""

    rows: list[tuple[int, ...]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)

    def refuse(self, name: str, error: OSError | DamagedPicture) -> None:
        if isinstance(error, VideoProblem):
            reason, detail = error.reason, str(error)
        elif isinstance(error, OSError):
            reason, detail = "missing_picture", f"cannot be read: {error.strerror or error}"
        else:
            reason, detail = "damaged_picture", str(error)
        self.rejects.append(Reject(name, "", reason, detail))
        self.rows.append((0,) * len(FOUND))

    def save(self, partial: Path, number: int, offsets: Sequence[int]) -> None:
        table = np.array(self.rows, np.int64).reshape(-1, len(FOUND))
        table[table[:, FOUND.index("length")] > 0, FOUND.index("offset")] = offsets
        rejects = [asdict(reject) for reject in self.rejects]
        found = {"rows": table.tolist(), "rejects": rejects, "kept": self.kept}
        file = partial / "pictures" / f"{number:05d}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(found), encoding="utf-8")
        _flush(file)


Frames = Sequence[tuple[str, int]]
"""Per picture, the video it is a frame of (empty: it is a file of its own) and the frame."""


def copy_files(
    partial: str, number: int, root: str, names: Sequence[str], frames: Frames, tiled: bool
) -> list[Reject]:
    """Make a pack of picture files, or of frames of videos; runs in a worker process."""
    pictures = read_pictures(Path(root), names, frames, tiled)
    return write_pack(Path(partial), number, pictures, names, tiled)


def read_pictures(
    root: Path, names: Sequence[str], frames: Frames, tiled: bool = False
) -> Iterator[bytes | Encoded | OSError]:
    """The content of files, or of frames as JPEG; or why one cannot be read."""
    rows = range(len(names))
    for video, group in itertools.groupby(rows, key=lambda row: frames[row][0]):
        if video:
            numbers = [frames[row][1] for row in group]
            yield from read_frames(root, [video] * len(numbers), numbers, tiled)
            continue
        for row in group:
            try:
                yield read_file(root / names[row])
            except OSError as error:
                yield error


def blocks(films: Sequence[str], most: int = PICTURES_PER_PACK) -> list[slice]:
    """Rows of each pack: packs end where another video begins, unless they are quite short."""
    found, start, film = [], 0, ""
    for row, name in enumerate(films):
        other = bool(name) and name != film and row - start >= FEWEST_FRAMES
        if row - start == most or other:
            found.append(slice(start, row))
            start = row
        film = name or film
    return [*found, slice(start, len(films))] if len(films) else []


def in_turn(
    partial: str, work: Callable[..., list[Reject]], jobs: Sequence[tuple[int, tuple[Any, ...]]]
) -> list[tuple[int, list[Reject]]]:
    """Make packs one after another: those of one video, which is then decoded once."""
    return [(number, work(partial, *arguments)) for number, arguments in jobs]


def write_pack(
    partial: Path,
    number: int,
    pictures: Iterable[bytes | Encoded | OSError],
    names: Sequence[str],
    tiled: bool = False,
) -> list[Reject]:
    """Write one pack of encoded pictures.

    Parameters
    ----------
    partial : Path
        The ``STORE.partial`` folder.
    number : int
        Number of the pack.
    pictures : iterable of bytes, Encoded or OSError
        Encoded pictures; tiled ones of another store, taken over as they are; or why a picture
        could not be read.
    names : sequence of str
        Their paths, for the messages.
    tiled : bool
        Transcode JPEG files losslessly, with restart markers (:mod:`humandata.transcode`).

    Returns
    -------
    list of Reject
        Pictures left out: missing, or damaged in their header. A JPEG file that ends early is kept
        as it is, and counted among those: people in its upper rows can be used.
    """
    found = _Found()
    blobs: list[tuple[bytes, ...]] = []
    for row, (name, given) in enumerate(zip(names, pictures, strict=False)):
        try:
            if isinstance(given, OSError):
                raise given
            data, lengths, width = _taken(given)
            info = probe(data, partial=True)
        except (OSError, DamagedPicture) as error:
            found.refuse(name, error)
            continue
        if info.damage and not isinstance(given, Encoded):  # else the other store said so
            found.kept[row] = f"damaged: {info.damage}"
        elif tiled and lengths is None:
            data, lengths, width = _tile(data, row, found.kept)
        checksum, index = crc32c(data), b"" if lengths is None else lengths.astype("<u2").tobytes()
        tiles = (width, len(index) // 2)
        found.rows.append((1, 0, len(data), checksum, info.width, info.height, *tiles))
        blobs.append((data, index))
    folder = partial / "store" / "images" / "packs" / f"{number:05d}"
    offsets = _write_blobs(folder, blobs, "encoded pictures, one after another")
    found.save(partial, number, offsets)
    return found.rejects


def _taken(given: bytes | Encoded) -> tuple[bytes, Array | None, int]:
    """Bytes of a picture, and how it is tiled already."""
    if not isinstance(given, Encoded):
        return given, None, 0
    whole = given.data.obj
    if isinstance(whole, bytes) and len(whole) == len(given.data):
        data = whole  # not a copy
    else:
        data = bytes(given.data)
    if given.lengths is None:
        return data, None, 0
    from humandata.jpeg import read_frame

    return data, given.lengths, read_frame(data).restart_interval


def _tile(data: bytes, row: int, kept: dict[int, str]) -> tuple[bytes, Array | None, int]:
    from humandata.transcode import Kept, tile

    made = tile(data)
    if isinstance(made, Kept):
        kept[row] = made.reason
        return data, None, 0
    return made.data, made.lengths, made.tile_width


def cut_files(
    partial: str,
    number: int,
    root: str,
    names: Sequence[str],
    frames: Frames,
    people: Sequence[tuple[Array, Array]],
    crops: Crops,
) -> list[Reject]:
    """Make a pack of crops out of picture files; runs in a worker process.

    Every picture is decoded once for all its people. The pictures themselves are not stored, but
    looked at as if they were.

    Parameters
    ----------
    partial, number, root, names, frames
        As in :func:`copy_files`.
    people : sequence of (int64 ndarray (n,), float32 ndarray (n, 5))
        Per picture, rows of instances and their boxes.
    crops : Crops
        How to cut.

    Returns
    -------
    list of Reject
        Pictures left out: missing or damaged.
    """
    found = _Found()
    cut: list[tuple[int, Crop]] = []
    for name, given, (rows, boxes) in zip(
        names, read_pictures(Path(root), names, frames), people, strict=True
    ):
        try:
            if isinstance(given, OSError):
                raise given
            data = _taken(given)[0]
            info = probe(data)
            pixels = decode(data) if len(rows) else None
        except (OSError, DamagedPicture) as error:
            found.refuse(name, error)
            continue
        found.rows.append((1, 0, 0, 0, info.width, info.height, 0, 0))
        if pixels is not None:
            made = crops.cut(pixels, boxes)
            cut += [(row, c) for row, c in zip(rows.tolist(), made, strict=True) if c is not None]
    write_crops(Path(partial), number, cut)
    found.save(Path(partial), number, [])
    return found.rejects


def write_crops(partial: Path, number: int, crops: Iterable[tuple[int, Crop]]) -> None:
    """Write one pack of crops, each with the row of instances that it shows."""
    listed = list(crops)
    blobs = [(bytes(crop.data),) for _, crop in listed]
    folder = partial / "store" / "instances" / "packs" / f"{number:05d}"
    offsets = _write_blobs(folder, blobs, "crops of persons, lossy JPEG, one after another")
    table = np.zeros(len(listed), CROP)
    table["row"] = [row for row, _ in listed]
    table["offset"] = offsets
    table["length"] = [len(data) for (data,) in blobs]
    table["crc32c"] = [crc32c(data) for (data,) in blobs]
    table["square"] = np.array([crop[1:] for _, crop in listed], np.float32).reshape(-1, 3)
    file = partial / "crops" / f"{number:05d}.npy"
    file.parent.mkdir(exist_ok=True)
    np.save(file, table)
    _flush(file)


def _flush(file: Path) -> None:
    """Have the disk hold a file before the journal says that it does."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


def _place(lengths: Sequence[int]) -> tuple[list[int], int, int]:
    """Offsets of blobs so that none crosses a chunk; chunk size and length of the pack."""
    chunk = max([MAX_BLOB_CHUNK, *lengths])
    offsets, end = [], 0
    for length in lengths:
        if end // chunk != (end + max(length, 1) - 1) // chunk:
            end = (end // chunk + 1) * chunk
        offsets.append(end)
        end += length
    return offsets, min(chunk, max(end, 1)), end


def _write_blobs(folder: Path, blobs: Sequence[tuple[bytes, ...]], meaning: str) -> list[int]:
    """Write blobs, each of some parts, as one array and return where each begins."""
    offsets, chunk, total = _place([sum(map(len, blob)) for blob in blobs])

    def blocks() -> Iterator[Array]:
        end = 0
        for offset, blob in zip(offsets, blobs, strict=True):
            yield np.zeros(offset - end, np.uint8)
            yield from (np.frombuffer(part, np.uint8) for part in blob)
            end = offset + sum(map(len, blob))

    shutil.rmtree(folder, ignore_errors=True)
    attributes: dict[str, Any] = {"meaning": meaning}
    write_array(
        folder, blocks(), (total,), "uint8", ["byte"], rows_per_chunk=chunk, attributes=attributes
    )
    return offsets

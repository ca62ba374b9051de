"""Encoded pictures in the packs of a store: found by row, handed out where they lie.

A pack is a flat array of bytes, ``images/packs/00000`` or ``instances/packs/00000``. The columns
``pack``, ``offset`` and ``length`` say where a picture lies; a tiled JPEG is followed by the
lengths of its restart intervals, ``tile_count`` of them. :mod:`humandata.packing` writes packs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from humandata.errors import DataError, HumandataError
from humandata.zarr_files import Guard, MappedArray


class Encoded(NamedTuple):
    """An encoded picture where it lies, and how it can be cut.

    Attributes
    ----------
    data : memoryview
        The file. In place, without a copy, where it lies in a store.
    lengths : uint16 ndarray (tiles,) or None
        Length in bytes, marker included, of every restart interval of a tiled JPEG, row by row;
        None where the picture is not tiled.
    """

    data: memoryview
    lengths: NDArray[np.uint16] | None = None


class Crop(NamedTuple):
    """A person cut out of a picture: pixel columns ``left`` to ``left + side``, rows likewise.

    Pixels are points, as in :func:`humandata.geometry.crop_affine`: (0, 0) is the centre of the
    first one. Pixel (u, v) of a crop ``n`` pixels wide shows the place
    ``x = left - 0.5 + (u + 0.5) * side / n``, ``y = top - 0.5 + (v + 0.5) * side / n`` of the
    picture.

    Attributes
    ----------
    data : memoryview
        A square JPEG; what lies outside of the picture is black.
    left, top, side : float
        Pixels of the picture.
    """

    data: memoryview
    left: float
    top: float
    side: float


class Packs:
    """Encoded pictures in packs, found by the row of the table that says where they lie.

    Lookups go through the maps one number at a time: a microsecond or two, and no memory.

    Parameters
    ----------
    table : mapping of str to column
        ``images``, or ``instances`` for crops.
    folder : Path
        Of the table; the packs lie in it.
    guard : callable
        Raises where the store has changed since it was opened.
    prefix : str
        Of the names of the columns: ``crop_`` for crops.
    """

    def __init__(
        self, table: Mapping[str, Any], folder: Path, guard: Guard, prefix: str = ""
    ) -> None:
        self.there = f"{prefix}pack" in table
        self._folder = folder / "packs"
        self._guard = guard
        self._opened: dict[int, MappedArray] = {}
        if self.there:
            self._pack, self._offset, self.length = (
                table[prefix + name] for name in ("pack", "offset", "length")
            )
        self._count = table.get(f"{prefix}tile_count")

    def rows(self) -> list[int]:
        """Rows that have a picture here."""
        return np.flatnonzero(np.asarray(self.length) > 0).tolist() if self.there else []

    def find(self, row: int) -> Encoded | None:
        """The picture of a row; None where it has none here."""
        length = self.length.item(row) if self.there else 0
        if length == 0:
            return None
        number, start = self._pack.item(row), self._offset.item(row)
        pack = self._opened.get(number)
        if pack is None:
            pack = self._opened[number] = self._open(number)
        end = start + length
        count = 0 if self._count is None else self._count.item(row)
        if count == 0:
            return Encoded(pack.bytes_at(start, end))
        index = pack.bytes_at(end, end + 2 * count)
        return Encoded(pack.bytes_at(start, end), np.frombuffer(index, "<u2"))

    def _open(self, number: int) -> MappedArray:
        folder = self._folder / f"{number:05d}"
        try:
            return MappedArray(folder, self._guard, whole=True)
        except DataError as error:
            self._guard()
            raise DataError(
                folder,
                expected="a pack of pictures",
                found=error.found,
                hint="The store is damaged or copied in part: copy it again or convert again",
            ) from error


def index_fits(picture: Encoded) -> bool:
    """Whether the lengths of a tiled picture are those of its restart intervals."""
    from humandata.jpeg import read_frame, tile_lengths

    if picture.lengths is None:
        return True
    try:
        found = tile_lengths(picture.data, read_frame(picture.data))
    except HumandataError:
        return False
    return np.array_equal(found, picture.lengths)

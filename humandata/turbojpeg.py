"""libturbojpeg by ctypes: the one decoder that decodes a rectangle of an ordinary JPEG file.

Version 3 or newer is needed (``tj3SetCroppingRegion``). The library is looked for in the wheel
``turbojpeg``, which the extra ``train`` installs, in the environment's own folder (conda) and where
the system's loader finds it. Neither that wheel nor PyTurboJPEG is ever imported: both are called
``turbojpeg``.

Source: ``turbojpeg.h`` of libjpeg-turbo 3, https://github.com/libjpeg-turbo/libjpeg-turbo.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata.pictures import DamagedPicture, Memory

# enum TJINIT, TJPARAM and TJPF of turbojpeg.h.
_DECOMPRESS = 1
_SUBSAMPLING, _WIDTH, _HEIGHT = 4, 5, 6
_LAYOUTS = {"RGB": (0, 3), "RGBX": (2, 4), "CMYK": (11, 4)}  # of enum TJPF, bytes of a pixel

# Of enum TJSAMP: 4:4:4, 4:2:2, 4:2:0, grey, 4:4:0, 4:1:1, 4:4:1.
_MCU_WIDTH = (8, 16, 16, 8, 8, 32, 8)


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "w", "h")]


class _Factor(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("num", "denom")]


# Reduced fractions: the library refuses 4/8, and would then decode at the size set before.
_FACTORS = {shrink: _Factor(1, shrink) for shrink in (1, 2, 4, 8)}


class Library:
    """A loaded libturbojpeg; `find` gives the one of this machine.

    Parameters
    ----------
    path : str
        A file, or a name for the system's loader.

    Raises
    ------
    OSError
        If it cannot be loaded.
    AttributeError
        If it is older than 3.0.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
        # CDLL, not PyDLL: the interpreter lock is released for the time of a call.
        calls = ctypes.CDLL(path)
        self._set_region = calls.tj3SetCroppingRegion
        self._set_region.argtypes = [pointer, _Region]
        self._init, self._destroy = calls.tj3Init, calls.tj3Destroy
        self._init.argtypes, self._init.restype = [number], pointer
        self._destroy.argtypes, self._destroy.restype = [pointer], None
        self._header, self._get = calls.tj3DecompressHeader, calls.tj3Get
        self._header.argtypes, self._get.argtypes = [pointer, pointer, size], [pointer, number]
        self._set_factor = calls.tj3SetScalingFactor
        self._set_factor.argtypes = [pointer, _Factor]
        self._decompress = calls.tj3Decompress8
        self._decompress.argtypes = [pointer, pointer, size, pointer, number, number]
        self._words, self._code = calls.tj3GetErrorStr, calls.tj3GetErrorCode
        self._words.argtypes, self._words.restype = [pointer], ctypes.c_char_p
        self._code.argtypes = [pointer]
        self._newer = hasattr(calls, "tj3SetICCProfile")
        self._threads = threading.local()

    @property
    def version(self) -> str:
        """The library does not tell its number; this is what can be seen from its functions."""
        return "3.1 or newer" if self._newer else "3.0"

    def decode(
        self,
        data: NDArray[np.uint8],
        box: tuple[int, int, int, int],
        shrink: int,
        memory: Memory,
        layout: str = "RGB",
    ) -> tuple[NDArray[np.uint8], int, int, str]:
        """Decode a rectangle of a JPEG file, at a fraction of its size.

        The library can begin at multiples of an MCU only, so that the rectangle grows to the left.
        A picture of a subsampling that it cannot cut is decoded whole.

        Parameters
        ----------
        data : (n,) uint8
            The file.
        box : (int, int, int, int)
            Left, top, right, bottom in pixels of the *reduced* picture, which is as large as the
            picture divided by ``shrink`` and rounded up; inside of it and not empty.
        shrink : {1, 2, 4, 8}
        memory : Memory
            Where the pixels are written.
        layout : {"RGB", "RGBX", "CMYK"}
            X is a byte without meaning; CMYK are four components as they are in the file.

        Returns
        -------
        pixels : (height, width, 3 or 4) uint8
        left, top : int
            Pixel of the reduced picture that they begin at.
        warning : str
            What the library has to say of corrupt data; empty if all was well.

        Raises
        ------
        DamagedPicture
            If nothing can be decoded.
        """
        try:
            return self._decode(self._handle(), data, box, shrink, memory, layout)
        except DamagedPicture:
            # A header that could not be read leaves the handle in the middle of it.
            self._threads.held = None
            raise

    def _decode(
        self,
        handle: int,
        data: NDArray[np.uint8],
        box: tuple[int, int, int, int],
        shrink: int,
        memory: Memory,
        layout: str,
    ) -> tuple[NDArray[np.uint8], int, int, str]:
        source, size = data.ctypes.data, data.size
        if self._header(handle, source, size) and self._code(handle):
            raise DamagedPicture(self._message(handle))
        kind = self._get(handle, _SUBSAMPLING)
        width = -(-self._get(handle, _WIDTH) // shrink)
        height = -(-self._get(handle, _HEIGHT) // shrink)
        left, top, right, bottom = box
        # The library writes as much as it was told before, so every condition is checked here.
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise DamagedPicture(f"box {box} does not lie in a picture of {width}×{height} pixels")
        if 0 <= kind < len(_MCU_WIDTH):
            left -= left % (_MCU_WIDTH[kind] // shrink)
            region = _Region(left, top, right - left, bottom - top)
        else:
            left, top, right, bottom = 0, 0, width, height
            region = _Region(0, 0, 0, 0)
        if self._set_factor(handle, _FACTORS[shrink]) or self._set_region(handle, region):
            raise DamagedPicture(self._message(handle))
        number, channels = _LAYOUTS[layout]
        pixels = memory.take(bottom - top, right - left, channels)
        warning = ""
        if self._decompress(handle, source, size, pixels.ctypes.data, 0, number):
            warning = self._message(handle)
            if self._code(handle):
                raise DamagedPicture(warning)
        return pixels, left, top, warning

    def _handle(self) -> int:
        # A handle serves one thread at a time; making one costs as much as a small picture.
        held: _Handle | None = getattr(self._threads, "held", None)
        if held is None:
            held = self._threads.held = _Handle(self._init, self._destroy)
        return held.address

    def _message(self, handle: int) -> str:
        return str(self._words(handle) or b"unknown error", "utf-8", "replace")


class _Handle:
    """A decompressor, destroyed with the thread it belongs to."""

    def __init__(self, init: ctypes._NamedFuncPointer, destroy: ctypes._NamedFuncPointer) -> None:
        self.address: int = init(_DECOMPRESS) or 0
        self._destroy = destroy
        if not self.address:
            raise MemoryError("libturbojpeg cannot be started")

    def __del__(self) -> None:
        if self.address:
            self._destroy(self.address)


@cache
def find() -> Library | None:
    """The libturbojpeg of this machine, None where there is none of version 3."""
    for path in _places():
        with suppress(OSError, AttributeError):
            return Library(path)
    return None


def _places() -> Iterator[str]:
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.distribution("turbojpeg").files or ():
            # Wheels carry the library beside the module: turbojpeg.libs/libturbojpeg-dd00d054.so…
            if len(file.parts) > 1 and "turbojpeg" in file.name and _is_library(file.name):
                yield str(file.locate())
    names = {
        "win32": ("turbojpeg.dll", "libturbojpeg.dll"),
        "darwin": ("libturbojpeg.0.dylib", "libturbojpeg.dylib"),
    }.get(sys.platform, ("libturbojpeg.so.0", "libturbojpeg.so"))
    below = "Library/bin" if sys.platform == "win32" else "lib"
    for root in (os.environ.get("CONDA_PREFIX"), sys.prefix):
        yield from (
            str(path) for name in names if root and (path := Path(root, below, name)).is_file()
        )
    yield from names
    if sys.platform == "darwin":
        yield "/opt/homebrew/opt/jpeg-turbo/lib/libturbojpeg.dylib"


def _is_library(name: str) -> bool:
    return ".so" in name or name.endswith((".dylib", ".dll"))

"""The transform of libjpeg-turbo by ctypes: coefficients of one JPEG file written to another.

The library is the one that the Pillow wheels carry (``libjpeg.so.62`` on Linux, and on macOS
``libjpeg.62.dylib``); where there is none, one of the system will do. What is used of it is the
interface of libjpeg 6b (ABI 62) with the memory source and destination that libjpeg-turbo adds,
unchanged since 2010: ``jpeglib.h``, ``libjpeg.txt`` ("Really raw data: DCT coefficients") and
``transupp.c``, which does the same for ``jpegtran``.

libjpeg reports a fatal error by a callback that must not return, and C would leave it by a long
jump, which Python cannot do. So nobody may hand it a file that was not checked before
(:mod:`humandata.transcode` does); if it meets a fatal error nevertheless, the process says so and
ends with status 70, because there is no sound way to go on.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from ctypes import POINTER, addressof, byref, c_char, c_int, c_long, c_size_t, c_ulong, c_void_p
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_VERSION = 62
# Sizes and offsets of jpeglib.h on machines whose long and pointers have 64 bits.
_READER, _WRITER = 632, 520
_OPTIMISE, _INTERVAL = 264, 280
_MEMORY, _ACCESS, _LIMIT = 8, 8 * 8, 11 * 8
_EXIT_STATUS = 70  # EX_SOFTWARE of sysexits.h


class _Errors(ctypes.Structure):
    """``struct jpeg_error_mgr``."""

    _fields_ = (
        ("error_exit", c_void_p),
        ("emit_message", c_void_p),
        ("output_message", c_void_p),
        ("format_message", c_void_p),
        ("reset_error_mgr", c_void_p),
        ("msg_code", c_int),
        ("msg_parm", c_char * 80),
        ("trace_level", c_int),
        ("num_warnings", c_long),
        ("message_table", c_void_p),
        ("last_message", c_int),
        ("addon_table", c_void_p),
        ("first_addon", c_int),
        ("last_addon", c_int),
    )


_Callback = ctypes.CFUNCTYPE(None, c_void_p)
_Format = ctypes.CFUNCTYPE(None, c_void_p, c_char * 200)
_Access = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_void_p, ctypes.c_uint, ctypes.c_uint, c_int)

_SIGNATURES: dict[str, tuple[object, ...]] = {
    "jpeg_std_error": (c_void_p,),
    "jpeg_CreateDecompress": (c_void_p, c_int, c_size_t),
    "jpeg_CreateCompress": (c_void_p, c_int, c_size_t),
    "jpeg_mem_src": (c_void_p, c_void_p, c_ulong),
    "jpeg_mem_dest": (c_void_p, POINTER(c_void_p), POINTER(c_ulong)),
    "jpeg_read_header": (c_void_p, c_int),
    "jpeg_read_coefficients": (c_void_p,),
    "jpeg_copy_critical_parameters": (c_void_p, c_void_p),
    "jpeg_write_coefficients": (c_void_p, c_void_p),
    "jpeg_finish_compress": (c_void_p,),
    "jpeg_abort_decompress": (c_void_p,),
    "jpeg_abort_compress": (c_void_p,),
    "jpeg_destroy_decompress": (c_void_p,),
    "jpeg_destroy_compress": (c_void_p,),
}


def _candidates() -> Iterator[str]:
    """Where the library may lie: beside Pillow, in the environment, in the system."""
    pillow = importlib.util.find_spec("PIL")
    if pillow is not None and pillow.origin is not None:
        package = Path(pillow.origin).parent
        for folder in ("pillow.libs", "Pillow.libs"):
            yield from sorted(map(str, (package.parent / folder).glob("libjpeg*.so.62*")))
        yield from sorted(map(str, (package / ".dylibs").glob("libjpeg.62*.dylib")))
    for name in ("libjpeg.so.62", "libjpeg.62.dylib"):
        if (path := Path(sys.prefix) / "lib" / name).exists():
            yield str(path)
        yield name


@functools.cache
def library() -> ctypes.CDLL | str:
    """The library, looked up once, or a sentence why there is none and what to do."""
    if ctypes.sizeof(c_void_p) != 8 or ctypes.sizeof(c_long) != 8:
        return "lossless transcoding works on 64-bit Linux and macOS only"
    for path in _candidates():
        try:
            found = ctypes.CDLL(path)
            for name, arguments in _SIGNATURES.items():
                function = getattr(found, name)
                function.argtypes = arguments
                function.restype = c_void_p if name == "jpeg_read_coefficients" else None
        except (OSError, AttributeError):
            continue
        return found
    return (
        "no libjpeg.so.62 found; the Pillow wheels carry one: pip install --force-reinstall pillow"
    )


class Transform:
    """A reader and a writer of libjpeg, used for one file after the other by one thread.

    Memory of a file is given back when the next one is read, or by :meth:`close`.
    """

    def __init__(self, lib: ctypes.CDLL) -> None:
        self._lib = lib
        self._free = ctypes.CDLL(None).free
        self._free.argtypes, self._free.restype = (c_void_p,), None
        self._errors = _Errors()
        lib.jpeg_std_error(byref(self._errors))
        self._format = _Format(self._errors.format_message)
        # libjpeg keeps the addresses only, so the callbacks must live as long as this object.
        self._fatal, self._warn = _Callback(self._on_fatal), _Callback(self._on_warning)
        self._errors.error_exit = ctypes.cast(self._fatal, c_void_p)
        self._errors.output_message = ctypes.cast(self._warn, c_void_p)
        self._reader, self._writer = (c_char * _READER)(), (c_char * _WRITER)()
        for struct in (self._reader, self._writer):
            c_void_p.from_buffer(struct).value = addressof(self._errors)
        lib.jpeg_CreateDecompress(self._reader, _VERSION, _READER)
        lib.jpeg_CreateCompress(self._writer, _VERSION, _WRITER)
        for struct in (self._reader, self._writer):
            # The variable JPEGMEM may set a limit beyond which libjpeg fails.
            memory = c_void_p.from_buffer(struct, _MEMORY).value
            assert memory is not None
            c_long.from_address(memory + _LIMIT).value = 0
        memory = c_void_p.from_buffer(self._reader, _MEMORY).value
        assert memory is not None
        self._access = _Access(c_void_p.from_address(memory + _ACCESS).value or 0)
        self._coefficients: int | None = None
        self._data = b""
        self.warning = ""

    def read(self, data: bytes) -> bool:
        """Read a whole file; true if libjpeg found nothing to complain about.

        Otherwise ``warning`` holds its first complaint, and the file is closed.
        """
        lib = self._lib
        self.warning = ""
        self._errors.num_warnings = 0
        self._data = data  # libjpeg reads it where it lies
        lib.jpeg_mem_src(self._reader, data, len(data))
        lib.jpeg_read_header(self._reader, 1)
        self._coefficients = lib.jpeg_read_coefficients(self._reader)
        if self._errors.num_warnings:
            self.close()
            return False
        return True

    def coefficients(self, component: int, rows: int, blocks: int) -> NDArray[np.int16]:
        """Quantised DCT coefficients of a component, where libjpeg keeps them.

        Parameters
        ----------
        component : int
            From 0.
        rows, blocks : int
            Rows of blocks, and blocks in a row, as libjpeg allocated them: whole MCUs.

        Returns
        -------
        int16 ndarray, shape (rows, blocks, 64)
            Natural (not zigzag) order. Valid until the file is closed.
        """
        assert self._coefficients is not None
        array = c_void_p.from_address(self._coefficients + 8 * component).value
        # The result is a table of addresses of rows. All rows are in memory, one behind the
        # other, unless an allocation of a gigabyte or more was split.
        table = self._access(self._reader, array, 0, 1, 0)
        address = np.ctypeslib.as_array(ctypes.cast(table, POINTER(c_size_t)), (rows,))
        length = blocks * 64
        if rows > 1 and (np.diff(address) != length * 2).any():
            row = [self._block(int(at), length) for at in address]
            return np.stack(row).reshape(rows, blocks, 64)
        return self._block(int(address[0]), rows * length).reshape(rows, blocks, 64)

    @staticmethod
    def _block(address: int, count: int) -> NDArray[np.int16]:
        return np.ctypeslib.as_array((ctypes.c_int16 * count).from_address(address))

    def write(self, interval: int) -> bytes:
        """The file that was read, as baseline JPEG with optimised tables; may be called again.

        Parameters
        ----------
        interval : int
            MCUs between restart markers, 0 for none.

        Returns
        -------
        bytes
            JFIF and Adobe segments are libjpeg's own; others are not there.
        """
        lib = self._lib
        lib.jpeg_copy_critical_parameters(self._reader, self._writer)
        c_int.from_buffer(self._writer, _OPTIMISE).value = 1
        ctypes.c_uint.from_buffer(self._writer, _INTERVAL).value = interval
        address, size = c_void_p(), c_ulong()
        lib.jpeg_mem_dest(self._writer, byref(address), byref(size))
        lib.jpeg_write_coefficients(self._writer, self._coefficients)
        lib.jpeg_finish_compress(self._writer)
        written = ctypes.string_at(address, size.value)
        self._free(address)
        return written

    def close(self) -> None:
        """Give the memory of the file back."""
        self._lib.jpeg_abort_decompress(self._reader)
        self._lib.jpeg_abort_compress(self._writer)
        self._coefficients, self._data = None, b""

    def __del__(self) -> None:
        if hasattr(self, "_data"):  # else a constructor that failed
            self._lib.jpeg_destroy_decompress(self._reader)
            self._lib.jpeg_destroy_compress(self._writer)

    def _message(self, struct: int) -> str:
        text = (c_char * 200)()
        self._format(struct, text)
        return text.value.decode("ascii", "replace")

    def _on_warning(self, struct: int) -> None:
        self.warning = self._message(struct)

    def _on_fatal(self, struct: int) -> None:
        print(
            f"humandata: libjpeg met a JPEG file that it cannot read ({self._message(struct)}), "
            f"and this process has to end. Convert with '--pictures original', and please report "
            f"the file.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(_EXIT_STATUS)


_threads = threading.local()


def transform(lib: ctypes.CDLL) -> Transform:
    """The calling thread's own reader and writer."""
    found: Transform | None = getattr(_threads, "transform", None)
    if found is None:
        found = _threads.transform = Transform(lib)
    return found

"""Files inside of uncompressed tar archives, as paths: ``shards/000000.tar/train/a.jpg``."""

from __future__ import annotations

import functools
import tarfile
from pathlib import Path

from humandata.errors import DataError


def members(archive: Path) -> dict[str, tuple[int, int]]:
    """Name of every file of an archive, and where its bytes begin and how many they are.

    Of files of one name the first is taken; `repeated` names them.

    Raises
    ------
    DataError
        It is no tar archive, or is cut off.
    """
    status = archive.stat()
    return _members(archive, status.st_size, status.st_mtime_ns)[0]


def repeated(archive: Path) -> tuple[str, ...]:
    """Names that occur again in an archive, once for every time.

    Raises
    ------
    DataError
        It is no tar archive, or is cut off.
    """
    status = archive.stat()
    return _members(archive, status.st_size, status.st_mtime_ns)[1]


@functools.lru_cache(maxsize=8)
def _members(
    archive: Path, size: int, _: int
) -> tuple[dict[str, tuple[int, int]], tuple[str, ...]]:
    found: dict[str, tuple[int, int]] = {}
    again: list[str] = []
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} ends behind the end of the file")
                if not member.isfile():
                    continue
                if member.name in found:
                    again.append(member.name)
                else:
                    found[member.name] = (member.offset_data, member.size)
            end = tar.offset
        with open(archive, "rb") as stream:
            stream.seek(end)
            last = stream.read(tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(
            archive, expected="a complete, uncompressed tar archive", found=str(error),
            hint="It is cut off, compressed or of another kind: fetch it again",
        ) from error  # fmt: skip
    # Blocks of zeros end an archive; tarfile does not miss them.
    if last != bytes(tarfile.BLOCKSIZE):
        raise DataError(
            archive, expected="a complete tar archive", found="no end mark",
            hint="The file is cut off: fetch it again",
        )  # fmt: skip
    return found, tuple(again)


def read_file(path: Path) -> bytes:
    """The content of a file, which may lie in a tar archive.

    Raises
    ------
    OSError
        It cannot be read, or is not in the archive.
    """
    try:
        return path.read_bytes()
    except NotADirectoryError:
        archive = next((parent for parent in path.parents if parent.is_file()), None)
        if archive is None or archive.suffix != ".tar":
            raise
        try:
            offset, size = members(archive)[path.relative_to(archive).as_posix()]
        except KeyError:
            raise FileNotFoundError(2, "not in the archive", str(path)) from None
        except DataError as error:
            raise OSError(5, error.found, str(path)) from error
        with open(archive, "rb") as stream:
            stream.seek(offset)
            return stream.read(size)

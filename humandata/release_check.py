"""What of a release is there, and could it be converted? ``humandata convert X --check RAW``.

Only the first unit of each split is read, and of its pictures a few: whatever is said of the rest
is worked out from these, and said to be.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from humandata import schema
from humandata.columns import Columns
from humandata.cropping import MARGIN
from humandata.errors import HumandataError
from humandata.packing import read_pictures
from humandata.packs import Encoded
from humandata.pictures import DamagedPicture, probe
from humandata.store import PARTIAL

if TYPE_CHECKING:
    from humandata.converters.converter import Unit

SAMPLE = 32
"""Picture files of the first unit that are read, spread evenly over it."""
FILMS = 4
"""Videos of the first unit of which one frame each is decoded."""
TILING = 1.05
"""Restart markers make pictures up to this much larger."""
CROP_BYTES = 0.5
"""Bytes of a crop per pixel: a JPEG of quality 92, generously."""


@dataclass
class Pictures:
    """What became of the pictures of the first unit that were looked at."""

    of: int = 0  # pictures of the unit
    looked_at: int = 0
    there: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)  # videos with fewer frames than are asked for
    mean_bytes: float = 0.0
    frames_of_videos: bool = False

    @property
    def unusable(self) -> int:
        return len(self.missing) + len(self.damaged)


@dataclass
class SplitCheck:
    """One split: its plan, its files, and the first of its units."""

    split: str
    units: int = 0
    files: dict[str, int] = field(default_factory=dict)  # bytes, by path
    first_unit: str = ""
    records: int = 0
    instances: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    filtered: dict[str, int] = field(default_factory=dict)
    pictures: Pictures = field(default_factory=Pictures)
    needs_bytes: int = 0
    estimate: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class ReleaseCheck:
    """All there is to say; ``as_dict`` is what ``--json`` prints."""

    dataset: str
    title: str
    raw: str
    expects: str
    splits: list[SplitCheck] = field(default_factory=list)
    free_at: str = ""
    free_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def could_start(self) -> bool:
        return not self.problems and not any(split.problems for split in self.splits)

    def as_dict(self) -> dict[str, Any]:
        return {"could_start": self.could_start, **asdict(self)}


def check_release(
    dataset: str,
    raw: Path,
    store: Path | None = None,
    *,
    split: str | None = None,
    pictures: str | None = None,
    crop: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    restart: bool = False,
    options: Mapping[str, str] | None = None,
) -> ReleaseCheck:
    """Look at a release without converting it.

    Parameters
    ----------
    dataset, raw, split, pictures, crop, strict, overwrite, restart, options
        As for :func:`humandata.converters.converter.convert`. Without ``split``, all splits that
        are found are looked at.
    store : Path, optional
        Where the store would go; default: the current folder, for the free space.

    Raises
    ------
    HumandataError
        If there is no such converter, or the settings contradict each other. What is wrong with
        the release is no error but a line of ``problems``.
    """
    from humandata.converters import converter

    module = converter.find(dataset)
    info = module.INFO
    chosen = converter.check_options(info, options or {})
    pictures = converter.check_pictures(pictures, crop)
    if split is not None and split not in info.splits:
        raise HumandataError(f"{info.name} has no split {split!r}; it has {info.splits}")
    check = ReleaseCheck(info.name, info.title, str(raw), info.expects)
    _look_at_target(check, store, overwrite, restart)
    if not raw.exists():
        check.problems.append(f"{raw}: there is no such file or folder")
        return check
    found: list[str] = []
    try:
        found = module.find_splits(raw)
    except (HumandataError, OSError) as error:
        if split is None:
            check.problems.append(_said(error))
    for name in [split] if split is not None else found:
        check.splits.append(_check_split(module, raw, name, chosen, pictures, crop, strict))
    if split is not None:
        others = [name for name in found if name != split]
        check.notes += [f"also there: {', '.join(others)}"] if others else []
    elif len(found) > 1:
        check.notes.append("more than one split is there: choose with --split when converting")
    need = max((one.needs_bytes for one in check.splits), default=0)
    if need > check.free_bytes:
        check.problems.append(
            f"about {need:,} bytes are needed in {check.free_at}, {check.free_bytes:,} are free"
        )
    return check


def _look_at_target(
    check: ReleaseCheck, store: Path | None, overwrite: bool, restart: bool
) -> None:
    folder = (Path.cwd() / "store" if store is None else store.absolute()).parent
    while not folder.exists():
        folder = folder.parent
    check.free_at, check.free_bytes = str(folder), shutil.disk_usage(folder).free
    if store is None:
        check.notes.append("no STORE was given: the free space is that of the current folder")
        return
    if not os.access(folder, os.W_OK):
        check.problems.append(f"{folder}: not allowed to write here")
    if store.exists() and not overwrite:
        check.problems.append(
            f"{store}: there already; choose another path, or pass --overwrite to replace it"
        )
    partial = store.with_name(store.name + PARTIAL)
    if partial.exists() and not restart:
        check.notes.append(f"{partial}: an interrupted run, which the same command continues")


def _check_split(
    module: ModuleType,
    raw: Path,
    split: str,
    options: dict[str, str],
    pictures: str,
    crop: int | None,
    strict: bool,
) -> SplitCheck:
    said = SplitCheck(split)
    try:
        units: list[Unit] = module.plan(raw, split, options)
    except (HumandataError, OSError) as error:
        said.problems.append(_said(error))
        return said
    said.units = len(units)
    sizes = {file: file.stat().st_size for u in units for file in u.files if file.is_file()}
    said.files = {str(file): size for file, size in sizes.items()}
    absent = [file for unit in units for file in unit.files if file not in sizes]
    said.problems += [f"{file}: there is no such file" for file in dict.fromkeys(absent)]
    said.problems += [f"{file}: an empty file" for file, size in sizes.items() if size == 0]
    if not units:
        said.problems.append(f"split {split}: nothing to do with these options")
    if said.problems:
        return said
    first = units[0]
    said.first_unit = first.name
    try:
        columns: Columns = module.read(first)
    except (HumandataError, OSError) as error:
        said.problems.append(_said(error))
        return said
    said.records, said.instances = columns.records, columns.rows("instances")
    said.filtered, said.notes = dict(columns.filtered), list(columns.notes)
    for reject in columns.rejects:
        said.rejected[reject.reason] = said.rejected.get(reject.reason, 0) + 1
    if strict and columns.rejects:
        said.problems.append(f"unit {first.name}: {len(columns.rejects)} records are rejected")
    said.pictures = _look_at_pictures(first.raw, columns)
    elsewhere = any(option.name == "pictures_root" for option in module.INFO.options)
    _judge_pictures(said, pictures, crop, strict, elsewhere and not options.get("pictures_root"))
    weights = [sum(sizes[file] for file in unit.files) for unit in units]
    ratio = sum(weights) / weights[0] if weights[0] else float(len(units))
    _estimate(said, columns, ratio, pictures, crop)
    return said


def _look_at_pictures(root: Path, columns: Columns) -> Pictures:
    """Read some of a unit's pictures, or decode a frame of some of its videos."""
    names = list(columns.images.get("path", ()))
    said = Pictures(of=len(names))
    films = list(columns.images.get("video", ())) or [""] * len(names)
    frames = np.asarray(columns.images.get("frame", np.zeros(len(names), np.int64)))
    files = [row for row, film in enumerate(films) if not film]
    rows = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, SAMPLE).round().astype(int))
            ] if files else []  # fmt: skip
    earliest: dict[str, int] = {}  # the frame that is the fewest to decode
    for row, film in enumerate(films):
        if film and (film not in earliest or frames[row] < frames[earliest[film]]):
            earliest[film] = row
    rows += list(earliest.values())[:FILMS]
    said.frames_of_videos = bool(earliest)
    for film in list(earliest)[:FILMS]:
        last = int(max(frames[row] for row, name in enumerate(films) if name == film))
        promised = _promised_frames(root / film)
        if 0 < promised <= last:
            words = f"{root / film} has {promised:,} frames, {last + 1:,} are asked for"
            said.short.append(words)
    sizes = []
    for row in rows:
        (given,) = read_pictures(root, [names[row]], [(films[row], int(frames[row]))])
        shown = films[row] or names[row]
        try:
            if isinstance(given, OSError):
                raise given
            data = bytes(given.data) if isinstance(given, Encoded) else given
            probe(data)
            sizes.append(len(data))
        except OSError as error:
            said.missing.append(f"{root / shown}: {error.strerror or error}")
        except DamagedPicture as error:
            said.damaged.append(f"{root / shown}: {error}")
    said.looked_at, said.there = len(rows), len(sizes)
    said.mean_bytes = round(float(np.mean(sizes)), 1) if sizes else 0.0
    return said


def _promised_frames(file: Path) -> int:
    """Frames that a video says it has; 0 where it cannot be opened or does not say."""
    if not file.is_file():
        return 0
    import cv2

    capture = cv2.VideoCapture(str(file))
    try:
        return max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    finally:
        capture.release()


def _judge_pictures(
    said: SplitCheck, pictures: str, crop: int | None, strict: bool, elsewhere: bool
) -> None:
    seen = said.pictures
    for words in seen.short if pictures != "none" or crop is not None else ():
        (said.problems if strict else said.notes).append(
            words if strict else f"{words}; poses without a frame would be counted and left out"
        )
    if not seen.unusable:
        return
    needed = pictures != "none" or crop is not None
    words = (
        f"{seen.unusable} of the {seen.looked_at} pictures looked at cannot be used, such as "
        f"{[*seen.missing, *seen.damaged][0]}"
    )
    if needed and (seen.there == 0 or strict):
        ways = ["--option pictures_root=FOLDER, if they lie elsewhere"] if elsewhere else []
        ways += ["--pictures none, to keep their paths only"] if crop is None else []
        said.problems.append(f"{words}. Try {', or '.join(ways)}" if ways else words)
    else:
        after = "they would be counted and left out" if needed else "only their paths are stored"
        said.notes.append(f"{words}; {after}")


def _estimate(
    said: SplitCheck, columns: Columns, ratio: float, pictures: str, crop: int | None
) -> None:
    """Bytes that the conversion needs, from the first unit and the sizes of all units' files."""
    # Columns lie there twice for a while: as parts, and as tables of the store.
    tables = 2 * sum(_bytes(v) for t in schema.TABLES for v in getattr(columns, t).values())
    if crop is not None:
        content = said.instances * (crop * MARGIN) ** 2 * CROP_BYTES
        how = f"crops of {crop} pixels at {CROP_BYTES} bytes per pixel"
    elif pictures == "none":
        content, how = 0.0, "no pictures"
    else:
        content = (
            said.pictures.of * said.pictures.mean_bytes * (TILING if pictures == "tiled" else 1)
        )
        how = f"pictures of {said.pictures.mean_bytes:,.0f} bytes, the mean of those looked at"
        if not said.pictures.there:
            how = "nothing for pictures, none of which was there to look at"
    said.needs_bytes = round((tables + content) * ratio)
    said.estimate = f"the {'first ' if said.units > 1 else ''}unit's rows, twice, and {how}"
    if said.units > 1:
        said.estimate += (
            f"; times {ratio:,.1f}, as all units' annotation files are to the first unit's"
        )


def _bytes(values: Any) -> int:
    if isinstance(values, np.ndarray):
        return int(values.nbytes)
    return sum(len(text) + 8 for text in values)


def _said(error: HumandataError | OSError) -> str:
    if isinstance(error, HumandataError):
        return str(error)
    return f"{error.filename or 'reading'}: {error.strerror or error}"


def describe(check: ReleaseCheck, most: int = 5) -> list[str]:
    """The same as lines for a person; of long lists, the first ``most``."""
    lines = [
        f"{check.dataset}  {check.title}",
        f"expects  {check.expects}",
        f"given    {check.raw}",
    ]
    for said in check.splits:
        lines += _describe_split(said, most)
    lines.append(f"free     {_size(check.free_bytes)} in {check.free_at}")
    lines += [f"note: {note}" for note in check.notes]
    problems = [*check.problems, *(f"{s.split}: {p}" for s in check.splits for p in s.problems)]
    lines += [f"missing or wrong: {problem}" for problem in problems[: 4 * most]]
    if len(problems) > 4 * most:
        lines.append(f"  and {len(problems) - 4 * most} more (--json lists all)")
    return [*lines, "could start: " + ("yes" if check.could_start else "no")]


def _describe_split(said: SplitCheck, most: int) -> list[str]:
    total = sum(said.files.values())
    if not said.units:
        return [f"split    {said.split}: cannot be read, for the reason below"]
    lines = [
        f"split    {said.split}: {_count(said.units, 'unit')}, "
        f"{_count(len(said.files), 'annotation file')}, {_size(total)}"
    ]
    lines += [f"  {file}  {_size(size)}" for file, size in list(said.files.items())[:most]]
    if len(said.files) > most:
        lines.append(f"  and {len(said.files) - most} more")
    seen = said.pictures
    if said.estimate:
        others = said.units - 1
        unread = f"not the other {others:,}" if others else "the only one"
        lines.append(
            f"  unit {said.first_unit} was read ({unread}): {_count(said.records, 'record')}, "
            f"{_count(said.instances, 'person', 'persons')}, {_count(seen.of, 'picture')}"
        )
        for word, counts in (("filtered", said.filtered), ("rejected", said.rejected)):
            lines += [f"    {word}: {why}  {n:,}" for why, n in counts.items()]
        what = "pictures (a frame of each of some videos)" if seen.frames_of_videos else "pictures"
        lines.append(
            f"  {what} looked at: {seen.looked_at:,} of that unit's {seen.of:,}: {seen.there:,} "
            f"usable, {len(seen.missing):,} missing, {len(seen.damaged):,} damaged"
        )
        lines.append(f"  would need very roughly {_size(said.needs_bytes)}: {said.estimate}")
    lines += [f"  note: {note}" for note in said.notes]
    return lines


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _size(count: int) -> str:
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"

"""The contract every converter fulfils, and the one runner.

A converter is a module in this folder with

``INFO``
    a :class:`DatasetInfo`;
``find_splits(raw) -> list of str``
    which of ``INFO.splits`` lie in the folder ``raw``; :class:`~humandata.DataError` if none;
``plan(raw, split, options) -> list of Unit``
    independent units of work in a fixed order, without reading much;
``read(unit) -> Columns``
    one unit's rows as arrays, vectorised, with its rejects.

It does not write, show progress, or run in parallel: the runner does that. A new dataset is a new
file; nothing else changes.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import humandata
from humandata.columns import Columns, Part, Reject
from humandata.commit import REJECTS
from humandata.cropping import QUALITY, Crops, people_by_picture
from humandata.errors import DataError, HumandataError
from humandata.packing import PICTURES_PER_PACK, blocks, copy_files, cut_files, in_turn
from humandata.reading import (
    cut_to_limit,
    forget_changed_inputs,
    read_unit,
    refuse_repeated_ids,
    stamp,
    strict_error,
)
from humandata.workers import Workers, open_pool
from humandata.writer import StoreWriter

__all__ = [
    "Columns",
    "DatasetInfo",
    "Option",
    "Reject",
    "Report",
    "Unit",
    "convert",
    "datasets",
    "find",
]

PICTURES = ("tiled", "original", "none")


@dataclass(frozen=True)
class Option:
    """A choice a converter leaves to the user: ``--option name=value``."""

    name: str
    help: str
    choices: tuple[str, ...] = ()
    default: str = ""


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is, what its converter expects on the disk, and what it yields."""

    name: str
    title: str
    citation: str
    url: str
    licence: str
    splits: tuple[str, ...]
    expects: str
    yields: str
    keypoints2d: str | None = None
    keypoints3d: str | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True)
class Unit:
    """One independent piece of work.

    Attributes
    ----------
    name : str
        Unique within the plan.
    split : str
    raw : Path
        Folder that ``images["path"]`` is relative to; the same for all units of a plan.
    files : tuple of Path
        Annotation files that are read, hashed for the provenance.
    detail : mapping
        Plain values that ``read`` needs.
    """

    name: str
    split: str
    raw: Path
    files: tuple[Path, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a conversion did; ``asdict`` of it is what ``--json`` prints.

    ``kept_untiled`` counts, by reason, the pictures that should have been tiled and were kept as
    they are; ``without_crop`` the persons who have no usable box to cut a crop around;
    ``lost_files`` the rejects that stand for a whole annotation file, which make the exit status 1.
    """

    dataset: str
    split: str
    store: str
    images: int
    instances: int
    records: int
    filtered: Mapping[str, int]
    rejected: Mapping[str, int]
    rejects_file: str | None
    lost_files: int
    tiled: int
    kept_untiled: Mapping[str, int]
    crops: int
    without_crop: int
    notes: tuple[str, ...]
    fingerprint: str
    seconds: float
    resumed: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Progress = Callable[[str, int, int], None]
"""Called with the stage (``annotations``, ``pictures``), pieces done, pieces in all."""


def datasets() -> dict[str, ModuleType]:
    """All converters by name, found by listing this folder."""
    package = importlib.import_module("humandata.converters")
    names = (info.name for info in pkgutil.iter_modules(package.__path__))
    return {name: find(name) for name in sorted(names) if name != "converter"}


def find(name: str) -> ModuleType:
    """The converter of a dataset.

    Raises
    ------
    HumandataError
        If there is none of that name; names that are near are given.
    """
    import difflib

    package = importlib.import_module("humandata.converters")
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    if name in names and name != "converter":
        return importlib.import_module(f"humandata.converters.{name}")
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or sorted(names)
    raise HumandataError(
        f"no converter for {name!r}; did you mean {', '.join(near)}? "
        "'humandata convert --list' shows all"
    )


def convert(
    dataset: str,
    raw: Path,
    store: Path,
    *,
    split: str | None = None,
    pictures: str | None = None,
    crop: int | None = None,
    crop_quality: int = QUALITY,
    workers: int | None = None,
    scheduler: str | None = None,
    limit: int | None = None,
    strict: bool = False,
    options: Mapping[str, str] | None = None,
    restart: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Convert a raw release into a store.

    Parameters
    ----------
    dataset : str
        Name of a converter.
    raw, store : Path
        Folder (or file) of the release; folder to make.
    split : str, optional
        May be left out where the release on disk has one split only.
    pictures : {"tiled", "original", "none"}, optional
        Store the encoded pictures, JPEG with restart markers so that training decodes the part it
        needs (the default, lossless); store them byte for byte; or keep their paths only (the
        default with ``crop``).
    crop : int, optional
        Instead of pictures, store one crop per person, lossy: the square that a loader cuts
        becomes this many pixels wide, and there is a margin around it
        (:class:`humandata.cropping.Crops`). The paths are kept, as with ``none``.
    crop_quality : int
        JPEG quality of the crops.
    workers : int, optional
        Processes; default: one per core. The result does not depend on it.
    scheduler : str, optional
        Work on a Dask cluster instead, with the same result: ``tcp://host:port`` of a scheduler
        that runs, or ``slurm`` for a cluster of ``workers`` processes of its own
        (:mod:`humandata.cluster`). Raw folder and store must lie where all machines see them.
    limit : int, optional
        Stop after this many instances.
    strict : bool
        Fail on the first record that cannot be used, instead of counting it.
    options : mapping, optional
        Options of the converter.
    restart, overwrite : bool
        Throw away what an interrupted run left; replace a store that is there.
    progress : callable, optional

    Returns
    -------
    Report

    Raises
    ------
    DataError, HumandataError
        With file, record, what was expected and what to do. What was finished stays, and the same
        command resumes.
    """
    started = time.monotonic()
    module = find(dataset)
    if scheduler is not None:
        raw, store = raw.absolute(), store.absolute()  # workers elsewhere have another folder
    split = _choose_split(module, raw, split)
    chosen = check_options(module.INFO, options or {})
    units: list[Unit] = module.plan(raw, split, chosen)
    pictures = check_pictures(pictures, crop)
    making = {
        "dataset": dataset,
        "split": split,
        "raw": str(raw.resolve()),
        "pictures": pictures,
        "crop": None if crop is None else [crop, crop_quality],
        "limit": limit,
        "options": chosen,
        "units": [unit.name for unit in units],
        "version": humandata.__version__,
    }
    writer = StoreWriter(store, making, restart=restart, overwrite=overwrite)
    resumed = bool(writer.finished)
    try:
        with open_pool(workers, len(units), scheduler) as pool:
            forget_changed_inputs(writer, units)
            sources = _read_units(writer, module, units, limit, strict, pool, progress)
            refuse_repeated_ids(units, writer.parts())
            attributes = _attributes(module.INFO, split, making, sources)
            if crop is not None:
                crops = Crops(crop, _box_factor(writer.parts()), crop_quality)
                attributes["crops"] = crops.attributes()
            if crop is not None or pictures != "none":
                store_as = crops if crop is not None else pictures == "tiled"
                _write_packs(writer, units[0].raw, store_as, strict, pool, progress)
        if pictures == "none":
            attributes["picture_root"] = str(units[0].raw.resolve())
        done = writer.commit(attributes)
    except OSError as error:
        # Everything journaled stays valid; only the piece under way is lost.
        raise HumandataError(
            f"{error.strerror or error}: {error.filename or writer.partial}. What is finished is "
            f"kept in {writer.partial}: put that right (space on the disk, leave to read or "
            "write), run the same command again, and it resumes"
        ) from error
    finally:
        writer.close()
    return _report(done, store, started, resumed)


def _report(done: humandata.Store, store: Path, started: float, resumed: bool) -> Report:
    counts = done.attributes["counts"]
    rejects = store.with_name(store.name + REJECTS)
    return Report(
        dataset=done.dataset,
        split=done.split,
        store=str(store),
        images=counts["images"],
        instances=counts["written"],
        records=counts["records"],
        filtered=counts["filtered"],
        rejected=counts["rejected"],
        rejects_file=str(rejects) if counts["rejected"] else None,
        lost_files=counts.get("lost_files", 0),
        tiled=counts.get("tiled", 0),
        kept_untiled=counts.get("kept_untiled", {}),
        crops=counts.get("crops", 0),
        without_crop=counts.get("without_crop", 0),
        notes=tuple(done.attributes["notes"]),
        fingerprint=done.fingerprint,
        seconds=round(time.monotonic() - started, 3),
        resumed=resumed,
    )


def _choose_split(module: ModuleType, raw: Path, split: str | None) -> str:
    info: DatasetInfo = module.INFO
    if not raw.exists():
        raise DataError(
            raw, expected=f"the release of {info.title}", found="nothing there", hint=info.expects
        )
    if split is not None:
        if split not in info.splits:
            raise HumandataError(f"{info.name} has no split {split!r}; it has {info.splits}")
        return split
    found: list[str] = module.find_splits(raw)
    if len(found) == 1:
        return found[0]
    raise HumandataError(f"{raw} holds the splits {', '.join(found)}: choose one with --split")


def check_pictures(pictures: str | None, crop: int | None) -> str:
    """What is stored of the pictures; HumandataError if the two settings contradict each other."""
    chosen = pictures or ("tiled" if crop is None else "none")
    if chosen not in PICTURES:
        raise HumandataError(f"pictures={chosen}: choose among {', '.join(PICTURES)}")
    if crop is not None and chosen != "none":
        raise HumandataError(
            f"a store of crops holds no whole pictures: leave out --crop or --pictures {chosen}"
        )
    if crop is not None and crop < 1:
        raise HumandataError(f"crops of {crop} pixels: choose a size of 1 or more")
    return chosen


def _box_factor(parts: list[Part]) -> float | None:
    factors = (part.field_attributes.get("bbox_xywh", {}).get("factor") for part in parts)
    return next((factor for factor in factors if factor is not None), None)


def check_options(info: DatasetInfo, options: Mapping[str, str]) -> dict[str, str]:
    """A converter's options with their defaults; HumandataError on an unknown name or choice."""
    known = {option.name: option for option in info.options}
    for name, value in options.items():
        if name not in known:
            offered = ", ".join(known) or "none"
            raise HumandataError(f"{info.name} has no option {name!r}; it has: {offered}")
        if known[name].choices and value not in known[name].choices:
            raise HumandataError(f"{name}={value}: choose among {known[name].choices}")
    return {name: options.get(name, option.default) for name, option in known.items()}


def _read_units(
    writer: StoreWriter,
    module: ModuleType,
    units: list[Unit],
    limit: int | None,
    strict: bool,
    pool: Workers,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """Read all units; return what the provenance says of their files."""
    name = module.__name__
    todo: list[tuple[int, tuple[Any, ...]]] = []
    for number, unit in enumerate(units):
        if f"unit {number}" not in writer.finished:
            part = str(writer.unit_file(number).relative_to(writer.partial))
            todo.append((number, (str(writer.partial), part, name, unit, strict, limit)))
    done = len(units) - len(todo)
    _show(progress, "annotations", done, len(units))
    reads = {number: list(unit.files) for number, unit in enumerate(units)}
    # With a limit, units are read one after another until there is enough.
    rounds = [todo] if limit is None else [[job] for job in todo]
    for jobs in rounds:
        if limit is not None and _rows(writer) >= limit:
            break
        for number, (records, files) in pool.map(read_unit, jobs, reads):
            writer.note_finished(
                f"unit {number}", records=records, files=files, stamp=stamp(units[number])
            )
            done += 1
            _show(progress, "annotations", done, len(units))
    if limit is not None:
        cut_to_limit(writer, limit)
    read = (writer.finished.get(f"unit {number}", {}) for number in range(len(units)))
    # One file may serve many units: cameras, a table of names.
    return list({file["file"]: file for line in read for file in line.get("files", [])}.values())


def _rows(writer: StoreWriter) -> int:
    return sum(part.rows["instances"] for part in writer.parts())


def _write_packs(
    writer: StoreWriter,
    root: Path,
    store_as: bool | Crops,
    strict: bool,
    pool: Workers,
    progress: Progress | None,
) -> None:
    """Write the pictures of all units (tiled or not), or crops; packs go by unit and row."""
    jobs: list[tuple[int, tuple[Any, ...]]] = []
    films_of: dict[int, str] = {}
    first_of: dict[int, Path] = {}
    for unit, part in enumerate(writer.parts()):
        names = part.strings("images", "path")
        people = people_by_picture(part) if isinstance(store_as, Crops) else None
        films, frames = part.strings("images", "video"), part.array("images", "frame")
        sources = [(f, -1 if frames is None else int(frames[i])) for i, f in enumerate(films)]
        packs = []
        for block in blocks(films, PICTURES_PER_PACK):
            job = (len(jobs), str(root), names[block], sources[block])
            packs.append(len(jobs))
            films_of[len(jobs)] = films[block.start]
            first_of[len(jobs)] = root / (films[block.start] or names[block.start])
            how = (store_as,) if people is None else (people[block], store_as)
            jobs.append((len(jobs), (*job, *how)))
        line = {"packs": packs} if people is None else {"packs": packs, "crop_packs": packs}
        writer.finished[f"unit {unit}"] |= {**line, "stored": people is None}
    todo = [(number, job) for number, job in jobs if f"pack {number}" not in writer.finished]
    done = len(jobs) - len(todo)
    _show(progress, "pictures", done, len(jobs))
    work = cut_files if isinstance(store_as, Crops) else copy_files
    # Packs of one video are made in turn by one process, which decodes it once.
    groups = itertools.groupby(todo, lambda job: films_of[job[0]] or job[0])
    listed = [list(group) for _, group in groups]
    together = [(n, (str(writer.partial), work, group)) for n, group in enumerate(listed)]
    reads = {n: [first_of[number] for number, _ in group] for n, group in enumerate(listed)}
    for _, made in pool.map(in_turn, together, reads):
        for number, rejects in made:
            if strict and rejects:
                raise strict_error(rejects[0])
            writer.note_finished(f"pack {number}")
            done += 1
            _show(progress, "pictures", done, len(jobs))


def _attributes(
    info: DatasetInfo, split: str, making: Mapping[str, Any], sources: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "dataset": info.name,
        "split": split,
        "title": info.title,
        "citation": info.citation,
        "url": info.url,
        "licence": info.licence,
        "provenance": {
            "converter": f"humandata {humandata.__version__} {info.name}",
            "options": dict(making["options"]),
            "pictures": making["pictures"],
            "crop": making["crop"],
            "limit": making["limit"],
            "sources": sources,
        },
    }


def _show(progress: Progress | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(stage, done, total)

"""What a store holds, and whether it is sound.

>>> from humandata import inspection
>>> summary = inspection.summarise(humandata.open("coco.zarr"))       # doctest: +SKIP
>>> checks = inspection.verify(humandata.open("coco.zarr"))           # doctest: +SKIP
>>> inspection.is_sound(checks)                                       # doctest: +SKIP
True
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import checks, keypoints, plausibility, reprojection
from humandata.checks import Check, blocks, content_digest, in_schema_order
from humandata.errors import DataError
from humandata.store import Store, StringColumn, Table, file_bytes

__all__ = ["Check", "content_digest", "is_sound", "summarise", "verify"]

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]

WHOLE = (checks.check_checksums, checks.check_structure, checks.check_references)
"""Where one of these fails, rows cannot be trusted to mean anything."""
WHOLE_NAMES = ("checksums", "structure", "references")
CONTENT = (
    checks.check_pictures,
    checks.check_schema,
    checks.check_finite,
    checks.check_fingerprint,
)
PEOPLE = (
    reprojection.check_reprojection,
    reprojection.check_body_reprojection,
    reprojection.check_body_joints,
    plausibility.check_bone_lengths,
    plausibility.check_sides_3d,
    plausibility.check_sides_2d,
    plausibility.check_joints_in_boxes,
    plausibility.check_boxes_in_pictures,
    plausibility.check_duplicates,
    plausibility.check_body_parameters,
)


PACKED = ("pack", "reprojection_error", "smpl/fit_error")
"""Fields that say -1 where there is no value."""


def verify(store: Store, progress: Progress | None = None) -> list[Check]:
    """Make every check on a store.

    Parameters
    ----------
    store : Store
    progress : callable, optional
        Called with ``("checks", done, total)``.

    Returns
    -------
    list of Check
        Bytes first, people last. Checks of people are not made on a store whose bytes or
        references are damaged; they say so.
    """
    found: list[Check] = []
    todo = [*WHOLE, *CONTENT, *PEOPLE]
    for done, check in enumerate(todo):
        if progress is not None:
            progress("checks", done, len(todo))
        name = check.__name__.removeprefix("check_")
        damaged = [c.name for c in found[: len(WHOLE)] if c.passed is False]
        if check in PEOPLE and damaged:
            found.append(Check(name, None, f"not made: {' and '.join(damaged)} failed"))
            continue
        try:
            found.append(check(store))
        except DataError as error:  # a chunk that is cut off cannot be read at all
            found.append(Check(name, None if damaged else False, f"not made: {error}"))
    if progress is not None:
        progress("checks", len(todo), len(todo))
    return found


def is_sound(found: Sequence[Check]) -> bool:
    """Whether no check failed; warnings do not count."""
    return all(check.verdict != "failed" for check in found)


def summarise(store: Store) -> dict[str, Any]:
    """What is in a store, as plain values that can be written as JSON.

    Returns
    -------
    dict
        ``path, dataset, split, title, licence, citation, url, fingerprint, format, bytes``;
        ``rows`` per table; ``counts`` of records read, filtered and rejected; ``provenance``;
        ``fields`` (a list: table, name, dtype, shape, chunk_rows, chunks, present and what the
        array's attributes say); ``joints`` (per keypoint field, the share of people in whom each
        joint is labelled); ``bodies``, ``cameras``, ``genders``, ``sources``; ``residuals`` (what
        the conversion measured: people, median and 95th percentile in pixels) and ``notes`` (what
        it said of them); ``pictures``
        (stored, tiled, not tiled by reason, sizes) and ``persons_per_picture``, sizes and persons
        each with min, median and max; ``crops`` (stored, their bytes, and how they were cut), None
        where there are none.
    """
    attributes = store.attributes
    said = ("dataset", "split", "title", "citation", "url", "licence", "format", "fingerprint")
    return {
        "path": str(store.path),
        **{key: attributes.get(key) for key in said},
        "bytes": file_bytes(store.path),
        "rows": {name: table.rows for name, table in store.tables().items()},
        "counts": attributes.get("counts", {}),
        "provenance": attributes.get("provenance", {}),
        "fields": [
            _field(store, table, name)
            for table in store.tables().values()
            for name in in_schema_order(table.name, list(table))
        ],
        "joints": {
            name: _joints(store, name)
            for name in ("keypoints2d", "keypoints3d")
            if name in store.instances
        },
        "visibility": _codes(store.instances, "keypoints2d_visibility"),
        "bodies": {
            field: _share(store.instances, field)
            for field in ("smpl/valid", "smpl/transl_valid", "smplx/valid", "smplx/transl_valid")
            if field in store.instances
        },
        "cameras": _cameras(store),
        "genders": _codes(store.instances, "gender"),
        "actor_genders": _codes(store.instances, "actor_gender"),
        "scan_genders": _codes(store.instances, "scan_gender"),
        "sources": _codes(store.instances, "smpl/source"),
        "residuals": _residuals(store),
        "notes": list(attributes.get("notes", [])),
        "pictures": _pictures(store),
        "crops": _crops(store),
        "persons_per_picture": _range(np.bincount(_images_of(store), minlength=store.images.rows)),
    }


def _images_of(store: Store) -> Array:
    image = np.asarray(store.instances["image"])
    return image[(image >= 0) & (image < store.images.rows)]


def _field(store: Store, table: Table, name: str) -> dict[str, Any]:
    column = table[name]
    hidden = {"meaning", "missing", "says", "vocabulary"}
    says = {key: value for key, value in column.attributes.items() if key not in hidden}
    text = isinstance(column, StringColumn)
    if text:
        says.pop("unit", None)  # of the offsets
    array = checks.arrays_of(table, name, column)[-1]
    return {
        "table": table.name,
        "name": name,
        "dtype": "string" if text else column.dtype.name,
        "shape": list(column.shape),
        "chunk_rows": array.rows_per_chunk,
        "chunks": array.chunk_count,
        "present": _present(table, name, column),
        **says,
    }


def _present(table: Table, name: str, column: Any) -> float | None:
    """Share of rows that have a value, by what the schema says is missing; None for no rows."""
    if not table.rows:
        return None
    if isinstance(column, StringColumn):
        return float((column.lengths() > 0).mean())
    if len(column) != table.rows:
        return None
    group = name.split("/")[0]
    flag = f"{group}/transl_valid" if name.endswith("/transl") else f"{group}/valid"
    if flag in table and name not in (flag, f"{group}/valid", f"{group}/transl_valid"):
        return _share(table, flag)
    count = 0
    for rows in blocks(len(column)):
        count += int(_has_value(name, column[rows]).sum())
    return count / table.rows


def _has_value(name: str, values: Array) -> Array:
    flat = values.reshape(len(values), -1)
    if name in ("keypoints2d", "keypoints3d"):
        return np.asarray((values[..., -1] > 0).any(axis=1))
    if name == "bbox_xywh":
        return np.asarray(values[:, 4] > 0)
    if name.removeprefix("crop_") in ("image", "person", "source_id", "sequence", "frame", *PACKED):
        return np.asarray(values >= 0)
    if name.removeprefix("crop_") in ("offset", "iscrowd", "crc32c", "id"):
        return np.ones(len(values), bool)
    return np.asarray((flat != 0).any(axis=1))


def _share(table: Table, name: str) -> float | None:
    column = table[name]
    return float(np.asarray(column).mean()) if len(column) else None


def _joints(store: Store, name: str) -> dict[str, float]:
    """Share of people in whom each joint has a confidence."""
    column = store.instances[name]
    names = keypoints.names(store.convention(name))
    count = np.zeros(column.shape[1], np.int64)
    for rows in blocks(len(column)):
        count += (column[rows][..., -1] > 0).sum(axis=0)
    shares = (count / max(len(column), 1)).tolist()
    return {joint: round(share, 4) for joint, share in zip(names, shares, strict=True)}


def _codes(table: Table, name: str) -> dict[str, int]:
    """How often each word of a vocabulary occurs."""
    if name not in table:
        return {}
    words = table[name].attributes["vocabulary"]
    count = np.zeros(256, np.int64)
    for rows in blocks(len(table[name])):
        count += np.bincount(table[name][rows].reshape(-1), minlength=256)
    return {word: int(n) for word, n in zip(words, count[: len(words)], strict=True) if n}


def _cameras(store: Store) -> dict[str, Any]:
    images = store.images
    if "intrinsics" not in images or not images.rows:
        return {}
    focal = np.asarray(images["intrinsics"])[:, 0, 0]
    return {
        "known": float((focal > 0).mean()),
        "sources": _codes(images, "intrinsics_source"),
        "focal_px": _range(focal[focal > 0]),
        "extrinsics": _present(images, "extrinsics", images["extrinsics"])
        if "extrinsics" in images
        else 0.0,
    }


def _residuals(store: Store) -> dict[str, dict[str, float]]:
    """Stored residuals, pixels: of 3D joints on 2D joints, and of fitted bodies on 2D joints."""
    found = {}
    for name in ("reprojection_error", "smpl/fit_error"):
        values = np.asarray(store.instances[name]) if name in store.instances else np.zeros(0)
        values = values[values >= 0]
        if len(values):
            found[name] = {
                "people": len(values),
                "median": round(float(np.median(values)), 3),
                "95%": round(float(np.percentile(values, 95)), 3),
            }
    return found


def _pictures(store: Store) -> dict[str, Any]:
    width, height = (np.asarray(store.images[side]) for side in ("width", "height"))
    known = (width > 0) & (height > 0)
    stored = np.asarray(store.images["length"]) if store.has_pictures else np.zeros(0, np.int64)
    tiled = np.asarray(store.images["tile_count"]) if "tile_count" in store.images else stored[:0]
    return {
        "stored": int((stored > 0).sum()),
        "tiled": int((tiled > 0).sum()),
        "kept_untiled": dict(store.attributes.get("counts", {}).get("kept_untiled", {})),
        "bytes": int(stored.sum(dtype=np.int64)),
        "size_known": int(known.sum()),
        "width": _range(width[known]),
        "height": _range(height[known]),
    }


def _crops(store: Store) -> dict[str, Any] | None:
    if not store.has_crops:
        return None
    length = np.asarray(store.instances["crop_length"])
    return {
        "stored": int((length > 0).sum()),
        "bytes": int(length.sum(dtype=np.int64)),
        "side_px": _range(np.asarray(store.instances["crop_square"])[length > 0, 2]),
        "made": store.attributes.get("crops"),
    }


def _range(values: Array) -> dict[str, float] | None:
    if not len(values):
        return None
    found = {"min": values.min(), "median": np.median(values), "max": values.max()}
    return {name: round(float(value), 3) for name, value in found.items()}

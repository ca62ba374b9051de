"""The HTML report of a store: what it is, whether it is sound, and what its people look like."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from humandata import drawing, geometry, inspection, reprojection, store_bodies
from humandata.checks import Check, spread_rows
from humandata.drawing import histogram_svg, shares_svg
from humandata.errors import HumandataError
from humandata.page import Section, banner, card, charts, figure, gallery, page, table
from humandata.store import Store

__all__ = ["Section", "card", "figure", "gallery", "histogram_svg", "page", "table", "write_report"]

Array = NDArray[Any]

HISTOGRAM_ROWS = 50_000
PICTURE_SIDE, CROP_SIDE = 640, 320
GREY = 70
JOINTS_PER_CHART = 25


def write_report(
    store: Store,
    out: Path,
    people: int = 12,
    seed: int = 0,
    checks: Sequence[Check] | None = None,
) -> Path:
    """Write one self-contained HTML file about a store.

    Parameters
    ----------
    store : Store
    out : Path
        The file; its folder is made.
    people : int
        How many to show.
    seed : int
        Which ones.
    checks : sequence of Check, optional
        What :func:`humandata.inspection.verify` found; made here where not given.

    Returns
    -------
    Path
        ``out``.
    """
    found = inspection.verify(store) if checks is None else list(checks)
    summary = inspection.summarise(store)
    readable = all(c.passed is not False for c in found if c.name in inspection.WHOLE_NAMES)
    sections = [Section("Verification", list(_verification(found)))]
    if readable and len(store):
        sections.append(_people(store, people, seed))
        sections.append(Section("Distributions", [charts(_histograms(store))]))
    if any(summary["joints"].values()):
        sections.append(_joints(store, summary))
    sections += [_fields(summary), _origin(summary)]
    name = " ".join(filter(None, [summary["dataset"], summary["split"]]))
    html = page(
        f"{summary['title'] or name}",
        sections,
        subtitle=f"{name} · {summary['licence'] or 'licence not said'}",
        facts=_facts(summary),
        footer=f"Made by humandata inspect from {store.path.name}, "
        f"fingerprint {store.fingerprint[:16]}.",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, out)
    return out


def size_in_words(count: int) -> str:
    """Bytes as ``46.2 MB``."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _facts(summary: Mapping[str, Any]) -> dict[str, str]:
    rows, bodies = summary["rows"], summary["bodies"].get("smpl/valid")
    conventions = {f["name"]: f.get("convention") for f in summary["fields"]}
    facts = {"persons": f"{rows['instances']:,}", "pictures": f"{rows['images']:,}"}
    if rows["sequences"]:
        facts["sequences"] = f"{rows['sequences']:,}"
    for field, name in (("keypoints2d", "2D joints"), ("keypoints3d", "3D joints")):
        if field in summary["joints"]:
            facts[name] = f"{len(summary['joints'][field])} ({conventions[field]})"
    if bodies is not None:
        facts["with a body"] = f"{100 * bodies:.0f} %"
    if summary["cameras"]:
        facts["with a camera"] = f"{100 * summary['cameras']['known']:.0f} %"
    return {**facts, "on disk": size_in_words(summary["bytes"])}


def verdict_in_words(checks: Sequence[Check]) -> tuple[str, str]:
    """One sentence on all checks, and ``passed``, ``warning`` or ``failed``."""
    names = {v: [c.name for c in checks if c.verdict == v] for v in ("failed", "warning", "passed")}
    rest = f"{len(names['passed'])} of {len(checks)} checks passed"
    skipped = sum(check.passed is None for check in checks)
    if skipped:
        rest += f", {skipped} do not apply"
    warned = f"; look at {', '.join(names['warning'])}" if names["warning"] else ""
    if names["failed"]:
        return f"Not sound: {', '.join(names['failed'])} failed. {rest}{warned}.", "failed"
    return f"Sound. {rest}{warned}.", "warning" if warned else "passed"


def _verification(checks: Sequence[Check]) -> Iterator[Markup]:
    text, verdict = verdict_in_words(checks)
    yield banner(text, verdict)
    rows = []
    for check in checks:
        mark = Markup('<span class="mark {}">{}</span>').format(
            check.verdict.split()[0], check.verdict
        )
        rows.append([check.name.replace("_", " "), mark, _with_details(check)])
    yield table(rows, ["check", "verdict", "what was found"])


def _with_details(check: Check) -> Markup:
    if not check.details:
        return Markup("{}").format(check.summary)
    items = Markup("").join(
        Markup("<li>{}: {}</li>").format(where, what) for where, what in check.details
    )
    return Markup("{}<details{}><summary>rows</summary><ul>{}</ul></details>").format(
        check.summary, Markup(" open") if check.verdict == "failed" else "", items
    )


def _people(store: Store, people: int, seed: int) -> Section:
    chosen = np.random.default_rng(seed).permutation(len(store))[: max(people, 0)]
    cards = [_person(store, int(row)) for row in np.sort(chosen)]
    legend = Markup(
        '<p class="quiet">The person\'s own <span class="left">left in blue</span>, '
        '<span class="right">right in orange</span>, midline white; visible joints are discs, '
        "occluded ones rings. Drawn at random with seed {}.</p>"
    ).format(seed)
    return Section("People", [legend, gallery(cards)])


def _person(store: Store, row: int) -> Markup:
    """One person: the whole picture, the crop, and the body where there is one."""
    image = int(store.instances["image"][row])
    path = store.images["path"][image]
    picture, missing = _picture(store, image)
    if picture is None:
        return card([], f"{path} · row {row}: {missing}")
    here = np.flatnonzero(np.asarray(store.instances["image"]) == image)
    small, scale = drawing.shrink(picture, PICTURE_SIDE)
    whole = _draw(store, small, here[here != row], np.diag([scale, scale, 1])[:2], 0.45)
    whole = _draw(store, whole, np.array([row]), np.diag([scale, scale, 1])[:2])
    words = _describe(store, row)
    views = [
        figure(drawing.figure_jpeg(whole), f"{path} with the people annotated in it", wide=True)
    ]
    box = store.instances["bbox_xywh"][row]
    if box[4] > 0 and (box[2:4] > 0).all():
        crop, affine = drawing.crop_person(picture, box, CROP_SIDE)
        drawn = _draw(store, crop, np.array([row]), affine, boxes=False)
        views.append(figure(drawing.figure_jpeg(drawn), f"The person alone: {words}"))
        body = _body(store, row, crop, affine)
        if body is not None:
            mesh, model = body
            views.append(figure(drawing.figure_jpeg(mesh), f"The body over the picture: {model}"))
            words += f", {model}"
    caption = f"{path} · row {row}: {words}"
    return card(views, f"{caption} · {missing}" if missing else caption)


def _picture(store: Store, image: int) -> tuple[Array | None, str]:
    """Pixels of a picture, or a grey field of its size and the reason."""
    from humandata.pictures import decode

    try:
        return decode(store.picture(image)), ""
    except HumandataError as error:
        width, height = (int(store.images[side][image]) for side in ("width", "height"))
        if width < 1 or height < 1:
            return None, f"no picture: {error}"
        return np.full((height, width, 3), GREY, np.uint8), f"no picture: {error}"


def _draw(
    store: Store,
    picture: Array,
    rows: Array,
    affine: Array,
    strength: float = 1,
    boxes: bool = True,
) -> Array:
    """Draw rows of the store on a picture that ``affine`` leads to."""
    if not len(rows):
        return picture
    scale = np.hypot(*affine[:, 0])
    at = store.instances
    box = at["bbox_xywh"][rows].astype(np.float64)
    box[:, :2] = geometry.apply_affine(affine, box[:, :2])
    box[:, 2:4] *= scale
    joints = convention = seen = None
    if "keypoints2d" in at:
        joints, convention = (
            drawing.move_joints(at["keypoints2d"][rows], affine),
            store.convention("keypoints2d"),
        )
        if "keypoints2d_visibility" in at:
            seen = at["keypoints2d_visibility"][rows]
    return drawing.draw_people(picture, box if boxes else None, joints, convention, seen, strength)


def _body(store: Store, row: int, crop: Array, affine: Array) -> tuple[Array, str] | None:
    """The SMPL mesh of a row over its crop, and the name of the model."""
    if "intrinsics" not in store.images:
        return None
    image = int(store.instances["image"][row])
    intrinsics = store.images["intrinsics"][image].astype(np.float64)
    try:
        body = store_bodies.mesh(store, row) if intrinsics[0, 0] > 0 else None
    except store_bodies.NoBodyModel:  # the check of bodies says which
        return None
    if body is None:
        return None
    vertices, model = body
    if vertices[:, 2].min() <= 0:
        return None
    camera = geometry.crop_intrinsics(affine, intrinsics)
    title = "stand-in body, not SMPL" if model.name == "standin" else model.title
    return drawing.draw_mesh(crop, vertices, model.faces, camera), f"{title}"


def _describe(store: Store, row: int) -> str:
    at = store.instances
    words = [f"box {at['bbox_xywh'][row][3]:.0f} px tall"]
    if "keypoints2d" in at:
        joints = at["keypoints2d"][row]
        words.append(f"{int((joints[:, 2] > 0).sum())} of {len(joints)} joints")
    if "reprojection_error" in at and at["reprojection_error"][row] >= 0:
        words.append(f"residual {at['reprojection_error'][row]:.1f} px")
    if "gender" in at:
        vocabulary = dict(enumerate(at["gender"].attributes["vocabulary"]))
        words.append(vocabulary.get(int(at["gender"][row]), ""))
    return ", ".join(word for word in words if word not in ("", "unknown"))


def _histograms(store: Store) -> Iterator[Markup]:
    rows = spread_rows(len(store), HISTOGRAM_ROWS)
    at = store.instances
    box = at["bbox_xywh"][rows]
    yield histogram_svg(box[box[:, 4] > 0][:, 3], "Box height", "px")
    for field, name in (("keypoints2d", "2D"), ("keypoints3d", "3D")):
        if field in at:
            yield histogram_svg((at[field][rows][..., -1] > 0).sum(1), f"{name} joints per person")
    image = np.asarray(at["image"])
    yield histogram_svg(np.bincount(image, minlength=store.images.rows), "Persons per picture")
    errors = reprojection.residuals(store, HISTOGRAM_ROWS)
    if len(errors):
        yield histogram_svg(errors, "Residual of 3D on 2D", "px")
    if "smpl/betas" in at and "smpl/valid" in at:
        betas = at["smpl/betas"][rows][at["smpl/valid"][rows]]
        if len(betas):
            yield histogram_svg(betas, "SMPL shape, all coefficients")
    distance = _distances(store, rows)
    if len(distance):
        yield histogram_svg(distance, "Distance from the camera", "m")


def _distances(store: Store, rows: Array) -> Array:
    at = store.instances
    if "smpl/transl_valid" in at:
        placed = at["smpl/transl_valid"][rows]
        return np.asarray(at["smpl/transl"][rows][placed][:, 2])
    if "keypoints3d" in at and at["keypoints3d"].attributes.get("root") == "absolute":
        joints = at["keypoints3d"][rows].astype(np.float64)
        known = (joints[..., 3] > 0).any(axis=1)
        depth = np.where(joints[..., 3] > 0, joints[..., 2], np.nan)[known]
        return np.asarray(np.nanmedian(depth, axis=1))
    return np.zeros(0)


def _joints(store: Store, summary: Mapping[str, Any]) -> Section:
    parts: list[str | Markup] = []
    drawn = []
    for name, shares in summary["joints"].items():
        title = f"{name} ({store.convention(name)}), share of people who have the joint"
        if len(set(shares.values())) == 1:
            every = next(iter(shares.values()))
            parts.append(f"{title}: {100 * every:.0f} % for each of {len(shares)} joints.")
            continue
        names = list(shares)
        for start in range(0, len(names), JOINTS_PER_CHART):
            some = {joint: shares[joint] for joint in names[start : start + JOINTS_PER_CHART]}
            drawn.append(shares_svg(some, title if start == 0 else f"{name}, continued"))
    visibility = summary["visibility"]
    if visibility:
        total = sum(visibility.values())
        words = ", ".join(f"{100 * n / total:.1f} % {word}" for word, n in visibility.items())
        parts.append(f"Of all 2D joints {words}.")
    return Section("Joints", [*parts, charts(drawn)])


def _fields(summary: Mapping[str, Any]) -> Section:
    rows = []
    for field in summary["fields"]:
        says = field_in_words(field)
        present = "" if field["present"] is None else f"{100 * field['present']:.1f} %"
        shape = " × ".join(f"{n:,}" for n in field["shape"])
        name = Markup("<code>{}/{}</code>").format(field["table"], field["name"])
        rows.append([name, field["dtype"], shape, f"{field['chunks']:,}", present, says])
    header = ["field", "type", "shape", "chunks", "present", "what it says of itself"]
    return Section("Fields", [table(rows, header, (2, 3, 4))])


def field_in_words(field: Mapping[str, Any]) -> str:
    """Unit, frame and what the converter said of a field."""
    plain = {"table", "name", "dtype", "shape", "chunk_rows", "chunks", "present", "unit", "frame"}
    words = [str(field[key]) for key in ("unit", "frame") if field.get(key)]
    words += [f"{key}: {value}" for key, value in field.items() if key not in plain]
    return "; ".join(words)


def _origin(summary: Mapping[str, Any]) -> Section:
    provenance, counts = summary["provenance"], summary["counts"]
    made = provenance.get("options") or {}
    rows: list[tuple[str, str]] = [
        ("citation", str(summary["citation"] or "")),
        ("source", str(summary["url"] or "").split("://")[-1]),
        ("licence", str(summary["licence"] or "not said")),
        ("made by", str(provenance.get("converter", ""))),
        ("options", ", ".join(f"{key}={value}" for key, value in made.items())),
        ("records read", f"{counts.get('records', 0):,}"),
        *_counted("filtered", counts.get("filtered", {})),
        *_counted("rejected", counts.get("rejected", {})),
        *(("note", note) for note in summary["notes"]),
        ("fingerprint", str(summary["fingerprint"])),
    ]
    parts: list[str | Markup] = [table([row for row in rows if row[1]], [])]
    sources = provenance.get("sources", [])
    if sources:
        files = [
            [
                Markup("<code>{}</code>").format(s["file"]),
                size_in_words(s["bytes"]),
                s["sha256"][:16],
            ]
            for s in sources[:100]
        ]
        parts.append(
            Markup('<p class="quiet">Annotation files read: {:,}</p>').format(len(sources))
        )
        parts.append(table(files, ["file", "size", "SHA-256"], (1,)))
    return Section("Where it comes from", parts)


def _counted(name: str, counts: Mapping[str, int]) -> Iterable[tuple[str, str]]:
    return [(f"{name}: {rule.replace('_', ' ')}", f"{count:,}") for rule, count in counts.items()]

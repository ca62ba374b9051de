"""An evaluation as one HTML page: figures, sequences, and predicted bodies over pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from humandata import drawing, geometry, rasterise
from humandata.bodymodel import GENDERS, STANDIN_TITLE, body_model
from humandata.errors import HumandataError
from humandata.page import Section, banner, card, charts, figure, gallery, page, table
from humandata.store import Store
from humandata.training.bodies import Bodies
from humandata.training.comparison import stored_bodies
from humandata.training.predictions import crop_boxes
from humandata.training.results import METRICS, UNITS, Result, Row, in_print

Array = NDArray[Any]

CROP, FOCAL = 320, 5000.0
PREDICTED, TRUE = (112, 165, 240), (128, 200, 120)
"""Colours of the two bodies, sRGB."""
PEOPLE = 4
"""Persons of each group in the gallery."""


def write_report(
    result: Result, store: Store, out: Path, folder: Path | None = None, people: int = PEOPLE
) -> Path:
    """Write one self-contained HTML file about an evaluation.

    Parameters
    ----------
    result : Result
    store : Store
        The one that was evaluated.
    out : Path
        The file; its folder is made.
    folder : Path, optional
        The user's SMPL files.
    people : int
        How many of the best, the middling and the worst predictions to show.

    Returns
    -------
    Path
        ``out``.
    """
    overall, baseline = result.overall.figures, result.baseline.figures
    facts = {METRICS[name]: f"{overall[name].mean:.1f} {UNITS[name]}" for name in result.metrics}
    facts["persons"] = f"{result.overall.rows:,}"
    sections = [Section("Figures", [*_notes(result), _figures(result), _explanation(result)])]
    sections += _people(result, store, folder, people)
    if result.sequences:
        bars = [sequences_svg(result, name) for name in result.metrics]
        sections.append(Section("Sequences", [charts(bars)]))
    sections.append(Section("Joints", [_joints(result)]))
    histograms = [
        drawing.histogram_svg(
            result.errors[name][np.isfinite(result.errors[name])],
            f"{METRICS[name]} of each person",
            UNITS[name],
            note="Predicting the mean pose for everybody: "
            f"{baseline[name].mean:.1f} {UNITS[name]}.",
        )
        for name in result.metrics
    ]
    sections.append(Section("Distribution", [charts(histograms)]))
    sections.append(Section("Protocol", [table(result.protocol.in_words(), [])]))
    body = f"{STANDIN_TITLE} (body model)" if result.body_model == "standin" else "SMPL"
    html = page(
        f"Evaluation on {result.store['dataset']} {result.store['split']}",
        sections,
        subtitle=f"{result.protocol.name} (version {result.protocol.version}) · {body}",
        facts=facts,
        footer=f"{result.source}. Store {Path(result.store['path']).name}, fingerprint "
        f"{result.store['fingerprint'][:16]}.",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, out)
    return out


def _notes(result: Result) -> Iterator[Markup]:
    for note in result.notes:
        yield banner(note[0].upper() + note[1:] + ".", "warning")


def _figures(result: Result) -> Markup:
    header = ["", "persons", *(f"{METRICS[name]} ({UNITS[name]})" for name in result.metrics)]
    rows = []
    for row in (result.overall, result.baseline):
        name = "prediction" if row is result.overall else "mean pose for everybody"
        figures = [in_print(row.figures[metric]) for metric in result.metrics]
        rows.append([name, f"{row.rows:,}", *figures])
    return table(rows, header, range(1, len(header)))


def _joints(result: Result) -> Markup:
    """Mean of every joint, of the metrics that are made of joints."""
    header = ["joint", *(f"{METRICS[name]} ({UNITS[name]})" for name in result.joints)]
    columns = [[f"{value:.1f}" for value in values] for values in result.joints.values()]
    rows = [list(row) for row in zip(result.protocol.joint_names, *columns, strict=True)]
    return table(rows, header, range(1, len(header)))


def _explanation(result: Result) -> Markup:
    text = (
        "Mean error and 95 % interval of a bootstrap over {}. The mean pose is what iterative "
        "regressors start from: a network that has learnt something is well below it."
    )
    return Markup('<p class="quiet">{}</p>').format(text.format(result.clusters))


def sequences_svg(result: Result, metric: str) -> Markup:
    """Mean error of each sequence as a bar with its interval, the overall mean as a dashed line."""
    worse = 1 if UNITS[metric] == "%" else -1
    known = [row for row in result.sequences if math.isfinite(row.figures[metric].mean)]
    rows = sorted(known, key=lambda row: worse * row.figures[metric].mean)
    line, label, wide, right = 16, 150, 190, 46
    ends = [f for row in rows for f in (row.figures[metric].mean, row.figures[metric].high)]
    largest = max([end for end in ends if math.isfinite(end)], default=1.0) or 1.0
    overall = result.overall.figures[metric].mean
    x = label + wide * min(overall / largest, 1)
    height = line * len(rows) + 6
    body = Markup("").join(
        _bar(row, metric, line * i, label, wide / largest) for i, row in enumerate(rows)
    )
    return Markup(
        '<figure class="chart"><svg viewBox="0 0 {w} {h}" role="img" aria-label="{caption}">'
        '{body}<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{h}"/></svg>'
        "<figcaption>{caption}</figcaption></figure>"
    ).format(
        w=label + wide + right,
        h=height,
        body=body,
        x=x,
        caption=f"{METRICS[metric]} by sequence in {UNITS[metric]}, worst first; dashed: all, "
        f"{overall:.1f}. "
        "Whiskers: 95 % interval over blocks of frames, where there are several",
    )


def _bar(row: Row, metric: str, top: int, label: int, scale: float) -> Markup:
    found = row.figures[metric]
    end = label + scale * found.mean
    name = row.name if len(row.name) <= 24 else row.name[:23] + "…"
    parts = [
        Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(label - 6, top + 12, name),
        Markup(
            '<rect class="bar" x="{}" y="{}" width="{:.1f}" height="9">'
            "<title>{}: {} {}, {:,} persons</title></rect>"
        ).format(
            label,
            top + 4,
            max(end - label, 0.5),
            row.name,
            in_print(found),
            UNITS[metric],
            row.rows,
        ),
    ]
    if math.isfinite(found.low):
        low, high = label + scale * found.low, label + scale * found.high
        path = f"M{low:.1f} {top + 6}v5M{high:.1f} {top + 6}v5M{low:.1f} {top + 8.5}H{high:.1f}"
        parts.append(Markup('<path d="{}" fill="none" style="stroke:var(--ink)"/>').format(path))
        end = max(end, high)
    parts.append(
        Markup('<text x="{:.1f}" y="{}">{:.1f}</text>').format(end + 5, top + 12, found.mean)
    )
    return Markup("").join(parts)


# Persons ----------------------------------------------------------------------------------------


def _people(result: Result, store: Store, folder: Path | None, people: int) -> Iterator[Section]:
    metric = "pa_mpjpe" if "pa_mpjpe" in result.metrics else result.metrics[0]
    legend = Markup(
        '<p class="quiet">The picture as the network sees it, the predicted body over it '
        "(blue) and the true one (green). Ordered by {}, of different sequences where there are "
        "enough.</p>"
    ).format(METRICS[metric])
    for title, positions in choose(result, store, metric, people).items():
        shown = gallery(_person(result, store, folder, at) for at in positions)
        yield Section(f"{title} predictions", [legend, shown] if title == "Best" else [shown])


def choose(result: Result, store: Store, metric: str, people: int) -> dict[str, list[int]]:
    """Positions in ``result.rows`` of the best, middling and worst predictions."""
    worse = -1 if UNITS[metric] == "%" else 1
    order = np.argsort(worse * result.errors[metric], kind="stable")
    order = order[np.isfinite(result.errors[metric][order])]
    middle = order[np.argsort(np.abs(np.arange(len(order)) - (len(order) - 1) / 2), kind="stable")]
    image = store.instances["image"][result.rows]
    group = store.images["sequence"][image] if result.sequences else image
    taken: set[int] = set()
    groups = {"Best": order, "Median": middle, "Worst": order[::-1]}
    return {name: _distinct(ranked, group, people, taken) for name, ranked in groups.items()}


def _distinct(ranked: Array, group: Array, count: int, taken: set[int]) -> list[int]:
    """The first of each group, then whoever is next, in order; nobody who is ``taken``."""
    free = [int(at) for at in ranked if int(at) not in taken]
    first: dict[int, int] = {}
    for at in free:
        first.setdefault(int(group[at]), at)
    chosen = list(first.values())[:count]
    chosen += [at for at in free if at not in chosen][: count - len(chosen)]
    taken.update(chosen)
    return [at for at in free if at in chosen]


def _person(result: Result, store: Store, folder: Path | None, at: int) -> Markup:
    row = int(result.rows[at])
    image = int(store.instances["image"][row])
    errors = ", ".join(
        f"{METRICS[name]} {result.errors[name][at]:.1f} {UNITS[name]}" for name in result.metrics
    )
    caption = f"{store.images['path'][image]} · row {row}: {errors}"
    from humandata.pictures import decode

    try:
        picture = decode(store.picture(image))
    except HumandataError as error:
        return card([], f"{caption} · no picture: {error}")
    crop, affine = _crop(result, store, row, picture)
    views = [figure(drawing.figure_jpeg(crop), "The person")]
    bodies = _placed(result, store, row, at, folder, affine)
    for (words, colour), placed in zip(
        (("The predicted body", PREDICTED), ("The true body", TRUE)), bodies, strict=True
    ):
        if placed is not None:
            vertices, camera, faces = placed
            drawn = rasterise.overlay(crop, vertices, faces, camera, colour, 0.9)
            views.append(figure(drawing.figure_jpeg(drawn), f"{words} over the picture: {errors}"))
    return card(views, caption)


def _crop(result: Result, store: Store, row: int, picture: Array) -> tuple[Array, Array]:
    """The crop that the network was given, larger, and how it lies in the picture."""
    boxes = crop_boxes(store, np.array([row]), result.protocol)
    column = store.instances[result.protocol.box]
    if boxes is not None:
        return drawing.crop_person(picture, boxes[0], CROP, 1.0)
    tight = column.attributes.get("factor") == 1
    return drawing.crop_person(picture, column[row][:4], CROP, 1.2 if tight else 1.0)


Placed = tuple[Array, Array, Array]
"""Vertices (V, 3) in front of a camera (3, 3) of the crop, and faces."""


def _placed(
    result: Result, store: Store, row: int, at: int, folder: Path | None, affine: Array
) -> tuple[Placed | None, Placed | None]:
    """The predicted and the true mesh over the crop; None where nothing says where it is.

    The prediction stands where its weak-perspective camera says, or else on the true pelvis; the
    truth where its translation and the picture's camera say, or else on the predicted pelvis.
    """
    faces = body_model(result.protocol.prediction_body, folder).faces
    truth = stored_bodies(store, np.array([row]), result.protocol, folder)
    true, true_pelvis = truth.vertices(slice(None))[0], truth.joints()[0, 0]
    predicted = _predicted_body(result, at, folder)
    lens = np.array([[FOCAL, 0, CROP / 2], [0, FOCAL, CROP / 2], [0, 0, 1]])
    shown: list[tuple[Array, Array] | None] = [None, None]  # camera, where the pelvis is
    if predicted is not None and result.predictions.camera is not None:
        camera = result.predictions.camera[at].astype(np.float64)
        moved = geometry.weak_perspective_to_translation(camera, FOCAL, CROP)
        shown[0] = lens, moved + predicted[1]
    known = _true_place(store, row, affine)
    if known is not None:
        shown[1] = known[0], known[1] + true_pelvis
    first, second = shown[0] or shown[1], shown[1] or shown[0]
    blue = green = None
    if predicted is not None and first is not None:
        blue = predicted[0] - predicted[1] + first[1], first[0], faces
    if second is not None:
        green = true - true_pelvis + second[1], second[0], faces
    return blue, green


def _predicted_body(result: Result, at: int, folder: Path | None) -> tuple[Array, Array] | None:
    """Predicted mesh (V, 3) and pelvis (3,), before translation."""
    own, one = result.predictions, slice(at, at + 1)
    if own.global_orient is None or own.body_pose is None or own.betas is None:
        return None
    gender = np.array([GENDERS.index(result.protocol.prediction_body)])
    body = Bodies(own.global_orient[one], own.body_pose[one], own.betas[one], gender, folder)
    return body.vertices(slice(None))[0], body.joints()[0, 0]


def _true_place(store: Store, row: int, affine: Array) -> tuple[Array, Array] | None:
    """Camera of the crop and SMPL translation of the ground truth."""
    instances, image = store.instances, int(store.instances["image"][row])
    if "smpl/transl_valid" not in instances or "intrinsics" not in store.images:
        return None
    intrinsics = store.images["intrinsics"][image].astype(np.float64)
    if not instances["smpl/transl_valid"][row] or intrinsics[0, 0] <= 0:
        return None
    camera = geometry.crop_intrinsics(affine, intrinsics)
    return camera, instances["smpl/transl"][row].astype(np.float64)

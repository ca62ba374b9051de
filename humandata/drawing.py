"""Pictures with people drawn on them, and small charts: what reports are illustrated with.

Colours tell sides: a person's own left is blue, the right is orange, the midline is white, as seen
in the picture (a person facing the camera has the blue side on the right). A joint that is visible
is a disc, an occluded one a ring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from humandata import geometry, keypoints

Picture = NDArray[np.uint8]
Array = NDArray[Any]

LEFT, RIGHT, MIDDLE = (58, 134, 255), (255, 140, 26), (245, 245, 245)
BOX = (120, 220, 120)
EDGE = (20, 20, 24)
BEYOND = 48
_FINE = 4
"""Fractional bits of OpenCV's drawing coordinates: a sixteenth of a pixel."""


def shrink(picture: Picture, max_side: int) -> tuple[Picture, float]:
    """Scale a picture down so that its longer side is at most ``max_side``.

    Returns
    -------
    picture : uint8 ndarray (h, w, 3)
        The given one where it is small enough.
    scale : float
        By which coordinates shrink with it.
    """
    import cv2

    height, width = picture.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    if scale == 1.0:
        return picture, 1.0
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def draw_people(
    picture_rgb: Picture,
    boxes: Array | None,
    keypoints2d: Array | None,
    convention: str | None,
    visibility: Array | None = None,
    strength: float = 1.0,
) -> Picture:
    """Draw boxes, skeletons and joints of people on a copy of a picture.

    Parameters
    ----------
    picture_rgb : uint8 ndarray, shape (h, w, 3)
    boxes : (n, 4 or more), optional
        Left, top, width, height in pixels of this picture; a fifth column is a confidence, and
        boxes without any are left out.
    keypoints2d : (n, K, 3), optional
        x, y, confidence; joints without confidence are left out.
    convention : str, optional
        Of the keypoints; its skeleton is drawn.
    visibility : (n, K), optional
        0 unlabelled, 1 occluded (drawn as a ring), 2 visible (drawn as a disc).
    strength : float
        Opacity, for people who are not meant.

    Returns
    -------
    uint8 ndarray, shape (h, w, 3)
    """
    import cv2

    drawn = np.ascontiguousarray(picture_rgb).copy()
    width = max(1, round(max(drawn.shape[:2]) / 320))
    for box in () if boxes is None else np.asarray(boxes, np.float64):
        if np.isfinite(box).all() and (len(box) < 5 or box[4] > 0):
            corners = _fixed(box[:2]), _fixed(box[:2] + box[2:4])
            cv2.rectangle(drawn, *corners, EDGE, width + 1, cv2.LINE_AA, _FINE)
            cv2.rectangle(drawn, *corners, BOX, width, cv2.LINE_AA, _FINE)
    if keypoints2d is not None and convention is not None:
        for person, joints in enumerate(np.asarray(keypoints2d, np.float64)):
            seen = None if visibility is None else np.asarray(visibility)[person]
            _draw_skeleton(drawn, joints, convention, seen, width)
    if strength >= 1:
        return drawn
    mixed = cv2.addWeighted(drawn, strength, picture_rgb, 1 - strength, 0)
    return np.asarray(mixed, np.uint8)


def _draw_skeleton(
    picture: Picture, joints: Array, convention: str, visibility: Array | None, width: int
) -> None:
    import cv2

    names = keypoints.names(convention)
    labelled = (joints[:, 2] > 0) & np.isfinite(joints).all(axis=1)
    # Skeletons of whole bodies have hundreds of joints in face and hands: drawn finer.
    extent = np.ptp(joints[labelled, :2], axis=0).max() if labelled.any() else 0
    width = max(1, min(width, round(extent / 60)))
    for start, stop in keypoints.limbs(convention):
        if labelled[start] and labelled[stop]:
            ends = _fixed(joints[start, :2]), _fixed(joints[stop, :2])
            colour = _side(names[start], names[stop])
            cv2.line(picture, *ends, EDGE, width + 2, cv2.LINE_AA, _FINE)
            cv2.line(picture, *ends, colour, width + 1, cv2.LINE_AA, _FINE)
    for joint in np.flatnonzero(labelled):
        at, colour = _fixed(joints[joint, :2]), _side(names[joint])
        radius = (width + 2) << _FINE
        if visibility is not None and visibility[joint] == 1:
            cv2.circle(picture, at, radius, EDGE, width + 2, cv2.LINE_AA, _FINE)
            cv2.circle(picture, at, radius, colour, width, cv2.LINE_AA, _FINE)
        else:
            cv2.circle(picture, at, radius + (1 << _FINE), EDGE, -1, cv2.LINE_AA, _FINE)
            cv2.circle(picture, at, radius, colour, -1, cv2.LINE_AA, _FINE)


def _fixed(point: Array) -> tuple[int, int]:
    # OpenCV's fixed-point coordinates are 32 bit; lines to far outside would wrap around.
    x, y = np.clip(np.round(point * (1 << _FINE)), -(2**20), 2**20).astype(int)
    return int(x), int(y)


def _side(*names: str) -> tuple[int, int, int]:
    """Left where some end is left and none right; likewise right; else the midline."""
    left = any(name.startswith("left") for name in names)
    right = any(name.startswith("right") for name in names)
    if left == right:
        return MIDDLE
    return LEFT if left else RIGHT


def crop_person(
    picture: Picture, box: Array, size: int = 256, factor: float = 1.2
) -> tuple[Picture, Array]:
    """The square around a box, enlarged by ``factor``.

    Returns
    -------
    crop : uint8 ndarray (size, size, 3)
        Dark grey where the square reaches beyond the picture.
    affine : (2, 3) float64
        From the picture to the crop.
    """
    import cv2

    centre, side = geometry.xywh_to_square(np.asarray(box, np.float64)[None])
    side = side * factor
    affine = np.asarray(geometry.crop_affine(centre, side, size)[0], np.float64)
    # Warping alone would skip pixels where it shrinks, so the picture is shrunk beforehand.
    ahead = min(1.0, size / float(side[0]))
    small, scale = shrink(picture, round(ahead * max(picture.shape[:2])))
    crop = cv2.warpAffine(
        small, affine * [1 / scale, 1 / scale, 1], (size, size), borderValue=(BEYOND,) * 3
    )
    return np.asarray(crop, np.uint8), affine


def move_joints(joints: Array, affine: Array) -> Array:
    """Joints (..., K, 3) with confidence, through an affine (2, 3)."""
    moved = np.asarray(joints, np.float64).copy()
    moved[..., :2] = geometry.apply_affine(affine, moved[..., :2])
    return moved


def draw_mesh(picture_rgb: Picture, vertices: Array, faces: Array, intrinsics: Array) -> Picture:
    """A shaded mesh over a copy of a picture; vertices (V, 3) in the camera frame, metres."""
    from humandata import rasterise

    return rasterise.overlay(picture_rgb, vertices, faces, intrinsics)


def figure_jpeg(rgb: Picture, max_side: int = 640, quality: int = 85) -> bytes:
    """A picture as JPEG, its longer side at most ``max_side`` pixels."""
    from humandata.pictures import encode_jpeg

    return encode_jpeg(shrink(rgb, max_side)[0], quality)


def histogram_svg(
    values: Array,
    title: str,
    unit: str = "",
    bins: int = 30,
    clip: float = 99.5,
    note: str = "",
) -> Markup:
    """A histogram as inline SVG; colours follow the page by CSS variables.

    Parameters
    ----------
    values : (n,)
        Whole numbers of a small range get one bar each.
    title, unit : str
    bins : int
    clip : float
        Values above this percentile are counted in the last bar, which then says so.
    note : str
        A remark below the chart.
    """
    values = np.asarray(values, np.float64).reshape(-1)
    values = values[np.isfinite(values)]
    heading = f"{title} ({unit})" if unit else title
    if not len(values):
        return Markup(
            '<figure class="chart"><figcaption>{}: no values</figcaption></figure>'
        ).format(heading)
    # Of a few values, none is an outlier.
    high = float(np.percentile(values, clip if len(values) > 200 else 100))
    low = float(values.min())
    whole = bool((values == np.round(values)).all()) and values.max() - low <= 40
    if whole:
        # Few bars would be as wide as they are high.
        edges = np.arange(low - 0.5, max(values.max(), low + 7) + 1)
        clipped = False
    else:
        high = high if high > low else low + 1
        edges = np.linspace(low, high, bins + 1)
        clipped = bool(values.max() > high)
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    middle = float(np.median(values))
    caption = f"{heading} · {len(values):,} values, median {_short(middle)}"
    if clipped:
        caption += f", the last bar holds all up to {_short(values.max())}"
    return _bars(counts, edges, middle, heading, f"{caption}{'. ' + note if note else ''}", whole)


def _bars(
    counts: Array, edges: Array, middle: float, title: str, caption: str, whole: bool
) -> Markup:
    wide, tall, left, top = 320, 120, 34, 8
    span = edges[-1] - edges[0]

    def x(value: float) -> float:
        return float(left + (value - edges[0]) / span * wide)

    bars = Markup("").join(
        Markup(
            '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
            "<title>{}: {:,}</title></rect>"
        ).format(
            x(start) + 0.5,
            top + tall * (1 - count / counts.max()),
            max(x(stop) - x(start) - 1, 0.5),
            tall * count / counts.max(),
            _short((start + stop) / 2) if whole else f"{_short(start)} to {_short(stop)}",
            int(count),
        )
        for start, stop, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    )
    marks = _marks(edges, whole)
    ticks = Markup("").join(
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            x(mark), top + tall + 14, _short(mark)
        )
        for mark in marks
    )
    return Markup(
        '<figure class="chart"><svg viewBox="0 0 {w} {h}" role="img" aria-label="{label}">'
        '<line class="axis" x1="{l}" x2="{r}" y1="{y}" y2="{y}"/>{bars}'
        '<line class="median" x1="{m:.1f}" x2="{m:.1f}" y1="{t}" y2="{y}"/>{ticks}'
        '<text x="{l4}" y="{t8}" text-anchor="end">{most}</text></svg>'
        "<figcaption>{caption}</figcaption></figure>"
    ).format(
        w=left + wide + 14, h=top + tall + 20, label=f"Histogram of {caption}", l=left,
        r=left + wide, y=top + tall, bars=bars, m=min(max(x(middle), left), left + wide), t=top,
        ticks=ticks, l4=left - 4, t8=top + 8, most=f"{counts.max():,}", caption=caption,
    )  # fmt: skip


def _marks(edges: Array, whole: bool) -> Array:
    """Four to eight round numbers within the edges; whole ones for counts."""
    span = float(edges[-1] - edges[0])
    unit = 10.0 ** np.floor(np.log10(span / 4))
    step = max(step for step in (unit, 2 * unit, 5 * unit) if step <= span / 4)
    step = max(1.0, np.round(step)) if whole else step
    first, last = np.ceil(edges[0] / step - 1e-9), np.floor(edges[-1] / step + 1e-9)
    return np.asarray(np.arange(first, last + 1) * step)


def shares_svg(shares: Mapping[str, float], title: str) -> Markup:
    """Shares from 0 to 1 as horizontal bars; names of a person's sides get their colours."""
    names = list(shares)
    row, label, wide = 16, 150, 200
    body = Markup("").join(
        Markup(
            '<text x="{}" y="{}" text-anchor="end">{}</text>'
            '<rect class="track" x="{}" y="{}" width="{}" height="9"/>'
            '<rect class="bar {}" x="{}" y="{}" width="{:.1f}" height="9"/>'
            '<text x="{}" y="{}">{:.0f} %</text>'
        ).format(
            label - 6, row * i + 12, name, label, row * i + 4, wide, _side_class(name), label,
            row * i + 4, wide * shares[name], label + wide + 6, row * i + 12, 100 * shares[name],
        )
        for i, name in enumerate(names)
    )  # fmt: skip
    return Markup(
        '<figure class="chart"><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        "<figcaption>{}</figcaption></figure>"
    ).format(label + wide + 46, row * len(names) + 6, title, body, title)


def _side_class(name: str) -> str:
    return "left" if name.startswith("left") else "right" if name.startswith("right") else ""


def _short(value: float) -> str:
    """A number as one reads it on an axis."""
    value = float(value)
    if value == 0:
        return "0"
    if abs(value) < 0.1:
        return f"{value:.2g}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

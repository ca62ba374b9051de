"""Triangle meshes to pixels in plain NumPy: face indices, depth, shading, overlays, silhouettes.

A fragment list instead of loops: every face is cut into the rows of samples it covers, every row
into its samples, and a depth buffer keeps the nearest. No OpenGL, no compiler.

Frames and units: camera x right, y down, z forward, metres. `rasterise` takes picture coordinates
in which pixel ``i`` extends from ``i`` to ``i + 1`` and is sampled at ``i + 1/2``; everything that
takes an intrinsic matrix counts pixels as the rest of the package does, 0 being the centre of the
first pixel, and adds the half itself. Meshes are not clipped: a face with a corner nearer than
``Z_NEAR`` is left out.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humandata import geometry
from humandata.errors import HumandataError

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
Picture = NDArray[np.uint8]

Z_NEAR = 0.05
"""Metres."""

_GRID = 256.0
"""Corners are rounded to 1/256 of a sample: then edge functions are exact in float64, and a sample
on an edge between two faces belongs to exactly one of them."""


class Raster(NamedTuple):
    """What `rasterise` returns.

    Attributes
    ----------
    face : (H, W) int32
        The nearest face, -1 where there is none.
    inverse_depth : (H, W) float64
        1/z of that face at the sample, 0 where there is none.
    barycentrics : (H, W, 3) float64
        Perspective-correct weights of the three corners; zeros where there is none.
    """

    face: NDArray[np.int32]
    inverse_depth: Float64
    barycentrics: Float64


class Fragments(NamedTuple):
    """The same for the covered samples only, in the order of their places."""

    place: Int
    face: Int
    inverse_depth: Float64
    barycentrics: Float64


def rasterise(uvz: ArrayLike, faces: ArrayLike, size: tuple[int, int], cull: bool = True) -> Raster:
    """Nearest face at the centre of every pixel.

    Parameters
    ----------
    uvz : array_like, shape (V, 3)
        Picture coordinates, y down, pixel centres at halves, and depth in metres.
    faces : array_like of int, shape (F, 3)
    size : (int, int)
        Width and height.
    cull : bool
        Leave out faces seen from behind: those whose corners run clockwise on the screen, as
        SMPL's do from inside. Changes nothing on a closed mesh and halves the work.

    Returns
    -------
    Raster

    Notes
    -----
    Top-left rule: a sample on an edge belongs to the face that has it as its left or top edge.
    The largest 1/z wins, at equal depth the lower face index.
    """
    width, height = size
    found = fragments(uvz, faces, size, cull)
    face = np.full(width * height, -1, np.int32)
    depth = np.zeros(width * height)
    weights = np.zeros((width * height, 3))
    face[found.place] = found.face
    depth[found.place] = found.inverse_depth
    weights[found.place] = found.barycentrics
    shape = (height, width)
    return Raster(face.reshape(shape), depth.reshape(shape), weights.reshape(*shape, 3))


def fragments(
    uvz: ArrayLike, faces: ArrayLike, size: tuple[int, int], cull: bool = True
) -> Fragments:
    """`rasterise` without the empty pixels; ``place`` is ``row * width + column``."""
    points = np.asarray(uvz, np.float64)
    corners = np.asarray(faces)
    if points.ndim != 2 or points.shape[1] != 3 or corners.ndim != 2 or corners.shape[1] != 3:
        raise HumandataError(
            f"expected corners (V, 3) and faces (F, 3), found {points.shape} and {corners.shape}"
        )
    width, height = size
    usable = np.isfinite(points).all(axis=1) & (points[:, 2] > Z_NEAR)
    u, v = (np.round(np.where(usable, points[:, k], 0) * _GRID) / _GRID for k in (0, 1))
    # Corners come first in all shapes below: (3, faces), (3, rows), (3, samples).
    x, y = u[corners.T], v[corners.T]
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    first, last = _rows(y, height)
    kept = (area < 0 if cull else area != 0) & (first <= last)
    kept &= (_largest(x) > 0) & (-_largest(-x) < width)
    if not usable.all():
        kept &= usable[corners].all(axis=1)
    face = np.flatnonzero(kept)
    x, y, area = x[:, face], y[:, face], area[face]
    a, b, c = _edges(x, y, np.sign(area))
    of, row = _expand(first[face], last[face] - first[face] + 1)
    slope = np.take(a, of, axis=1)
    rest = np.take(b, of, axis=1) * (row + 0.5) + np.take(c, of, axis=1)
    start, stop = _spans(slope, rest, width)
    some = np.flatnonzero(stop > start)
    of_row, column = _expand(start[some], stop[some] - start[some])
    of_row = some[of_row]
    owner = of[of_row]
    # 1/z is linear in the picture; b'_k = b_k (1/z_k) / (1/z) undoes the perspective.
    scale = 1 / (points[:, 2][corners[face].T] * np.abs(area))
    weights = np.take(slope, of_row, axis=1) * (column + 0.5) + np.take(rest, of_row, axis=1)
    weights *= np.take(scale, owner, axis=1)
    inverse = weights[0] + weights[1] + weights[2]
    place = row[of_row] * width + column
    winner = _nearest(place, inverse, width * height)
    inverse = inverse[winner]
    barycentrics = (np.take(weights, winner, axis=1) / inverse).T
    return Fragments(place[winner], face[owner[winner]], inverse, barycentrics)


def _largest(values: Float64) -> Float64:
    # Over an axis of three, faster than .max(axis=0).
    largest: Float64 = np.maximum(np.maximum(values[0], values[1]), values[2])
    return largest


def _rows(y: Float64, height: int) -> tuple[Int, Int]:
    """First and last row of samples of every face (3, F), inside of the picture."""
    # A sample on a top edge is inside, on a bottom edge not.
    first = np.ceil(np.clip(-_largest(-y) - 0.5, 0, height)).astype(np.int64)
    last = np.ceil(np.clip(_largest(y) - 0.5, 0, height)).astype(np.int64) - 1
    return first, last


def _edges(x: Float64, y: Float64, sign: Float64) -> tuple[Float64, Float64, Float64]:
    """Edge functions ``a x + b y + c`` (3, F) opposite to the corners, positive inside."""
    nxt, other = [1, 2, 0], [2, 0, 1]
    dx, dy = sign * (x[other] - x[nxt]), sign * (y[other] - y[nxt])
    return -dy, dx, dy * x[nxt] - dx * y[nxt]


def _expand(start: Int, count: Int) -> tuple[Int, Int]:
    """Ranges ``start .. start + count`` as one list: which range, and the number."""
    of = np.repeat(np.arange(len(start)), count)
    number = np.arange(len(of)) + np.repeat(start - (np.cumsum(count) - count), count)
    return of, number


def _spans(slope: Float64, rest: Float64, width: int) -> tuple[Int, Int]:
    """Columns ``start .. stop - 1`` where all three edge functions (3, R) of a row are inside."""
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = np.ceil(-rest / slope - 0.5)
    # Positive slope: a left edge, which owns its samples. Negative: a right edge, which does not.
    start = _largest(np.where(slope > 0, crossing, 0))
    stop = -_largest(np.where(slope < 0, -crossing, -width))
    stop = np.clip(stop, 0, width)
    return np.clip(start, 0, width).astype(np.int64), stop.astype(np.int64)


def _nearest(place: Int, inverse: Float64, places: int) -> Int:
    """The fragment with the largest 1/z at every place, the first of equal ones."""
    buffer = np.zeros(places)
    np.maximum.at(buffer, place, inverse)
    front = np.flatnonzero(inverse == buffer[place])
    chosen = np.full(places, -1, np.int64)
    chosen[place[front][::-1]] = front[::-1]  # of repeated places the last one stays
    return chosen[chosen >= 0]


# Shading ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Light:
    """Light on a scene, linear.

    Attributes
    ----------
    direction : (3,) tuple of float
        From the surface to the light, camera frame; need not have length one. The default is
        over the left shoulder of whoever looks.
    colour, ambient : (3,) tuple of float
        Red, green, blue of the light itself and of what comes from everywhere.
    """

    direction: tuple[float, float, float] = (-0.4, -0.6, -1.0)
    colour: tuple[float, float, float] = (0.65, 0.65, 0.65)
    ambient: tuple[float, float, float] = (0.35, 0.35, 0.35)


DEFAULT_LIGHT = Light()


def vertex_normals(vertices: ArrayLike, faces: ArrayLike) -> Float64:
    """Normals (V, 3) of unit length: sums of the faces' cross products, so weighted by area.

    Zero at a vertex without faces.
    """
    points, corners = np.asarray(vertices, np.float64), np.asarray(faces)
    a, b, c = (np.take(points, corners[:, k], axis=0) for k in range(3))
    u, v = b - a, c - a
    index = corners.T.ravel()
    normals = np.empty_like(points)
    for axis in range(3):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        cross = u[:, i] * v[:, j] - u[:, j] * v[:, i]
        normals[:, axis] = np.bincount(index, np.tile(cross, 3), len(points))
    length = np.sqrt(np.einsum("vi,vi->v", normals, normals))
    normals /= np.where(length > 0, length, 1)[:, None]
    return normals


def lambert(normals: ArrayLike, albedo: ArrayLike, light: Light = DEFAULT_LIGHT) -> Float64:
    """Colour ``albedo (ambient + colour max(0, n·l))``, linear, shape of the normals."""
    towards = np.asarray(light.direction, np.float64)
    towards = towards / np.linalg.norm(towards)
    facing = np.maximum(np.asarray(normals, np.float64) @ towards, 0)
    received = np.asarray(light.ambient) + facing[..., None] * np.asarray(light.colour)
    lit: Float64 = np.asarray(albedo, np.float64) * received
    return lit


def to_linear(srgb: ArrayLike) -> Float32:
    """sRGB values, 0 to 255, as linear light, 0 to 1."""
    values = np.asarray(srgb)
    if values.dtype == np.uint8:
        linear: Float32 = _linear_of_byte()[values]
        return linear
    return _decode(values.astype(np.float32) / np.float32(255))


def to_srgb(linear: ArrayLike) -> Picture:
    """Linear light as sRGB bytes; what is brighter than 1 is clipped."""
    table = _byte_of_linear()
    scaled = np.asarray(linear, np.float32) * (len(table) - 1) + np.float32(0.5)
    srgb: Picture = table[np.clip(scaled, 0, len(table) - 1).astype(np.uint16)]
    return srgb


def _decode(values: Float32) -> Float32:
    low = values / np.float32(12.92)
    high = ((np.maximum(values, 0) + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
    return np.where(values <= 0.04045, low, high)


@functools.cache
def _linear_of_byte() -> Float32:
    return _decode(np.arange(256, dtype=np.float32) / np.float32(255))


@functools.cache
def _byte_of_linear() -> Picture:
    # 16 bits of linear light resolve every byte; the largest error is half a byte.
    linear = np.arange(65536) / 65535
    low, high = 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    return np.round(255 * np.where(linear <= 0.0031308, low, high)).astype(np.uint8)


# Layers and overlays ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """Bodies drawn without a background, as large as the box around them.

    Attributes
    ----------
    x, y : int
        Place of the layer's first pixel in the picture.
    colour : (h, w, 3) float32
        Linear, multiplied by the coverage.
    coverage : (h, w) float32
        Share of a pixel's samples that hit a body.
    body : (h, w) int8
        The body that holds most of the pixel, -1 where bodies hold less than half of it.
    inverse_depth : (h, w) float32
        Largest 1/z in the pixel, 0 where there is none.
    """

    x: int
    y: int
    colour: Float32
    coverage: Float32
    body: NDArray[np.int8]
    inverse_depth: Float32

    def over(self, picture: Float32, alpha: float = 1.0) -> Float32:
        """The layer over a linear picture (H, W, 3), in place."""
        height, width = self.coverage.shape
        part = picture[self.y : self.y + height, self.x : self.x + width]
        part *= 1 - np.float32(alpha) * self.coverage[..., None]
        part += np.float32(alpha) * self.colour
        return picture


def picture_coordinates(vertices: ArrayLike, intrinsics: ArrayLike) -> Float64:
    """Camera-frame vertices (V, 3) as what `rasterise` takes; NaN behind the camera."""
    points = np.asarray(vertices, np.float64)
    uv = geometry.project(points, np.asarray(intrinsics, np.float64))
    return np.concatenate([uv + 0.5, points[..., 2:]], axis=-1)


def draw(
    vertices: ArrayLike,
    faces: ArrayLike,
    intrinsics: ArrayLike,
    size: tuple[int, int],
    colours: ArrayLike,
    samples: int = 2,
) -> Layer:
    """Draw bodies that hide each other, anti-aliased by averaging samples in linear light.

    Parameters
    ----------
    vertices : array_like, shape (P, V, 3)
        Camera frame, metres.
    faces : array_like of int, shape (F, 3)
        Of one body; all bodies share them.
    intrinsics : array_like, shape (3, 3)
    size : (int, int)
        Width and height of the picture.
    colours : array_like, shape (P, V, 3)
        Light that leaves each vertex, linear.
    samples : int
        Per pixel and direction.

    Returns
    -------
    Layer
    """
    points = np.asarray(vertices, np.float64)
    if points.ndim != 3:
        raise HumandataError(f"expected bodies of shape (P, V, 3), found {points.shape}")
    bodies, count = points.shape[:2]
    corners = np.asarray(faces)
    many = (corners + count * np.arange(bodies)[:, None, None]).reshape(-1, 3)
    uvz = picture_coordinates(points.reshape(-1, 3), intrinsics)
    x0, y0, width, height = _box(uvz, size)
    inside = (uvz - [x0, y0, 0]) * [samples, samples, 1]
    found = fragments(inside, many, (width * samples, height * samples))
    flat = np.asarray(colours, np.float64).reshape(-1, 3)
    seen = many[found.face]
    weights = found.barycentrics
    shade = sum(weights[:, k, None] * np.take(flat, seen[:, k], axis=0) for k in range(3))
    row, column = np.divmod(found.place, width * samples)
    pixel = row // samples * width + column // samples
    pixels = width * height
    share = samples * samples
    colour = [np.bincount(pixel, np.asarray(shade)[:, k], pixels) / share for k in range(3)]
    body = found.face // len(corners)
    held = np.stack([np.bincount(pixel[body == p], minlength=pixels) for p in range(bodies)])
    coverage = held.sum(axis=0) / share
    depth = np.zeros(pixels)
    np.maximum.at(depth, pixel, found.inverse_depth)
    shape = (height, width)
    return Layer(
        x0,
        y0,
        np.stack(colour, axis=-1).reshape(*shape, 3).astype(np.float32),
        coverage.reshape(shape).astype(np.float32),
        np.where(coverage >= 0.5, held.argmax(axis=0), -1).reshape(shape).astype(np.int8),
        depth.reshape(shape).astype(np.float32),
    )


def _box(uvz: Float64, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole pixels around everything in front of the camera, inside of the picture: x, y, w, h."""
    front = np.isfinite(uvz).all(axis=1) & (uvz[:, 2] > Z_NEAR)
    if not front.any():
        return 0, 0, 0, 0
    limit = np.array(size)
    low = np.clip(np.floor(uvz[front, :2].min(axis=0)), 0, limit).astype(int)
    high = np.clip(np.ceil(uvz[front, :2].max(axis=0)), low, limit).astype(int)
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def silhouette(
    vertices: ArrayLike, faces: ArrayLike, intrinsics: ArrayLike, size: tuple[int, int]
) -> Bool:
    """Pixels (H, W) whose centre the body covers, for camera-frame vertices (V, 3)."""
    width, height = size
    found = fragments(picture_coordinates(vertices, intrinsics), faces, size)
    mask = np.zeros(width * height, bool)
    mask[found.place] = True
    return mask.reshape(height, width)


def overlay(
    picture: NDArray[Any],
    vertices_cam: ArrayLike,
    faces: ArrayLike,
    intrinsics: ArrayLike,
    colour: ArrayLike = (120, 170, 230),
    alpha: float = 0.8,
    light: Light = DEFAULT_LIGHT,
) -> Picture:
    """Draw bodies over a photograph, shaded, the nearer one in front.

    Parameters
    ----------
    picture : (H, W, 3) uint8
        RGB; not changed.
    vertices_cam : array_like, shape (V, 3) or (P, V, 3)
        Camera frame, metres.
    faces : array_like of int, shape (F, 3)
    intrinsics : array_like, shape (3, 3)
    colour : array_like, shape (3,) or (P, 3)
        sRGB, 0 to 255.
    alpha : float
        1 hides what is below.
    light : Light

    Returns
    -------
    (H, W, 3) uint8
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise HumandataError(
            f"expected an RGB picture of bytes, found {picture.dtype} {picture.shape}"
        )
    bodies = np.asarray(vertices_cam, np.float64)
    bodies = bodies[None] if bodies.ndim == 2 else bodies
    if not len(bodies):
        return picture.copy()
    albedo = np.broadcast_to(to_linear(np.asarray(colour, np.float64)), (len(bodies), 3))
    lit = [lambert(vertex_normals(v, faces), a, light) for v, a in zip(bodies, albedo, strict=True)]
    height, width = picture.shape[:2]
    layer = draw(bodies, faces, intrinsics, (width, height), np.array(lit).reshape(bodies.shape))
    return to_srgb(layer.over(to_linear(picture), alpha))

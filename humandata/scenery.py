"""Rooms and open places for synthetic pictures: a box around people and camera, painted at random.

The box has a floor at ``y = 0`` and walls parallel to the world's axes (y up, metres); a pixel sees
what its ray hits, so the backdrop moves as it should when the camera does, and people stand on the
floor. Surfaces are drawn with rectangles, lines and soft noise; nothing is read from a disk.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Picture = NDArray[np.uint8]

TEXTURE = (384, 192)
"""Width and height of a surface's picture, pixels."""
_FLOOR_TILE = 4.0  # metres after which the floor repeats
_NAMES = ("floor", "ceiling", "wall", "wall", "wall", "wall")


@dataclass(frozen=True)
class Room:
    """A box of painted surfaces.

    Attributes
    ----------
    low, high : (3,) float64
        Corners, metres; ``low[1]`` is 0.
    indoor : bool
        A room, or a street or field under the sky.
    seeds : tuple of int
        What floor, ceiling and the walls at -x, +x, -z, +z look like.
    """

    low: Float
    high: Float
    indoor: bool
    seeds: tuple[int, ...]


def sample_room(points: Float, rng: np.random.Generator) -> Room:
    """A room or an open place that holds all points (N, 3) of the world, the camera among them."""
    indoor = bool(rng.random() < 0.6)
    space = rng.uniform(0.7, 4.0, 4) if indoor else rng.uniform(6, 18, 4)
    low, high = points.min(axis=0), points.max(axis=0)
    low[[0, 2]] -= space[:2]
    high[[0, 2]] += space[2:]
    low[1] = 0.0
    high[1] = max(float(high[1]) + 0.3, rng.uniform(2.4, 3.3) if indoor else 12.0)
    return Room(low, high, indoor, tuple(int(s) for s in rng.integers(2**31, size=6)))


def view(
    room: Room, intrinsics: Float, extrinsics: Float, size: tuple[int, int]
) -> tuple[Picture, NDArray[np.bool_]]:
    """What a camera inside of the room sees.

    Parameters
    ----------
    room : Room
    intrinsics : (3, 3)
    extrinsics : (4, 4)
        World to camera.
    size : (width, height)

    Returns
    -------
    picture : (H, W, 3) uint8
        RGB.
    floor : (H, W) bool
        Pixels that see the floor.
    """
    import cv2

    width, height = size
    rotation = extrinsics[:3, :3]
    centre = -rotation.T @ extrinsics[:3, 3]
    to_world = (rotation.T @ np.linalg.inv(intrinsics)).astype(np.float32)
    column, row = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    rays = [
        (to_world[k, 0] * column + to_world[k, 2])[None] + (to_world[k, 1] * row)[:, None]
        for k in range(3)
    ]
    reach = [_reach(ray, centre[k], room.low[k], room.high[k]) for k, ray in enumerate(rays)]
    nearest = np.minimum(np.minimum(reach[0], reach[1]), reach[2])
    x, y, z = (np.float32(centre[k]) + nearest * ray for k, ray in enumerate(rays))
    level = reach[1] == nearest
    sideways = reach[0] == nearest
    walls = np.where(sideways, np.int8(2) + (rays[0] > 0), np.int8(4) + (rays[2] > 0))
    surface = np.where(level, rays[1] > 0, walls)
    wide, tall = TEXTURE
    span = room.high - room.low
    u = np.where(
        sideways,
        (z - np.float32(room.low[2])) * np.float32(wide / span[2]),
        (x - np.float32(room.low[0])) * np.float32(wide / span[0]),
    )
    v = np.float32(tall) - y * np.float32(tall / span[1])
    flat = np.flatnonzero(level)
    per_metre = np.float32(wide / _FLOOR_TILE)
    for values, along, period in ((u, x, wide), (v, z, tall)):
        tiles = along.ravel()[flat] * (per_metre / np.float32(period))
        values.ravel()[flat] = (tiles - np.floor(tiles)) * np.float32(period)
    # All surfaces below each other in one picture; half a pixel keeps neighbours apart.
    shown = np.unique(surface)
    place = np.zeros(6, np.float32)
    place[shown] = np.arange(len(shown)) * tall
    palette = room.seeds[1]
    painted = [_surface(_NAMES[s], room.indoor, room.seeds[s], palette) for s in shown]
    np.clip(u, 0.5, wide - 1.5, out=u)
    np.clip(v, 0.5, tall - 1.5, out=v)
    v += place[surface]
    picture = cv2.remap(np.concatenate(painted), u, v, cv2.INTER_LINEAR)
    return np.asarray(picture, np.uint8), surface == 0


def _reach(ray: Float32, centre: float, low: float, high: float) -> Float32:
    """How far along each ray the nearer of two planes lies ahead."""
    ahead = np.where(ray > 0, np.float32(high - centre), np.float32(low - centre))
    return np.asarray(ahead / np.where(ray == 0, np.float32(1e-12), ray), np.float32)


@functools.lru_cache(maxsize=12)
def _surface(kind: str, indoor: bool, seed: int, palette: int) -> Picture:
    """One painted surface; ``palette`` fixes what the surfaces of a place have in common."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(palette)
    sky, paint = _sky(common), _tinted(common, 110, 235, 9)
    if kind == "floor":
        picture = _inside_floor(rng) if indoor else _ground(rng)
    elif kind == "ceiling":
        picture = _plain(_tinted(rng, 190, 245, 6) if indoor else sky, rng, 3)
    elif indoor:
        picture = _inside_wall(paint if rng.random() < 0.7 else _tinted(rng, 90, 235, 9), rng)
    else:
        picture = _skyline(sky, rng)
    picture.setflags(write=False)
    return picture


def _tinted(rng: np.random.Generator, low: float, high: float, tint: float) -> Float:
    """A colour as places have them, RGB 0..255: grey with a tint."""
    return np.clip(rng.uniform(low, high) + rng.normal(scale=tint, size=3), 5, 250)


def _plain(colour: Float, rng: np.random.Generator, noise: float, grain: int = 12) -> Picture:
    """One colour with soft noise; the smaller ``grain``, the softer."""
    import cv2

    wide, tall = TEXTURE
    coarse = rng.normal(scale=noise, size=(grain, 2 * grain)).astype(np.float32)
    soft = np.asarray(cv2.resize(coarse, TEXTURE, interpolation=cv2.INTER_CUBIC), np.float32)
    soft += rng.standard_normal((tall, wide), dtype=np.float32) * np.float32(noise / 3)
    painted = np.clip(soft[..., None] + colour.astype(np.float32), 0, 255)
    return np.asarray(painted, np.uint8)


def _box(picture: Picture, x: float, y: float, w: float, h: float, colour: Float) -> None:
    """A filled rectangle; places and sizes as shares of the surface, y from its foot."""
    import cv2

    wide, tall = TEXTURE
    first = (int(x * wide), int(tall - (y + h) * tall))
    last = (int((x + w) * wide), int(tall - y * tall))
    cv2.rectangle(picture, first, last, np.asarray(colour, np.float64).tolist(), -1)


def _inside_floor(rng: np.random.Generator) -> Picture:
    colour = _tinted(rng, 60, 190, 8) + rng.uniform(0, 1) * np.array([22, 4, -18])
    picture = _plain(colour, rng, rng.uniform(2, 8), int(rng.integers(6, 40)))
    tall = TEXTURE[1]
    kind = rng.integers(3)
    if kind == 0:  # tiles
        pitch = int(rng.choice([24, 32, 48]))
        dark = picture * np.float32(rng.uniform(0.7, 0.9))
        picture[::pitch], picture[:, ::pitch] = dark[::pitch], dark[:, ::pitch]
    elif kind == 1:  # planks
        pitch = int(rng.choice([12, 16, 24]))
        shade = 1 + rng.normal(scale=0.07, size=tall // pitch + 1)
        rows = np.repeat(shade, pitch)[:tall, None, None].astype(np.float32)
        picture = np.clip(picture * rows, 0, 255).astype(np.uint8)
        picture[::pitch] = picture[::pitch] * np.float32(0.75)
    return picture


def _inside_wall(colour: Float, rng: np.random.Generator) -> Picture:
    picture = _plain(colour, rng, rng.uniform(1, 5))
    if rng.random() < 0.25:  # bricks or panels
        pitch = int(rng.choice([6, 10, 16]))
        picture[::pitch] = picture[::pitch] * np.float32(0.85)
        picture[:, :: 2 * pitch] = picture[:, :: 2 * pitch] * np.float32(0.92)
    if rng.random() < 0.6:
        _box(picture, 0, 0, 1, 0.04, colour * rng.uniform(0.4, 0.8))
    for _ in range(rng.integers(1, 5)):
        _hang(picture, rng)
    for _ in range(rng.integers(0, 4)):  # cupboards and sofas along the wall
        w, h = rng.uniform(0.05, 0.25), rng.uniform(0.15, 0.5)
        x, shade = rng.uniform(0, 1 - w), _tinted(rng, 30, 200, 22)
        _box(picture, x, 0, w, h, shade)
        _box(picture, x, h, w, 0.02, shade * 1.2)
        for part in range(1, int(rng.integers(1, 5))):
            _box(picture, x + 0.01, h * part / 5, w - 0.02, 0.012, shade * 0.6)
    return picture


def _hang(picture: Picture, rng: np.random.Generator) -> None:
    """A window, a door, a picture or a shelf on a wall."""
    kind, x = rng.integers(4), rng.uniform(0, 0.85)
    frame = _tinted(rng, 40, 230, 12)
    if kind == 0:
        w, h = rng.uniform(0.1, 0.25), rng.uniform(0.3, 0.5)
        _box(picture, x, 0.35, w, h, frame)
        _box(picture, x + 0.012, 0.37, w - 0.024, h - 0.04, _tinted(rng, 200, 250, 6) - [12, 4, 0])
        _box(picture, x + w / 2 - 0.004, 0.35, 0.008, h, frame)
    elif kind == 1:
        _box(picture, x, 0, 0.12, 0.78, frame * 0.8)
        _box(picture, x + 0.01, 0, 0.1, 0.76, frame)
    elif kind == 2:
        w, h = rng.uniform(0.04, 0.15), rng.uniform(0.1, 0.3)
        y = rng.uniform(0.45, 0.9 - h)
        _box(picture, x, y, w, h, frame * 0.5)
        _box(picture, x + 0.008, y + 0.016, w - 0.016, h - 0.032, _tinted(rng, 40, 220, 35))
    else:
        y, w = rng.uniform(0.4, 0.75), rng.uniform(0.1, 0.3)
        _box(picture, x, y, w, 0.02, frame * 0.6)
        for place in np.arange(x, x + w - 0.015, 0.014):
            tall = rng.uniform(0.05, 0.12)
            _box(picture, place, y + 0.02, 0.011, tall, _tinted(rng, 30, 210, 40))


def _sky(rng: np.random.Generator) -> Float:
    blue = rng.uniform(0, 1)
    return np.array([225 - 95 * blue, 228 - 55 * blue, 232 - 5 * blue])


def _ground(rng: np.random.Generator) -> Picture:
    kinds = np.array([[88, 112, 58], [112, 110, 106], [172, 156, 126], [120, 100, 78]], np.float64)
    colour = kinds[rng.integers(len(kinds))] + rng.normal(scale=12, size=3)
    return _plain(np.clip(colour, 20, 230), rng, rng.uniform(5, 14), int(rng.integers(12, 48)))


def _skyline(sky: Float, rng: np.random.Generator) -> Picture:
    """Sky above houses, trees or hills."""
    import cv2

    wide, tall = TEXTURE
    picture = _plain(sky, rng, 5, 5)
    for _ in range(rng.integers(6, 16)):
        x, w = rng.uniform(-0.1, 1), rng.uniform(0.05, 0.3)
        if rng.random() < 0.5:
            h, colour = rng.uniform(0.1, 0.7), _tinted(rng, 70, 200, 14)
            _box(picture, x, 0, w, h, colour)
            for level in np.arange(0.06, h - 0.04, 0.09):
                for place in np.arange(x + 0.012, x + w - 0.02, 0.026):
                    _box(picture, place, level, 0.012, 0.045, colour * rng.uniform(0.45, 0.8))
        else:
            green = np.array([60, 88, 45]) + rng.normal(scale=14, size=3)
            centre = (int((x + w / 2) * wide), int(tall * (1 - rng.uniform(0.08, 0.3))))
            axes = (int(w * wide / 2), int(tall * rng.uniform(0.08, 0.25)))
            cv2.ellipse(picture, centre, axes, 0, 0, 360, np.clip(green, 10, 200).tolist(), -1)
            _box(picture, x + w / 2 - 0.005, 0, 0.01, 0.2, np.array([70.0, 55, 40]))
    _box(
        picture, 0, 0, 1, rng.uniform(0.02, 0.08), np.array([70.0, 90, 50]) * rng.uniform(0.6, 1.2)
    )
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.8), np.uint8)


def cast_shadow(
    vertices: Float,
    light: Float,
    intrinsics: Float,
    extrinsics: Float,
    floor: NDArray[np.bool_],
) -> Float32:
    """Share of light that still reaches each pixel (H, W), 1 where people throw no shadow.

    Vertices (N, 3) of the world are moved along the light, (3,) towards it, onto the floor, dropped
    into a coarse grid and smeared: soft enough for points to do instead of triangles.
    """
    import cv2

    height, width = floor.shape
    small = ((width + 1) // 2, (height + 1) // 2)
    fallen = vertices - light * (vertices[:, 1:2] / light[1])
    camera = fallen @ extrinsics[:3, :3].T + extrinsics[:3, 3]
    camera = camera[camera[:, 2] > 0.1]
    pixels = (camera[:, :2] / camera[:, 2:]) @ np.diag(np.diag(intrinsics)[:2]) + intrinsics[:2, 2]
    column, row = np.floor((pixels + 0.5) / 2).astype(np.int64).T
    inside = (column >= 0) & (column < small[0]) & (row >= 0) & (row < small[1])
    hit = np.zeros(small[0] * small[1], np.float32)
    hit[row[inside] * small[0] + column[inside]] = 1
    soft = cv2.dilate(hit.reshape(small[1], small[0]), np.ones((3, 3), np.uint8))
    soft = cv2.GaussianBlur(soft, (0, 0), 1.6)
    soft = cv2.resize(soft, (2 * small[0], 2 * small[1]), interpolation=cv2.INTER_LINEAR)
    shadow: Float32 = np.where(floor, 1 - soft[:height, :width], np.float32(1))
    return shadow

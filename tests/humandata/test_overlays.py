"""Drawing bodies: light, edges, who is in front, and what an overlay leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from humandata.bodymodel import body_model, forward
from humandata.errors import HumandataError
from humandata.geometry import project
from humandata.rasterise import (
    Light,
    draw,
    lambert,
    overlay,
    silhouette,
    to_linear,
    to_srgb,
    vertex_normals,
)

Array = NDArray[Any]

CAMERA = np.array([[300.0, 0, 79.5], [0, 300, 59.5], [0, 0, 1]])
SIZE = (160, 120)
GLOW = Light(colour=(0, 0, 0), ambient=(1, 1, 1))
"""Light from everywhere: surfaces show their own colour."""


def rectangle(left: float, top: float, right: float, bottom: float, z: float) -> Array:
    return np.array([[left, top, z], [left, bottom, z], [right, bottom, z], [right, top, z]])


RECTANGLE_FACES = np.array([[0, 1, 2], [0, 2, 3]])


def person(seed: int = 0, distance: float = 3.5) -> tuple[Array, Array]:
    """A posed body that faces the camera, and its faces."""
    rng = np.random.default_rng(seed)
    turn = Rotation.from_euler("yx", [rng.uniform(-180, 180), 180], degrees=True)
    model = body_model()
    vertices, _ = forward(
        model,
        turn.as_rotvec()[None],
        rng.normal(scale=0.2, size=(1, 23, 3)),
        rng.normal(size=(1, 10)),
        np.array([[0.1, 0.0, distance]]),
    )
    return vertices[0], model.faces


# Shading


def test_normals_are_means_of_the_faces_weighted_by_area() -> None:
    # Two faces at a right angle along the y axis, the one in the xy plane three times as large.
    vertices = np.array([[0, 0, 0], [0, 1, 0], [3.0, 0, 0], [0, 0, 1]])
    normals = vertex_normals(vertices, np.array([[0, 2, 1], [0, 1, 3]]))
    np.testing.assert_allclose(normals[[0, 1]], [[1, 0, 3] / np.sqrt(10)] * 2)
    np.testing.assert_allclose(normals[[2, 3]], [[0, 0, 1], [1, 0, 0]], atol=1e-15)


def test_a_vertex_without_faces_has_no_normal() -> None:
    vertices = np.r_[rectangle(0, 0, 1, 1, 0), [[9, 9, 9]]]
    np.testing.assert_array_equal(vertex_normals(vertices, RECTANGLE_FACES)[4], 0)


def test_light_falls_off_with_the_cosine_and_the_far_side_keeps_the_ambient() -> None:
    light = Light(direction=(0, 0, -2), colour=(0.6, 0.6, 0.6), ambient=(0.4, 0.4, 0.4))
    normals = np.array([[0, 0, -1], [0, -np.sqrt(0.75), -0.5], [1, 0, 0], [0, 0, 1.0]])
    lit = lambert(normals, [1.0, 0.5, 0.0], light)
    np.testing.assert_allclose(lit[:, 0], [1.0, 0.7, 0.4, 0.4])
    np.testing.assert_allclose(lit[:, 1], lit[:, 0] / 2)
    assert (lit[:, 2] == 0).all()


def test_every_byte_survives_linear_light() -> None:
    byte = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_srgb(to_linear(byte)), byte)


def test_linear_light_follows_the_srgb_curve() -> None:
    # IEC 61966-2-1: half of the light is byte 188, byte 128 is 21.6 % of the light.
    assert to_srgb(np.array([0.0, 0.5, 1.0, 7.0, -1.0])).tolist() == [0, 188, 255, 255, 0]
    np.testing.assert_allclose(to_linear(np.array([128.0])), 0.2158605, rtol=1e-5)


# Layers


def test_coverage_is_the_share_of_a_finer_silhouette() -> None:
    vertices, faces = person(2)
    fine = CAMERA.copy()
    fine[:2] *= 3
    fine[:2, 2] += 1  # the centre of the first pixel is the centre of the second of three
    mask = silhouette(vertices, faces, fine, (3 * SIZE[0], 3 * SIZE[1]))
    expected = mask.reshape(SIZE[1], 3, SIZE[0], 3).mean(axis=(1, 3))
    layer = draw(vertices[None], faces, CAMERA, SIZE, np.ones((1, len(vertices), 3)), samples=3)
    height, width = layer.coverage.shape
    part = expected[layer.y : layer.y + height, layer.x : layer.x + width]
    assert part.sum() == pytest.approx(expected.sum())
    np.testing.assert_allclose(layer.coverage, part, atol=1e-6)
    # White light times coverage is the coverage.
    np.testing.assert_allclose(layer.colour, np.repeat(layer.coverage[..., None], 3, -1), atol=1e-6)


def test_edges_are_averaged_in_linear_light() -> None:
    # With one pixel of focal length at one metre, metres are pixels; the left half is covered.
    quad = rectangle(-0.5, -0.5, 0, 0.5, 1.0)
    black = np.zeros((1, 1, 3), np.uint8)
    drawn = overlay(black, quad, RECTANGLE_FACES, np.eye(3), (255, 255, 255), 1.0, GLOW)
    assert drawn.tolist() == [[[188, 188, 188]]]


def test_a_layer_knows_the_body_of_every_pixel_and_its_depth() -> None:
    bodies = np.stack([rectangle(-1, -0.5, 5, 3.5, 1.0), rectangle(1.8, -0.5, 8, 3.5, 1.0)])
    bodies[1] *= 0.5  # nearer, drawn at the same place
    layer = draw(bodies, RECTANGLE_FACES, np.eye(3), (12, 4), np.ones((2, 4, 3)), 4)
    body = np.full((4, 12), -1)
    depth = np.zeros((4, 12))
    height, width = layer.body.shape
    place = np.s_[layer.y : layer.y + height, layer.x : layer.x + width]
    body[place], depth[place] = layer.body, layer.inverse_depth
    # The nearer body has three quarters of the third pixel and half of its last.
    np.testing.assert_array_equal(body, np.tile([0, 0, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1], (4, 1)))
    np.testing.assert_allclose(depth, np.choose(body + 1, [0, 1, 2]))


# Places


def test_a_shift_of_the_principal_point_shifts_the_overlay() -> None:
    vertices, faces = person()
    camera = CAMERA.copy()
    camera[:2, 2] += [1, 2]
    grey = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    there, here = (overlay(grey, vertices, faces, k) for k in (CAMERA, camera))
    difference = np.abs(here[2:, 1:].astype(int) - there[:-2, :-1])
    # Corners round differently by 1/256 of a sample, so a few samples on edges change.
    assert np.mean(difference > 0) < 0.01


@pytest.mark.parametrize("at", [(0.0, 0.0, 2.0), (0.3, -0.21, 2.2), (-0.41, 0.317, 3.0)])
def test_a_drawn_marker_lies_where_its_point_projects(at: tuple[float, float, float]) -> None:
    x, y, z = at
    marker = rectangle(x - 0.02, y - 0.02, x + 0.02, y + 0.02, z)
    layer = draw(marker[None], RECTANGLE_FACES, CAMERA, SIZE, np.ones((1, 4, 3)), samples=4)
    weight = layer.coverage.astype(np.float64)
    row, column = np.mgrid[: weight.shape[0], : weight.shape[1]]
    centre = np.array([(weight * column).sum(), (weight * row).sum()]) / weight.sum()
    expected = project(np.array([at]), CAMERA)[0]
    # Half a pixel would be the wrong convention; a quarter is the distance of the samples.
    assert np.abs(centre + np.array([layer.x, layer.y]) - expected).max() < 0.2


# Overlays


def noise() -> Array:
    return np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


def test_an_overlay_touches_nothing_outside_of_the_body_and_not_its_input() -> None:
    vertices, faces = person()
    picture = noise()
    before, points = picture.copy(), vertices.copy()
    drawn = overlay(picture, vertices, faces, CAMERA)
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(vertices, points)
    assert drawn.dtype == np.uint8
    mask = silhouette(vertices, faces, CAMERA, SIZE)
    far = ~mask
    for axis in (0, 1):  # partly covered pixels lie next to covered ones
        for step in (-1, 1):
            far &= ~np.roll(mask, step, axis)
    np.testing.assert_array_equal(drawn[far], picture[far])
    assert (drawn[mask] != picture[mask]).any(axis=-1).mean() > 0.99


def test_alpha_goes_from_the_picture_to_the_bodys_own_colour() -> None:
    quad = rectangle(-100, -100, 300, 300, 1.0)
    picture = noise()
    clear, half, full = (
        overlay(picture, quad, RECTANGLE_FACES, np.eye(3), (10, 200, 90), alpha, GLOW)
        for alpha in (0, 0.5, 1)
    )
    np.testing.assert_array_equal(clear, picture)
    assert (full == [10, 200, 90]).all()
    mixed = (to_linear(picture) + to_linear(np.array([10, 200, 90], np.uint8))) / 2
    assert np.abs(half.astype(int) - to_srgb(mixed)).max() <= 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_person_is_drawn_in_front(order: tuple[int, int]) -> None:
    near, faces = person(0, distance=3.0)
    far, _ = person(0, distance=4.5)
    bodies = np.stack([near, far])[list(order)]
    colours = np.array([[255, 0, 0], [0, 0, 255]])[list(order)]
    drawn = overlay(noise(), bodies, faces, CAMERA, colours, 1.0, GLOW)
    mask = silhouette(near, faces, CAMERA, SIZE)
    inner = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0)
    inner &= np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
    assert inner.sum() > 1000
    assert (drawn[inner] == [255, 0, 0]).all(axis=-1).mean() > 0.98


# Nothing to see


@pytest.mark.parametrize(
    "move", [(0, 0, -10), (0, 0, -3.5), (50, 0, 0), (0, -50, 0), (np.nan, 0, 0)]
)
def test_a_body_behind_or_beside_or_nowhere_leaves_the_picture_alone(
    move: tuple[float, float, float],
) -> None:
    vertices, faces = person()
    vertices = vertices + move
    if move[2] == -3.5:  # the camera within the body
        vertices = vertices * [1, 1, 0.01]
    picture = noise()
    assert not silhouette(vertices, faces, CAMERA, SIZE).any()
    np.testing.assert_array_equal(overlay(picture, vertices, faces, CAMERA), picture)


def test_no_bodies_leave_the_picture_alone() -> None:
    _, faces = person()
    picture = noise()
    np.testing.assert_array_equal(overlay(picture, np.zeros((0, 6890, 3)), faces, CAMERA), picture)


def test_pictures_and_bodies_of_another_shape_are_named() -> None:
    vertices, faces = person()
    with pytest.raises(HumandataError, match="float64"):
        overlay(noise() / 255, vertices, faces, CAMERA)
    with pytest.raises(HumandataError, match=r"\(P, V, 3\)"):
        draw(vertices, faces, CAMERA, SIZE, np.ones((1, 6890, 3)))

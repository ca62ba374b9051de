"""Rasterising: which face a pixel sees, and how deep."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import Delaunay
from scipy.spatial.transform import Rotation

from humandata.bodymodel import body_model, forward
from humandata.errors import HumandataError
from humandata.geometry import project
from humandata.rasterise import picture_coordinates, rasterise, silhouette

Array = NDArray[Any]

CAMERA = np.array([[300.0, 0, 79.5], [0, 300, 59.5], [0, 0, 1]])
SIZE = (160, 120)


def seen_from_front(uvz: Array, faces: Array) -> Array:
    """The faces, wound so that none is culled: counter-clockwise on the screen."""
    (ux, uy), (vx, vy) = ((uvz[faces[:, k]] - uvz[faces[:, 0]])[:, :2].T for k in (1, 2))
    clockwise = ux * vy - vx * uy > 0
    return np.where(clockwise[:, None], faces[:, ::-1], faces)


def times_covered(uvz: Array, faces: Array, size: tuple[int, int]) -> Array:
    """Number of faces that claim each pixel."""
    return np.sum([rasterise(uvz, f[None], size, cull=False).face >= 0 for f in faces], axis=0)


def sphere(centre: Array, radius: float, rings: int = 90) -> tuple[Array, Array]:
    """A closed mesh, wound as SMPL: counter-clockwise seen from outside."""
    polar = np.linspace(0, np.pi, rings + 1)[1:-1, None]
    around = np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    belt = np.stack(
        np.broadcast_arrays(
            np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)
        ),
        axis=-1,
    )
    points = np.concatenate([belt.reshape(-1, 3), [[0, 0, 1], [0, 0, -1]]])
    faces: list[tuple[int, int, int]] = []
    wide, last = 2 * rings, 2 * rings * (rings - 2)
    for i in range(wide):
        j = (i + 1) % wide
        faces.append((len(points) - 2, i, j))
        faces.append((len(points) - 1, last + j, last + i))
        for start in range(0, last, wide):
            a, b, c, d = start + i, start + wide + i, start + wide + j, start + j
            faces += [(a, b, c), (a, c, d)]
    return np.asarray(centre) + radius * points, np.array(faces)


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


# Coverage


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=25),
    st.sampled_from([0.5, 0.25, 1 / 3, 0.1]),
)
@settings(max_examples=40, deadline=None)
def test_a_triangulated_square_covers_every_sample_once(
    inner: list[tuple[int, int]], start: float
) -> None:
    points = np.unique([(0, 0), (12, 0), (0, 12), (12, 12), *inner], axis=0)
    faces = Delaunay(points).simplices
    u, v = (points[faces[:, k]] - points[faces[:, 0]] for k in (1, 2))
    assume(np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum() == 2 * 12 * 12)
    # Starting at 0.5, corners and many edges lie on pixel centres.
    uvz = np.c_[points + start, np.ones(len(points))]
    counts = times_covered(uvz, faces, (14, 14))
    expected = np.zeros((14, 14), int)
    expected[:12, :12] = 1  # samples on the left and top sides are in, right and bottom ones out
    np.testing.assert_array_equal(counts, expected)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_faces_around_a_vertex_anywhere_leave_no_hole_and_no_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spokes = rng.integers(3, 12)
    angle = np.linspace(0, 2 * np.pi, spokes, endpoint=False)
    rim = 8 + 20 * np.c_[np.cos(angle), np.sin(angle)]
    points = np.concatenate([rng.uniform(5, 11, (1, 2)), rim])
    i = np.arange(spokes)
    faces = np.c_[np.zeros(spokes, int), i + 1, (i + 1) % spokes + 1]
    counts = times_covered(np.c_[points, np.ones(len(points))], faces, (16, 16))
    # The rim's polygon holds a circle of 10 pixels around (8, 8), whatever the number of spokes.
    row, column = np.mgrid[:16, :16] + 0.5
    near = np.hypot(row - 8, column - 8) < 9.9
    assert (counts[near] == 1).all()
    assert counts.max() == 1


def test_a_rectangle_owns_its_left_and_top_sides() -> None:
    uvz = rectangle(2.5, 1.5, 6.5, 4.5, 1.0)
    expected = np.zeros((6, 9), bool)
    expected[1:4, 2:6] = True
    np.testing.assert_array_equal(rasterise(uvz, RECTANGLE_FACES, (9, 6)).face >= 0, expected)


def test_a_face_between_the_samples_covers_nothing() -> None:
    uvz = np.array([[3.6, 3.6, 1], [3.9, 4.2, 1], [4.4, 3.9, 1]])
    assert (rasterise(uvz, [[0, 1, 2]], (8, 8), cull=False).face == -1).all()


def test_faces_without_area_are_left_out() -> None:
    uvz = np.array([[0, 0, 1.0], [4, 4, 1], [8, 8, 1]])
    assert (rasterise(uvz, [[0, 1, 2], [1, 1, 2]], (8, 8), cull=False).face == -1).all()


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.6, -0.4)])
def test_the_silhouette_of_a_sphere_has_the_area_of_its_ellipse(
    offset: tuple[float, float],
) -> None:
    radius, focal = 0.5, 500.0
    centre = np.array([*offset, 2.5])
    vertices, faces = sphere(centre, radius)
    camera = np.array([[focal, 0, 250], [0, focal, 200], [0, 0, 1]])
    mask = silhouette(vertices, faces, camera, (501, 401))
    near = centre[2] ** 2 - radius**2
    area = np.pi * focal**2 * radius**2 * np.sqrt(centre @ centre - radius**2) / near**1.5
    assert mask.sum() == pytest.approx(area, rel=0.005)


def test_the_silhouette_is_where_projected_vertices_are() -> None:
    vertices, faces = person()
    camera = np.array([[1000.0, 0, 300], [0, 1000, 400], [0, 0, 1]])
    mask = silhouette(vertices, faces, camera, (600, 900))
    column, row = np.rint(project(vertices, camera)).astype(int).T
    assert mask[row, column].mean() > 0.94
    # A vertex on the outline may fall in a pixel whose centre lies outside.
    near = np.max([mask[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
    assert near.all()


# Winding and culling


def test_reversed_winding_gives_the_same_picture_without_culling() -> None:
    vertices, faces = person(1)
    uvz = picture_coordinates(vertices, CAMERA)
    one = rasterise(uvz, faces, SIZE, cull=False)
    other = rasterise(uvz, faces[:, ::-1], SIZE, cull=False)
    np.testing.assert_array_equal(one.face, other.face)
    np.testing.assert_allclose(one.inverse_depth, other.inverse_depth, rtol=1e-12)
    np.testing.assert_allclose(one.barycentrics, other.barycentrics[..., ::-1], atol=1e-9)


def test_culling_drops_a_face_seen_from_behind() -> None:
    uvz = rectangle(1, 1, 6, 6, 2.0)
    assert (rasterise(uvz, RECTANGLE_FACES, (8, 8)).face >= 0).sum() == 25
    assert (rasterise(uvz, RECTANGLE_FACES[:, ::-1], (8, 8)).face == -1).all()


@pytest.mark.parametrize("seed", range(3))
def test_culling_changes_nothing_on_a_closed_body(seed: int) -> None:
    vertices, faces = person(seed)
    uvz = picture_coordinates(vertices, CAMERA)
    culled, full = (rasterise(uvz, faces, SIZE, cull) for cull in (True, False))
    assert (culled.face >= 0).sum() > 1500
    np.testing.assert_array_equal(culled.face >= 0, full.face >= 0)
    same = culled.face == full.face
    # Corners are rounded, so on the outline a back face may come out nearer by a hair.
    assert same.mean() > 0.999
    np.testing.assert_array_equal(culled.inverse_depth[same], full.inverse_depth[same])


# Depth


def test_inverse_depth_of_a_tilted_plane_is_linear_in_the_picture() -> None:
    corners = np.array([[0.0, 0.0], [0, 32], [48, 32], [48, 0]])
    slant = np.array([0.004, -0.003])
    uvz = np.c_[corners, 1 / (0.4 + corners @ slant)]
    raster = rasterise(uvz, RECTANGLE_FACES, (48, 32))
    row, column = np.mgrid[:32, :48] + 0.5
    expected = 0.4 + slant[0] * column + slant[1] * row
    np.testing.assert_allclose(raster.inverse_depth, expected, rtol=1e-12)


def test_barycentrics_give_the_point_where_the_ray_meets_the_plane() -> None:
    focal, cx, cy = 50.0, 24.0, 16.0
    corners = np.array([[0.0, 0.0], [0, 32], [48, 32], [48, 0]])
    rays = np.c_[(corners - [cx, cy]) / focal, np.ones(4)]
    normal, distance = np.array([0.5, -0.3, -0.8]), -2.0
    points = rays * (distance / (rays @ normal))[:, None]
    raster = rasterise(np.c_[corners, points[:, 2]], RECTANGLE_FACES, (48, 32))
    row, column = np.mgrid[:32, :48] + 0.5
    ray = np.stack([(column - cx) / focal, (row - cy) / focal, np.ones((32, 48))], axis=-1)
    expected = ray * (distance / (ray @ normal))[..., None]
    seen = points[RECTANGLE_FACES[raster.face]]
    found = np.einsum("hwk,hwkc->hwc", raster.barycentrics, seen)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(raster.barycentrics.sum(axis=-1), 1, rtol=1e-12)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_surface_hides_the_farther(order: tuple[int, int]) -> None:
    both = [rectangle(0, 0, 8, 8, 3.0), rectangle(4, 0, 12, 8, 2.0)]
    uvz = np.concatenate([both[k] for k in order])
    raster = rasterise(uvz, np.concatenate([RECTANGLE_FACES, RECTANGLE_FACES + 4]), (12, 8))
    np.testing.assert_allclose(raster.inverse_depth[:, :4], 1 / 3)
    np.testing.assert_allclose(raster.inverse_depth[:, 4:], 1 / 2)
    assert (np.asarray(order)[raster.face // 2] == (np.arange(12) >= 4)).all()


def test_planes_that_cross_change_places_where_they_cross() -> None:
    left, right = 2.0, 4.0
    one, other = rectangle(0, 0, 20, 4, 0), rectangle(0, 0, 20, 4, 0)
    one[:, 2], other[:, 2] = [left, left, right, right], [right, right, left, left]
    faces = np.concatenate([RECTANGLE_FACES, RECTANGLE_FACES + 4])
    raster = rasterise(np.concatenate([one, other]), faces, (20, 4))
    np.testing.assert_array_equal(raster.face // 2, np.tile(np.arange(20) >= 10, (4, 1)))


def test_of_equally_near_faces_the_lower_index_wins() -> None:
    uvz = rectangle(0, 0, 8, 8, 2.0)
    faces = np.concatenate([RECTANGLE_FACES, RECTANGLE_FACES])
    assert rasterise(uvz, faces, (8, 8)).face.max() == 1


# An independent reference


def slow_raster(uvz: Array, faces: Array, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Pixel by pixel in exact fractions: nearest face, depth, and whether an edge was touched."""
    face = np.full((size[1], size[0]), -1)
    depth = np.full((size[1], size[0]), np.inf)
    touched = np.zeros((size[1], size[0]), bool)
    corners = [[[Fraction(float(c)) for c in uvz[v, :2]] for v in f] for f in faces]
    for row in range(size[1]):
        for column in range(size[0]):
            px, py = column + Fraction(1, 2), row + Fraction(1, 2)
            for index, triangle in enumerate(corners):
                sides = []
                for k in range(3):
                    (ax, ay), (bx, by) = triangle[k], triangle[(k + 1) % 3]
                    sides.append((bx - ax) * (py - ay) - (by - ay) * (px - ax))
                if min(sides) < 0 < max(sides):
                    continue
                if 0 in sides:
                    touched[row, column] = True
                    continue
                # Meet the pixel's ray with the plane of the face, in a camera of focal length 1.
                points = uvz[faces[index]]
                points = np.c_[points[:, :2] * points[:, 2:], points[:, 2]]
                normal = np.cross(points[1] - points[0], points[2] - points[0])
                z = (normal @ points[0]) / (normal @ [float(px), float(py), 1.0])
                if z < depth[row, column]:
                    face[row, column], depth[row, column] = index, z
    return face, depth, touched


@pytest.mark.parametrize("seed", range(6))
def test_a_random_mesh_is_seen_as_by_a_slow_loop_over_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Sixteenths of a pixel are exact in every representation.
    uv = rng.integers(-64, 256, (15, 2)) / 16
    uvz = np.c_[uv, rng.uniform(0.5, 4, 15)]
    faces = np.array([rng.choice(15, 3, replace=False) for _ in range(14)])
    raster = rasterise(uvz, faces, (13, 11), cull=False)
    face, depth, touched = slow_raster(uvz, faces, (13, 11))
    clear = ~touched
    assert clear.mean() > 0.5
    assert len(np.unique(face[clear])) > 4
    np.testing.assert_array_equal(raster.face[clear], face[clear])
    hit = clear & (face >= 0)
    np.testing.assert_allclose(1 / raster.inverse_depth[hit], depth[hit], rtol=1e-9)
    assert (raster.inverse_depth[clear & (face < 0)] == 0).all()


def test_culling_keeps_the_faces_that_a_slow_test_of_winding_keeps() -> None:
    rng = np.random.default_rng(7)
    uvz = np.c_[rng.integers(0, 192, (12, 2)) / 16, rng.uniform(1, 3, 12)]
    faces = np.array([rng.choice(12, 3, replace=False) for _ in range(12)])
    towards = (seen_from_front(uvz, faces) == faces).all(axis=1)
    culled = rasterise(uvz, faces, (12, 12)).face
    alone = rasterise(uvz, faces[towards], (12, 12), cull=False).face
    expected = np.where(alone >= 0, np.flatnonzero(towards)[alone], -1)
    np.testing.assert_array_equal(culled, expected)


# Places


def test_a_shift_by_one_pixel_shifts_the_raster() -> None:
    vertices, faces = person()
    uvz = picture_coordinates(vertices, CAMERA)
    uvz[:, :2] = np.round(uvz[:, :2] * 64) / 64
    there = rasterise(uvz, faces, SIZE)
    here = rasterise(uvz + np.array([3, 2, 0]), faces, SIZE)
    np.testing.assert_array_equal(here.face[2:, 3:], there.face[:-2, :-3])
    np.testing.assert_allclose(here.inverse_depth[2:, 3:], there.inverse_depth[:-2, :-3])


# Nothing to see


def test_a_face_that_reaches_behind_the_camera_is_left_out_whole() -> None:
    vertices = np.array([[-0.1, -0.1, 2], [-0.1, 0.1, 2], [0.1, 0, 2], [0, 3, -1]])
    faces = np.array([[0, 1, 2], [1, 3, 2], [1, 2, 3]])  # the long one wound both ways
    both = silhouette(vertices, faces, CAMERA, SIZE)
    np.testing.assert_array_equal(both, silhouette(vertices, faces[:1], CAMERA, SIZE))
    assert both.any()


def test_no_faces_make_an_empty_raster() -> None:
    raster = rasterise(np.zeros((3, 3)), np.zeros((0, 3), int), (5, 4))
    assert raster.face.shape == (4, 5)
    assert raster.face.dtype == np.int32
    assert (raster.face == -1).all()
    assert not raster.inverse_depth.any()
    assert raster.barycentrics.shape == (4, 5, 3)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(HumandataError, match=r"\(4, 2\)"):
        rasterise(rectangle(0, 0, 1, 1, 1)[:, :2], RECTANGLE_FACES, SIZE)

"""Rotations, cameras, boxes, crops and poses against scipy, roma, OpenCV and closed forms."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from humandata import HumandataError, geometry

Array = NDArray[Any]

AHEAD = (0.0, 0.0, 8.0)
LEADING = [(), (1,), (4,), (2, 3), (0,)]


def vectors(length: float = 3.0) -> st.SearchStrategy[Array]:
    return arrays(np.float64, 3, elements=st.floats(-length, length))


def rotations(count: int, seed: int = 0) -> Array:
    return Rotation.random(count, random_state=np.random.default_rng(seed)).as_matrix()


def angle_between(a: Array, b: Array) -> Array:
    """Angle of the rotation from a to b, precise for small ones too."""
    return Rotation.from_matrix(np.swapaxes(a, -1, -2) @ b).magnitude()


# Rotations


@given(vectors(7))
def test_exponential_equals_scipy(vector: Array) -> None:
    np.testing.assert_allclose(
        geometry.axis_angle_to_matrix(vector),
        Rotation.from_rotvec(vector).as_matrix(),
        atol=1e-14,
    )


@given(vectors(1.8))
def test_logarithm_inverts_the_exponential(vector: Array) -> None:
    matrix = geometry.axis_angle_to_matrix(vector)
    np.testing.assert_allclose(geometry.matrix_to_axis_angle(matrix), vector, atol=1e-13)


@pytest.mark.parametrize("exponent", range(0, 20))
def test_small_angles_keep_their_digits(exponent: int) -> None:
    axis = np.array([2.0, -3.0, 6.0]) / 7
    vector = axis * 10.0**-exponent
    back = geometry.matrix_to_axis_angle(geometry.axis_angle_to_matrix(vector))
    np.testing.assert_allclose(back, vector, rtol=1e-14, atol=0)


@pytest.mark.parametrize("short", [0.0, *10.0 ** -np.arange(1, 17)])
def test_angles_at_and_near_a_half_turn_are_exact(short: float) -> None:
    for axis in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [2 / 7, -3 / 7, 6 / 7], [-0.6, 0.8, 1e-9]):
        unit = np.array(axis, float)
        vector = unit / np.linalg.norm(unit) * (np.pi - short)
        matrix = geometry.axis_angle_to_matrix(vector)
        back = geometry.matrix_to_axis_angle(matrix)
        assert np.linalg.norm(back) <= np.pi
        away = np.abs(back - vector).max()
        if short < 1e-15:  # the rounding of the matrix decides which of the two signs it has
            away = min(away, np.abs(back + vector).max())
        assert away < 4e-15
        np.testing.assert_allclose(geometry.axis_angle_to_matrix(back), matrix, atol=2e-15)


def test_an_exact_half_turn_has_a_positive_largest_component() -> None:
    half_turns = np.array([np.diag(d) for d in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1])])
    np.testing.assert_array_equal(geometry.matrix_to_axis_angle(half_turns), np.pi * np.eye(3))
    axis = np.array([2, -3, 6]) / 7
    matrix = 2 * np.outer(axis, axis) - np.eye(3)
    np.testing.assert_allclose(geometry.matrix_to_axis_angle(matrix), np.pi * axis, atol=1e-15)


def test_no_rotation_is_exactly_zero() -> None:
    assert (geometry.axis_angle_to_matrix(np.zeros(3)) == np.eye(3)).all()
    assert (geometry.matrix_to_axis_angle(np.eye(3)) == 0).all()
    assert (geometry.axis_angle_to_quaternion(np.zeros(3)) == [1, 0, 0, 0]).all()
    assert (geometry.quaternion_to_axis_angle([-2.0, 0, 0, 0]) == 0).all()
    assert (geometry.matrix_to_rotation6d(np.eye(3)) == [1, 0, 0, 1, 0, 0]).all()


def test_exponential_equals_opencv() -> None:
    for vector in np.random.default_rng(0).normal(size=(20, 3)):
        np.testing.assert_allclose(
            geometry.axis_angle_to_matrix(vector), cv2.Rodrigues(vector)[0], atol=1e-14
        )


def test_rotations_equal_roma() -> None:
    torch = pytest.importorskip("torch")
    roma = pytest.importorskip("roma")
    vectors = np.random.default_rng(3).normal(size=(50, 3)) * 2
    matrices = geometry.axis_angle_to_matrix(vectors)
    tensor = torch.from_numpy(vectors)
    np.testing.assert_allclose(matrices, roma.rotvec_to_rotmat(tensor).numpy(), atol=1e-13)
    np.testing.assert_allclose(
        geometry.matrix_to_axis_angle(matrices),
        roma.rotmat_to_rotvec(torch.from_numpy(matrices)).numpy(),
        atol=1e-12,
    )
    block = np.random.default_rng(4).normal(size=(50, 3, 2))
    np.testing.assert_allclose(
        geometry.rotation6d_to_matrix(block.reshape(50, 6)),
        roma.special_gramschmidt(torch.from_numpy(block)).numpy(),
        atol=1e-13,
    )


@given(arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(lambda q: np.dot(q, q) > 1e-4))
def test_quaternions_equal_scipy(quaternion: Array) -> None:
    reference = Rotation.from_quat(quaternion[[1, 2, 3, 0]])
    matrix = geometry.quaternion_to_matrix(quaternion)
    np.testing.assert_allclose(matrix, reference.as_matrix(), atol=1e-14)
    back = geometry.matrix_to_quaternion(matrix)
    unit = quaternion / np.linalg.norm(quaternion)
    assert min(np.abs(back - unit).max(), np.abs(back + unit).max()) < 1e-14
    vector = geometry.quaternion_to_axis_angle(quaternion)
    np.testing.assert_allclose(Rotation.from_rotvec(vector).as_matrix(), matrix, atol=1e-13)
    again = geometry.quaternion_to_matrix(geometry.axis_angle_to_quaternion(vector))
    np.testing.assert_allclose(again, matrix, atol=1e-13)


def test_six_numbers_are_two_interleaved_columns() -> None:
    matrix = np.arange(9.0).reshape(3, 3)
    assert geometry.matrix_to_rotation6d(matrix).tolist() == [0, 1, 3, 4, 6, 7]
    # The mean pose of HMR starts with a half turn about x.
    upright = geometry.rotation6d_to_matrix([1.0, 0, 0, -1, 0, 0])
    np.testing.assert_array_equal(upright, np.diag([1.0, -1, -1]))


def test_six_numbers_give_back_the_rotation() -> None:
    matrices = rotations(100).reshape(4, 25, 3, 3)
    back = geometry.rotation6d_to_matrix(geometry.matrix_to_rotation6d(matrices))
    np.testing.assert_allclose(back, matrices, atol=1e-15)


@given(arrays(np.float64, 6, elements=st.floats(-1e6, 1e6)))
def test_six_numbers_never_give_nan(values: Array) -> None:
    matrix = geometry.rotation6d_to_matrix(values)
    assert np.isfinite(matrix).all()
    assert (np.linalg.norm(matrix, axis=0) < 1 + 1e-12).all()
    a1, a2 = values[::2], values[1::2]
    sizes = np.linalg.norm(a1), np.linalg.norm(a2)
    apart = np.linalg.norm(np.cross(a1, a2)) > 1e-6 * sizes[0] * sizes[1]
    if min(sizes) > 1e-3 and apart:
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-9)
        assert np.linalg.det(matrix) > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate_six_numbers_give_zero_columns(dtype: type) -> None:
    def matrix(a1: Array, a2: Array) -> Array:
        return geometry.rotation6d_to_matrix(np.stack([a1, a2], axis=-1).reshape(6).astype(dtype))

    a = np.random.default_rng(0).normal(size=3)
    zero = np.zeros(3)
    assert (matrix(zero, zero) == 0).all()
    assert (matrix(zero, a) == 0).all()
    for parallel in (zero, a, -a, 1e3 * a, 1e-3 * a):
        columns = matrix(a, parallel)
        np.testing.assert_allclose(columns[:, 0], a / np.linalg.norm(a), rtol=1e-6)
        assert (columns[:, 1:] == 0).all()


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rotations_keep_leading_axes_and_precision(leading: tuple[int, ...], dtype: type) -> None:
    forms = {
        "axis_angle_to_matrix": (3,),
        "axis_angle_to_quaternion": (3,),
        "quaternion_to_axis_angle": (4,),
        "quaternion_to_matrix": (4,),
        "rotation6d_to_matrix": (6,),
        "matrix_to_axis_angle": (3, 3),
        "matrix_to_quaternion": (3, 3),
        "matrix_to_rotation6d": (3, 3),
    }
    for name, shape in forms.items():
        function = getattr(geometry, name)
        values = np.broadcast_to(np.ones(shape, dtype), (*leading, *shape))
        result = function(values)
        assert result.dtype == dtype, name
        assert result.shape[: len(leading)] == leading, name
        assert function(values.astype(int)).dtype == np.float64, name


def test_single_precision_costs_only_its_own_rounding() -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 3))
    single = geometry.axis_angle_to_matrix(vectors.astype(np.float32))
    exact = geometry.axis_angle_to_matrix(vectors.astype(np.float32).astype(np.float64))
    np.testing.assert_array_equal(single, exact.astype(np.float32))


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(HumandataError, match=r"axis-angle must have shape \(\.\.\., 3\).*\(72,\)"):
        geometry.axis_angle_to_matrix(np.zeros(72))
    with pytest.raises(HumandataError, match=r"rotation matrix must have shape \(\.\.\., 3, 3\)"):
        geometry.matrix_to_axis_angle(np.zeros(3))
    with pytest.raises(HumandataError, match="6D rotation"):
        geometry.rotation6d_to_matrix(np.zeros((2, 9)))
    with pytest.raises(HumandataError, match=r"points must have shape \(\.\.\., K, 3\)"):
        geometry.project(np.zeros((4, 2)), np.eye(3))
    with pytest.raises(HumandataError, match="intrinsics"):
        geometry.project(np.zeros((4, 3)), np.eye(4))
    with pytest.raises(HumandataError, match="extrinsics"):
        geometry.transform(np.eye(3), np.zeros((4, 3)))
    with pytest.raises(HumandataError, match="affine"):
        geometry.apply_affine(np.eye(3), np.zeros((4, 2)))
    with pytest.raises(HumandataError, match=r"pose must have shape \(\.\.\., 24, 3\)"):
        geometry.flip_pose(np.zeros((2, 72)))


# Cameras


def cameras(count: int, seed: int = 0) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    extrinsics = np.tile(np.eye(4), (count, 1, 1))
    extrinsics[:, :3, :3] = rotations(count, seed)
    extrinsics[:, :3, 3] = random.normal(AHEAD, 1, (count, 3))
    intrinsics = np.zeros((count, 3, 3))
    intrinsics[:, 0, 0] = random.uniform(800, 2000, count)
    intrinsics[:, 1, 1] = random.uniform(800, 2000, count)
    intrinsics[:, :2, 2] = random.uniform(300, 900, (count, 2))
    intrinsics[:, 2, 2] = 1
    return extrinsics, intrinsics


def test_projection_equals_opencv() -> None:
    extrinsics, intrinsics = cameras(8)
    world = np.random.default_rng(1).normal(size=(8, 24, 3))
    ours = geometry.project(geometry.transform(extrinsics, world), intrinsics)
    for camera, points, matrix, pixels in zip(extrinsics, world, intrinsics, ours, strict=True):
        rotation = cv2.Rodrigues(camera[:3, :3])[0]
        theirs, _ = cv2.projectPoints(points, rotation, camera[:3, 3], matrix, None)
        np.testing.assert_allclose(pixels, theirs[:, 0], atol=1e-9)


def test_one_camera_serves_many_people_and_one_person_many_cameras() -> None:
    extrinsics, intrinsics = cameras(5)
    world = np.random.default_rng(1).normal(size=(5, 24, 3))
    many = geometry.transform(extrinsics[0], world)
    assert (many == geometry.transform(np.tile(extrinsics[0], (5, 1, 1)), world)).all()
    assert geometry.transform(extrinsics, world[0]).shape == (5, 24, 3)
    assert geometry.transform(extrinsics[:, :3], world[0]).shape == (5, 24, 3)
    assert geometry.project(many, intrinsics[0]).shape == (5, 24, 2)
    assert geometry.transform(extrinsics.astype("f4"), world.astype("f4")).dtype == np.float32
    assert geometry.transform(extrinsics, world.astype("f4")).dtype == np.float64


def test_skew_counts_in_a_projection() -> None:
    intrinsics = np.array([[100.0, 7, 50], [0, 200, 60], [0, 0, 1]])
    pixels = geometry.project([[0.5, 0.25, 2.0]], intrinsics)
    np.testing.assert_allclose(pixels, [[100 * 0.25 + 7 * 0.125 + 50, 200 * 0.125 + 60]])


def test_points_behind_the_camera_have_no_picture() -> None:
    points = np.array([[0.0, 0, 1], [0, 0, 0], [0, 0, -1]])
    pixels = geometry.project(points, np.eye(3))
    assert np.isfinite(pixels).all(axis=-1).tolist() == [True, False, False]
    assert np.isnan(pixels[1:]).all()


def test_residual_is_the_noise_that_was_added() -> None:
    _, intrinsics = cameras(3)
    points = np.random.default_rng(0).normal(AHEAD, 1, (3, 10, 3))
    pixels = geometry.project(points, intrinsics) + np.array([3.0, -4.0])
    valid = np.ones((3, 10), bool)
    valid[1, 1:] = False
    valid[2] = False
    pixels[1, 1:] = 1e9
    residual = geometry.residual_px(points, pixels, intrinsics, valid)
    np.testing.assert_allclose(residual, [5, 5, -1])
    points[0, :9, 2] = -1  # behind the camera: left out rather than NaN
    residual = geometry.residual_px(points, pixels, intrinsics, valid)
    np.testing.assert_allclose(residual, [5, 5, -1])


def toy_body(orient: Array, transl: Array, pelvis: Array, offsets: Array) -> Array:
    """What SMPL does to a rigid body: turn about the pelvis, then shift."""
    turned = Rotation.from_rotvec(orient).as_matrix() @ (offsets - pelvis).T
    return turned.T + pelvis + transl


def test_a_body_moved_to_the_camera_is_the_body_seen_by_the_camera() -> None:
    random = np.random.default_rng(5)
    extrinsics, _ = cameras(6)
    orient, transl, pelvis = random.normal(size=(3, 6, 3))
    offsets = random.normal(size=(30, 3))
    root, shift = geometry.smpl_to_camera(orient, transl, pelvis, extrinsics)
    for row in range(6):
        world = toy_body(orient[row], transl[row], pelvis[row], offsets)
        seen = geometry.transform(extrinsics[row], world)
        moved = toy_body(root[row], shift[row], pelvis[row], offsets)
        np.testing.assert_allclose(moved, seen, atol=1e-12)


def test_a_quarter_turn_of_the_camera_turns_the_root() -> None:
    camera = np.eye(4)
    camera[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    camera[:3, 3] = [0, 0, 5]
    root, shift = geometry.smpl_to_camera([0.0, 0, 0], [1.0, 2, 3], [0.1, 0.2, 0.3], camera)
    np.testing.assert_allclose(root, [0, 0, np.pi / 2], atol=1e-15)
    np.testing.assert_allclose(shift, [-2.2 - 0.1, 1.1 - 0.2, 8.3 - 0.3], atol=1e-15)


def test_the_weak_camera_shows_a_flat_body_where_it_says() -> None:
    size, focal = 224, 5000.0
    camera = np.array([[0.9, 0.1, -0.2], [0.5, 0, 0]])
    shift = geometry.weak_perspective_to_translation(camera, focal, size)
    np.testing.assert_allclose(shift[:, 2], 2 * focal / (size * camera[:, 0]))
    flat = np.random.default_rng(0).normal(size=(2, 10, 3)) * [0.5, 0.5, 0]
    intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    pixels = geometry.project(flat + shift[:, None], intrinsics)
    weak = camera[:, None, :1] * (flat[..., :2] + camera[:, None, 1:])  # -1..1 over the crop
    np.testing.assert_allclose(pixels, (weak + 1) * size / 2, atol=1e-6)


def test_a_scale_of_zero_is_far_away_but_finite() -> None:
    assert np.isfinite(geometry.weak_perspective_to_translation([0.0, 0, 0])).all()
    far = geometry.crop_camera_to_full_frame([0.0, 0, 0], [5, 5], 10, 100, [4, 4])
    assert np.isfinite(far).all()


@given(
    st.floats(0.3, 1.5),
    st.floats(-0.5, 0.5),
    st.floats(0, 1000),
    st.floats(50, 800),
    st.floats(500, 3000),
)
def test_crop_and_picture_show_a_flat_body_at_the_same_place(
    scale: float, tx: float, cx: float, side: float, focal: float
) -> None:
    camera, centre = np.array([scale, tx, -tx]), np.array([cx, 300.0])
    principal = np.array([500.0, 400.0])
    shift = geometry.crop_camera_to_full_frame(camera, centre, side, focal, principal)
    flat = np.random.default_rng(0).normal(size=(6, 3)) * [0.5, 0.5, 0]
    intrinsics = np.array([[focal, 0, principal[0]], [0, focal, principal[1]], [0, 0, 1]])
    pixels = geometry.project(flat + shift, intrinsics)
    weak = scale * (flat[:, :2] + camera[1:])
    np.testing.assert_allclose(pixels, centre + weak * side / 2, atol=1e-4)


def test_full_frame_of_a_centred_crop_is_the_weak_camera() -> None:
    camera = np.array([[0.9, 0.1, -0.2], [1.1, 0.0, 0.3]])
    full = geometry.crop_camera_to_full_frame(camera, [112, 112], 224, 5000, [112, 112])
    np.testing.assert_allclose(full, geometry.weak_perspective_to_translation(camera), rtol=1e-12)
    batched = geometry.crop_camera_to_full_frame(
        camera, np.full((2, 2), 112), np.full(2, 224), np.full(2, 5000), np.full((2, 2), 112)
    )
    np.testing.assert_array_equal(batched, full)


# Boxes


def test_a_box_is_the_enlarged_extent_of_the_valid_points() -> None:
    points = np.array([[[10.0, 20], [30, 60], [999, 999], [np.nan, 5]], np.zeros((4, 2))])
    valid = np.array([[True, True, False, True], [False] * 4])
    box = geometry.bbox_from_points(points, valid, 1.2)
    np.testing.assert_allclose(box, [[8, 16, 24, 48], [0, 0, 0, 0]])
    assert geometry.bbox_from_points(points[0]).tolist() == [10, 20, 989, 979]
    assert geometry.bbox_from_points(np.zeros((3, 0, 2))).tolist() == [[0] * 4] * 3


@given(
    arrays(np.float32, (5, 2), elements=st.floats(-1e4, 1e4, width=32)),
    st.floats(1, 3),
)
def test_a_box_holds_its_points(points: Array, factor: float) -> None:
    box = geometry.bbox_from_points(points, np.ones(5, bool), factor)
    assert box.dtype == np.float32
    tolerance = 1e-6 * (1 + np.abs(points).max())
    assert (points >= box[:2] - tolerance).all()
    assert (points <= box[:2] + box[2:] + 2 * tolerance).all()
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    np.testing.assert_allclose(box[:2] + box[2:] / 2, middle, atol=3 * tolerance)


def test_the_square_of_a_box_has_its_centre_and_larger_side() -> None:
    boxes = np.array([[10, 20, 30, 40, 0.9], [0, 0, 7, 3, 1]], np.float32)
    centre, side = geometry.xywh_to_square(boxes)
    np.testing.assert_array_equal(centre, [[25, 40], [3.5, 1.5]])
    np.testing.assert_array_equal(side, [40, 7])
    assert side.dtype == np.float32
    assert geometry.xywh_to_square(boxes[0, :4])[1].shape == ()


# Crops


def reference_affine(centre: Array, side: float, size: int, degrees: float) -> Array:
    """Three points, as OpenPose-style loaders define the crop; the third by a right angle."""
    angle = np.deg2rad(degrees)
    up = np.array([0, -side / 2])
    turned = np.array(
        [
            np.cos(angle) * up[0] - np.sin(angle) * up[1],
            np.sin(angle) * up[0] + np.cos(angle) * up[1],
        ]
    )
    source = np.array([centre, centre + turned, [0, 0]])
    target = np.array([[size / 2, size / 2], [size / 2, 0], [0, 0]])
    for points in (source, target):
        direction = points[0] - points[1]
        points[2] = points[1] + [-direction[1], direction[0]]
    return cv2.getAffineTransform(source.astype(np.float32), target.astype(np.float32))


@given(
    st.floats(0, 2000),
    st.floats(0, 1000),
    st.floats(20, 800),
    st.floats(-180, 180),
    st.sampled_from([64, 224, 256]),
)
def test_a_crop_equals_opencv_on_three_points(
    x: float, y: float, side: float, degrees: float, size: int
) -> None:
    centre = np.array([x, y])
    ours = geometry.crop_affine(centre, side, size, degrees)
    theirs = reference_affine(centre, side, size, degrees)
    corners = centre + side * np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [0, 0]])
    np.testing.assert_allclose(
        geometry.apply_affine(ours, corners), geometry.apply_affine(theirs, corners), atol=0.05
    )


def test_offsets_turn_by_the_documented_formula() -> None:
    centre, side, size, degrees = np.array([300.0, 200.0]), 100.0, 224, 30.0
    affine = geometry.crop_affine(centre, side, size, degrees)
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    for dx, dy in ((10.0, 0.0), (0.0, 10.0), (-3.0, 7.0)):
        moved = geometry.apply_affine(affine, centre[None] + [[dx, dy]])[0]
        expected = size / 2 + size / side * np.array([c * dx + s * dy, -s * dx + c * dy])
        np.testing.assert_allclose(moved, expected, atol=1e-12)
    up = geometry.apply_affine(affine, centre[None] + [[10.0, 0.0]])[0]
    assert up[1] < size / 2  # what was right of the centre is above it: counter-clockwise


def test_the_centre_goes_to_half_the_size_whatever_else_happens() -> None:
    random = np.random.default_rng(0)
    centre, side = random.uniform(0, 1000, (20, 2)), random.uniform(10, 500, 20)
    flip = random.integers(0, 2, 20).astype(bool)
    affine = geometry.crop_affine(centre, side, 256, random.uniform(-180, 180, 20), flip)
    moved = geometry.apply_affine(affine, centre[:, None])[:, 0]
    np.testing.assert_allclose(moved, np.full((20, 2), 128.0), atol=1e-9)
    determinant = np.linalg.det(affine[..., :2])
    np.testing.assert_allclose(determinant, np.where(flip, -1, 1) * (256 / side) ** 2, rtol=1e-12)


@given(st.floats(-90, 90), st.integers(100, 2000))
def test_one_affine_flips_like_a_mirrored_picture_cropped(degrees: float, width: int) -> None:
    centre, side = np.array([70.0, 90.0]), 120.0
    points = np.random.default_rng(0).uniform(0, 200, (12, 2))
    one = geometry.apply_affine(geometry.crop_affine(centre, side, 224, degrees, True), points)
    mirrored, mirrored_centre = points.copy(), centre.copy()
    mirrored[:, 0] = width - 1 - points[:, 0]
    mirrored_centre[0] = width - 1 - centre[0]
    two = geometry.apply_affine(geometry.crop_affine(mirrored_centre, side, 224, degrees), mirrored)
    np.testing.assert_allclose(one, two, atol=1e-9)


def test_a_crop_without_rotation_shows_the_pixels_of_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    affine = geometry.crop_affine([40.0, 30.0], 20.0, 20)
    np.testing.assert_array_equal(affine, [[1, 0, -30], [0, 1, -20]])
    crop = cv2.warpAffine(picture, affine, (20, 20), flags=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(crop, picture[20:40, 30:50])


def test_a_flipped_crop_shows_the_mirrored_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    affine = geometry.crop_affine([40.0, 30.0], 20.0, 20, 0, True)
    crop = cv2.warpAffine(picture, affine, (20, 20), flags=cv2.INTER_LINEAR)
    # Column c of the crop shows 40 - (c - 10).
    np.testing.assert_array_equal(crop, picture[20:40, 50:30:-1])


def test_crops_are_undone_by_their_inverse() -> None:
    random = np.random.default_rng(0)
    affine = geometry.crop_affine(
        random.uniform(0, 999, (50, 2)),
        random.uniform(10, 500, 50),
        224,
        random.uniform(-180, 180, 50),
        random.integers(0, 2, 50),
    )
    points = random.uniform(-100, 2000, (50, 7, 2))
    back = geometry.apply_affine(
        geometry.invert_affine(affine), geometry.apply_affine(affine, points)
    )
    np.testing.assert_allclose(back, points, atol=1e-8)
    for one, inverse in zip(affine, geometry.invert_affine(affine), strict=True):
        np.testing.assert_allclose(inverse, cv2.invertAffineTransform(one), atol=1e-9)


def test_a_batch_of_crops_is_its_crops_one_by_one() -> None:
    random = np.random.default_rng(0)
    centre, side = random.uniform(0, 99, (6, 2)), random.uniform(1, 99, 6)
    degrees, flip = random.uniform(-30, 30, 6), np.array([0, 1, 1, 0, 1, 0], bool)
    batch = geometry.crop_affine(centre.astype("f4"), side.astype("f4"), 224, degrees, flip)
    assert batch.dtype == np.float64
    assert batch.shape == (6, 2, 3)
    for row in range(6):
        one = geometry.crop_affine(
            centre.astype("f4")[row], side.astype("f4")[row], 224, degrees[row], flip[row]
        )
        np.testing.assert_array_equal(batch[row], one)
    assert geometry.crop_affine(np.zeros((0, 2)), np.zeros(0), 224).shape == (0, 2, 3)


def test_a_square_without_a_side_is_refused_by_row() -> None:
    with pytest.raises(HumandataError, match=r"side 0 pixels \(row 1\)"):
        geometry.crop_affine(np.zeros((3, 2)), [5, 0, -1], 224)
    with pytest.raises(HumandataError, match=r"side nan pixels \(row 0\)"):
        geometry.crop_affine(np.zeros(2), np.nan, 224)
    with pytest.raises(HumandataError, match="no inverse"):
        geometry.invert_affine(np.zeros((2, 3)))


def test_the_camera_of_a_crop_projects_into_the_crop() -> None:
    _, intrinsics = cameras(4)
    affine = geometry.crop_affine(
        np.full((4, 2), 500.0), np.full(4, 300.0), 224, [0, 10, -50, 90], [False, True] * 2
    )
    points = np.random.default_rng(0).normal(AHEAD, 1, (4, 9, 3))
    np.testing.assert_allclose(
        geometry.project(points, geometry.crop_intrinsics(affine, intrinsics)),
        geometry.apply_affine(affine, geometry.project(points, intrinsics)),
        atol=1e-9,
    )


# Poses

PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]


def stick_figure(pose: Array, offsets: Array) -> Array:
    """Forward kinematics of 24 joints, root at its offset."""
    local = Rotation.from_rotvec(pose).as_matrix()
    turn, place = [local[0]], [offsets[0]]
    for joint in range(1, 24):
        parent = PARENTS[joint]
        place.append(place[parent] + turn[parent] @ offsets[joint])
        turn.append(turn[parent] @ local[joint])
    return np.array(place)


def test_a_flipped_pose_of_a_symmetric_body_is_its_mirror_image() -> None:
    random = np.random.default_rng(2)
    swap = list(geometry.SMPL_FLIP)
    offsets = random.normal(size=(24, 3))
    offsets = (offsets + offsets[swap] * [-1, 1, 1]) / 2
    pose = random.normal(size=(24, 3))
    mirrored = stick_figure(geometry.flip_pose(pose), offsets)
    np.testing.assert_allclose(mirrored, stick_figure(pose, offsets)[swap] * [-1, 1, 1], atol=1e-12)


@pytest.mark.parametrize("leading", LEADING)
def test_flipping_twice_changes_nothing(leading: tuple[int, ...]) -> None:
    pose = np.random.default_rng(0).normal(size=(*leading, 24, 3)).astype(np.float32)
    once = geometry.flip_pose(pose)
    assert once.dtype == np.float32
    np.testing.assert_array_equal(geometry.flip_pose(once), pose)
    assert not np.shares_memory(once, pose)


@given(vectors(1.8), st.floats(-180, 180))
def test_the_body_turns_with_its_crop(vector: Array, degrees: float) -> None:
    turned = geometry.rotate_global_orient(vector, degrees)
    reference = Rotation.from_euler("z", -degrees, degrees=True) * Rotation.from_rotvec(vector)
    assert angle_between(geometry.axis_angle_to_matrix(turned), reference.as_matrix()) < 1e-12
    # Offsets in the picture turn the same way as the affine of the crop turns them.
    affine = geometry.crop_affine([0.0, 0.0], 224.0, 224, degrees)
    about_z = geometry.axis_angle_to_matrix(geometry.rotate_global_orient(np.zeros(3), degrees))
    np.testing.assert_allclose(affine[:, :2], about_z[:2, :2], atol=1e-12)


def test_a_turn_by_nothing_leaves_the_vector_untouched() -> None:
    vectors = np.array([[0.0, 0, 4.0], [np.pi, 1e-20, 0], [1, 2, 3]])
    turned = geometry.rotate_global_orient(vectors, [0, 0, 90])
    np.testing.assert_array_equal(turned[:2], vectors[:2])
    assert (turned[2] != vectors[2]).any()


def test_turning_there_and_back_is_the_same_rotation() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 3))
    degrees = np.random.default_rng(1).uniform(-60, 60, 30)
    back = geometry.rotate_global_orient(geometry.rotate_global_orient(vectors, degrees), -degrees)
    np.testing.assert_allclose(
        geometry.axis_angle_to_matrix(back), geometry.axis_angle_to_matrix(vectors), atol=1e-14
    )

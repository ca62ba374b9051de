"""Cameras of crops and pictures against the published codes, linear algebra and reprojection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from humandata import HumandataError, cameras, geometry

Array = NDArray[Any]

REFERENCE = Path(__file__).parents[1] / "training" / "references" / "geometry.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, Array]:
    with np.load(REFERENCE) as file:
        return dict(file)


def scene(seed: int, samples: int = 4, joints: int = 12) -> tuple[Array, Array, Array]:
    """Joints, their translation and their exact pixels in a crop of 224 with SPIN's camera."""
    random = np.random.default_rng(seed)
    body = 0.5 * random.normal(size=(samples, joints, 3))
    shift = random.normal(size=(samples, 3)) * [0.3, 0.3, 5] + [0, 0, 45]
    intrinsics = np.array([[5000.0, 0, 112], [0, 5000, 112], [0, 0, 1]])
    return body, shift, geometry.project(body + shift[:, None], intrinsics)


def test_the_lens_bends_as_opencvs_and_each_camera_its_own_picture() -> None:
    random = np.random.default_rng(2)
    points = random.uniform([-1, -1, 2], [1, 1, 4], (3, 20, 3))
    matrices = np.array([[[f, 0, 512], [0, f + 20, 500], [0, 0, 1]] for f in (900.0, 1100, 1300)])
    lenses = random.uniform(-0.1, 0.1, (3, 5))
    lenses[2] = 0
    found = cameras.project_through_lens(points, matrices, lenses)
    for row in range(3):
        wanted, _ = cv2.projectPoints(points[row], *np.zeros((2, 3)), matrices[row], lenses[row])
        np.testing.assert_allclose(found[row], wanted[:, 0], rtol=1e-12)
    np.testing.assert_allclose(found[2], geometry.project(points[2], matrices[2]), rtol=1e-12)
    behind = cameras.project_through_lens([[0.1, 0, -1]], matrices[0], lenses[0])
    assert np.isnan(behind).all()


# Weak perspective


@given(st.floats(0.1, 3), st.floats(-1, 1), st.floats(500, 6000), st.sampled_from([224, 256]))
def test_weak_perspective_and_translation_invert_each_other(
    scale: float, x: float, focal: float, size: int
) -> None:
    camera = np.array([scale, x, -x])
    there = cameras.weak_perspective_to_translation(camera, focal, size)
    back = cameras.translation_to_weak_perspective(there, focal, size)
    np.testing.assert_allclose(back, camera, rtol=1e-14)


def test_the_camera_of_spin_counts_the_full_side_of_its_crop() -> None:
    """5000 pixels and 224: 44.64 m for a scale of 1, and not the 44.84 of 223."""
    shift = cameras.weak_perspective_to_translation([1.0, 0, 0])
    assert shift[2] == pytest.approx(2 * 5000 / 224)
    np.testing.assert_array_equal(
        cameras.weak_perspective_to_translation([[2.0, 0.1, 0.2]], [1000.0], [100.0]),
        [[0.1, 0.2, 2000 / (200 + 1e-9)]],
    )


# CLIFF


def test_the_original_cliff_is_reproduced(reference: dict[str, Array]) -> None:
    centre, b = cameras.cliff_box(reference["boxes"], "cliff")
    np.testing.assert_allclose(centre, reference["cliff_centre"], rtol=1e-12)
    np.testing.assert_allclose(b, reference["cliff_b"], rtol=1e-12)
    width, height = reference["width"], reference["height"]
    info = cameras.cliff_box_info(centre, b, width, height)
    np.testing.assert_allclose(info, reference["cliff_info"], rtol=1e-12)
    np.testing.assert_allclose(cameras.picture_focal(width, height), reference["focal"])
    full = cameras.crop_camera_to_full_frame(
        reference["camera"], centre, b, reference["focal"], np.stack([width, height], -1) / 2
    )
    np.testing.assert_allclose(full, reference["cliff_full"], rtol=1e-12)
    affine = cameras.cliff_crop_affine(centre, b, "cliff")
    np.testing.assert_allclose(affine, reference["cliff_affine"], atol=1e-9)


def test_mmhuman3ds_cliff_is_reproduced(reference: dict[str, Array]) -> None:
    centre, b = cameras.cliff_box(reference["boxes"], "mmhuman3d")
    width, height = reference["width"], reference["height"]
    info = cameras.cliff_box_info(centre, b, width, height)
    np.testing.assert_allclose(info, reference["mm_info"], rtol=1e-6)  # it stores single precision
    full = cameras.crop_camera_to_full_frame(
        reference["camera"], centre, b, reference["focal"], np.stack([width, height], -1) / 2
    )
    np.testing.assert_allclose(full, reference["mm_full"], rtol=1e-12)


def test_the_two_forms_crop_what_they_say() -> None:
    centre, b = np.array([300.0, 200.0]), 160.0
    corners = np.array([[0.0, 0], [192, 256]])
    for form, extent in (("cliff", (120.0, 160.0)), ("mmhuman3d", (160.0, 160 * 4 / 3))):
        affine = cameras.cliff_crop_affine(centre, b, form)  # type: ignore[arg-type]
        first, last = geometry.apply_affine(geometry.invert_affine(affine), corners)
        np.testing.assert_allclose(last - first, extent)
        np.testing.assert_allclose((first + last) / 2, centre)


def test_mmhuman3ds_crop_is_the_square_crop_of_the_same_scale_moved_down() -> None:
    centre, b = np.array([[300.0, 200.0]]), np.array([160.0])
    square = geometry.crop_affine(centre, b, 192)
    square[..., 1, 2] += (256 - 192) / 2
    np.testing.assert_allclose(cameras.cliff_crop_affine(centre, b, "mmhuman3d"), square)


def test_a_camera_is_carried_from_one_form_to_the_other_through_the_picture() -> None:
    camera, box, focal = np.array([0.9, 0.1, -0.2]), np.array([100.0, 50, 90, 200]), 800.0
    middle = np.array([320.0, 240.0])
    centre, theirs = cameras.cliff_box(box, "cliff")
    _, ours = cameras.cliff_box(box, "mmhuman3d")
    assert (float(theirs), float(ours)) == (pytest.approx(220), 200)
    full = cameras.crop_camera_to_full_frame(camera, centre, theirs, focal, middle)
    other = cameras.full_frame_to_crop_camera(full, centre, ours, focal, middle)
    np.testing.assert_allclose(other, [0.9 * 220 / 200, 0.1, -0.2])
    np.testing.assert_allclose(
        cameras.crop_camera_to_full_frame(other, centre, ours, focal, middle), full
    )


@given(st.floats(0.1, 3), st.floats(-1, 1), st.floats(20, 900), st.floats(300, 3000))
def test_crop_camera_and_full_frame_invert_each_other(
    scale: float, x: float, side: float, focal: float
) -> None:
    camera = np.array([[scale, x, -x], [1.0, 0, 0]])
    arguments = (np.array([333.0, 111.0]), side, focal, np.array([500.0, 400.0]))
    full = cameras.crop_camera_to_full_frame(camera, *arguments)
    back = cameras.full_frame_to_crop_camera(full, *arguments)
    np.testing.assert_allclose(back, camera, rtol=1e-12, atol=1e-11)


def test_the_plain_box_information_divides_by_the_focal_length_alone() -> None:
    info = cameras.cliff_box_info([[100.0, 200.0]], [50.0], 300, 400, plain=True)
    np.testing.assert_allclose(info, [[-50 / 500, 0, 50 / 500]])
    usual = cameras.cliff_box_info([[100.0, 200.0]], [50.0], 300, 400)
    np.testing.assert_allclose(usual, [[-0.28, 0, (50 - 120) / 30]])


def test_nonsense_is_refused() -> None:
    with pytest.raises(HumandataError, match="no form 'bedlam' of CLIFF"):
        cameras.cliff_box([[0.0, 0, 1, 1]], "bedlam")  # type: ignore[arg-type]
    with pytest.raises(HumandataError, match=r"length 0 pixels \(row 1\)"):
        cameras.cliff_crop_affine(np.zeros((2, 2)), [3.0, 0.0])


# Translation from 2D joints


@given(st.integers(0, 2**32 - 1))
def test_exact_places_give_the_exact_translation(seed: int) -> None:
    body, shift, pixels = scene(seed)
    confidence = np.random.default_rng(seed).random((4, 12))
    confidence[:, 2:5] = 0
    found = cameras.estimate_translation(body, pixels, confidence)
    np.testing.assert_allclose(found, shift, rtol=1e-9, atol=1e-9)


def test_the_estimate_is_spins(reference: dict[str, Array]) -> None:
    found = cameras.estimate_translation(
        reference["joints"][:, 25:], reference["keypoints"][:, 25:], reference["confidence"][:, 25:]
    )
    np.testing.assert_allclose(found, reference["estimated"], rtol=1e-9)


def test_the_estimate_is_the_weighted_least_squares_solution() -> None:
    body, _, pixels = scene(1)
    random = np.random.default_rng(0)
    pixels = pixels + 5 * random.normal(size=pixels.shape)
    confidence, focal, middle = random.random((4, 12)), 900.0, np.array([50.0, 80.0])
    found = cameras.estimate_translation(body, pixels, confidence, focal, middle)
    for points, places, weight, ours in zip(body, pixels, confidence, found, strict=True):
        rows, right = [], []
        for (x, y, z), (u, v), w in zip(points, places - middle, np.sqrt(weight), strict=True):
            rows += [w * np.array([focal, 0, -u]), w * np.array([0, focal, -v])]
            right += [w * (u * z - focal * x), w * (v * z - focal * y)]
        theirs = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
        np.testing.assert_allclose(ours, theirs, rtol=1e-8)


def test_joints_without_confidence_may_hold_anything() -> None:
    body, _, pixels = scene(2)
    confidence = np.ones((4, 12))
    confidence[:, 5:8] = 0
    expected = cameras.estimate_translation(body, pixels, confidence)
    body[:, 5:8], pixels[:, 5:8] = np.nan, np.inf
    np.testing.assert_array_equal(cameras.estimate_translation(body, pixels, confidence), expected)


def test_fewer_than_two_places_leave_the_translation_unknown() -> None:
    body, shift, pixels = scene(3, samples=4)
    confidence = np.zeros((4, 12))
    confidence[1, 3] = confidence[2, 3] = confidence[2, 7] = 1
    confidence[3, [3, 7]] = 1
    pixels[3, 7] = pixels[3, 3]
    found = cameras.estimate_translation(body, pixels, confidence)
    assert np.isnan(found).all(axis=1).tolist() == [True, True, False, True]
    np.testing.assert_allclose(found[2], shift[2])


def test_precision_and_leading_axes_are_kept() -> None:
    body, _, pixels = scene(4)
    single = cameras.estimate_translation(
        body.reshape(2, 2, 12, 3).astype("f4"), pixels.reshape(2, 2, 12, 2), np.ones((2, 2, 12))
    )
    assert single.shape == (2, 2, 3)
    assert single.dtype == np.float32
    assert cameras.cliff_box(np.ones((5, 4), np.float32))[1].dtype == np.float32
    assert cameras.full_frame_to_crop_camera(
        np.ones((3, 3), np.float32), np.ones((3, 2)), np.ones(3), 1.0, np.zeros(2)
    ).shape == (3, 3)

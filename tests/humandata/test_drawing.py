"""Drawings: what is drawn lies where it should, in the colour of its side; charts count right."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from humandata import drawing, keypoints
from humandata.drawing import BOX, LEFT, MIDDLE, RIGHT

GROUND = np.full((240, 320, 3), 90, np.uint8)


def coco_person(**joints: tuple[float, float]) -> np.ndarray:
    """One person of whom only the named joints are labelled."""
    person = np.zeros((1, 17, 3))
    for name, (x, y) in joints.items():
        person[0, keypoints.index("coco", name)] = (x, y, 1)
    return person


def test_the_left_is_blue_the_right_orange_the_midline_white() -> None:
    person = coco_person(left_wrist=(200, 100), right_wrist=(100, 100), nose=(150, 50))
    drawn = drawing.draw_people(GROUND, None, person, "coco")
    assert tuple(drawn[100, 200]) == LEFT
    assert tuple(drawn[100, 100]) == RIGHT
    assert tuple(drawn[50, 150]) == MIDDLE


def test_limbs_are_drawn_between_labelled_joints_only() -> None:
    person = coco_person(left_elbow=(100, 60), left_wrist=(100, 180), right_elbow=(200, 60))
    drawn = drawing.draw_people(GROUND, None, person, "coco")
    assert tuple(drawn[120, 100]) == LEFT
    assert (drawn[120, 150:] == 90).all()


def test_an_occluded_joint_is_a_ring_a_visible_one_a_disc() -> None:
    large = np.full((960, 1280, 3), 90, np.uint8)
    person = coco_person(left_wrist=(200, 100), right_wrist=(800, 700))
    visibility = np.zeros((1, 17), np.uint8)
    visibility[0, keypoints.index("coco", "left_wrist")] = 1
    visibility[0, keypoints.index("coco", "right_wrist")] = 2
    drawn = drawing.draw_people(large, None, person, "coco", visibility)
    assert tuple(drawn[100, 200]) == (90, 90, 90)
    assert tuple(drawn[700, 800]) == RIGHT
    assert (drawn[80:120, 180:220] == LEFT).all(axis=-1).any()


def test_boxes_follow_their_edges_and_those_without_confidence_are_left_out() -> None:
    boxes = np.array([[40, 30, 100, 120, 1], [200, 30, 50, 50, 0]])
    drawn = drawing.draw_people(GROUND, boxes, None, None)
    assert np.abs(drawn[90, 40].astype(int) - BOX).max() < 30  # antialiased
    assert np.abs(drawn[150, 90].astype(int) - BOX).max() < 30
    assert (drawn[:, 180:] == 90).all()


def test_the_given_picture_is_not_touched() -> None:
    before = GROUND.copy()
    drawing.draw_people(
        GROUND, np.array([[1, 1, 50, 50]]), coco_person(nose=(9, 9)), "coco", None, 0.4
    )
    np.testing.assert_array_equal(GROUND, before)


def test_joints_far_outside_or_not_finite_do_no_harm() -> None:
    person = coco_person(left_elbow=(1e9, -1e9), left_wrist=(50, 50), right_wrist=(60, 60))
    person[0, keypoints.index("coco", "right_wrist"), 0] = np.nan
    drawn = drawing.draw_people(GROUND, np.array([[np.nan, 0, 5, 5]]), person, "coco")
    assert drawn.shape == GROUND.shape


@pytest.mark.parametrize("convention", keypoints.conventions())
def test_every_convention_can_be_drawn(convention: str) -> None:
    count = len(keypoints.names(convention))
    joints = np.random.default_rng(0).uniform(20, 200, (2, count, 3))
    drawn = drawing.draw_people(GROUND, None, joints, convention)
    assert (drawn != GROUND).any()


def test_a_crop_shows_the_box_and_its_affine_leads_there() -> None:
    picture = np.zeros((400, 600, 3), np.uint8)
    picture[180:221, 280:321] = 255  # centre (300, 200)
    crop, affine = drawing.crop_person(picture, np.array([250, 100, 100, 200, 1]), 256, 1.2)
    moved = drawing.move_joints(np.array([[300.0, 200.0, 1.0]]), affine)
    np.testing.assert_allclose(moved, [[128, 128, 1]])
    rows, columns = np.nonzero(crop[..., 0] > 128)
    np.testing.assert_allclose([rows.mean(), columns.mean()], 128, atol=0.7)
    assert np.ptp(rows) == pytest.approx(40 * 256 / 240, abs=1.5)


def test_a_large_person_is_shrunk_without_skipping_pixels() -> None:
    stripes = np.zeros((2048, 2048, 3), np.uint8)
    stripes[:, ::2] = 255
    crop, _ = drawing.crop_person(stripes, np.array([100, 100, 1800, 1800, 1]), 128, 1.0)
    assert np.abs(crop[10:-10, 10:-10].astype(int) - 128).max() < 40


def test_figure_jpeg_keeps_small_pictures_and_shrinks_large_ones() -> None:
    for size, expected in (((100, 50), (100, 50)), ((1000, 500), (640, 320))):
        data = drawing.figure_jpeg(np.zeros((size[1], size[0], 3), np.uint8), 640)
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape[:2] == expected[::-1]


def bars(svg: str) -> list[tuple[float, int]]:
    """Height and count of every bar."""
    found = re.findall(r'class="bar".*?height="([\d.]+)"><title>.*?: ([\d,]+)<', svg)
    return [(float(height), int(count.replace(",", ""))) for height, count in found]


def test_a_histogram_counts_every_value_once_and_its_bars_are_as_high_as_the_counts() -> None:
    values = np.random.default_rng(0).normal(100, 20, 5000)
    drawn = bars(drawing.histogram_svg(values, "Height", "px"))
    assert sum(count for _, count in drawn) == 5000
    heights = np.array(drawn)
    np.testing.assert_allclose(heights[:, 0], 120 * heights[:, 1] / heights[:, 1].max(), atol=0.06)


def test_whole_numbers_get_one_bar_each() -> None:
    drawn = bars(drawing.histogram_svg(np.array([3, 3, 3, 5]), "Joints"))
    assert [count for _, count in drawn] == [3, 1]


@pytest.mark.parametrize("values", [[], [np.nan], [4.5], [2.0, 2.0], [0, 1e6, 2e6], [1e-7, 3e-6]])
def test_a_histogram_of_hardly_anything_is_still_a_figure(values: list[float]) -> None:
    svg = drawing.histogram_svg(np.array(values), "Residual <px>", "px")
    assert svg.startswith("<figure")
    assert "Residual &lt;px&gt;" in svg
    assert "nan" not in svg


def test_a_histogram_says_when_its_last_bar_holds_outliers() -> None:
    svg = drawing.histogram_svg(np.r_[np.linspace(0, 1, 999), 500], "Error")
    assert "the last bar holds all up to 500" in svg


def test_shares_are_as_long_as_they_are_large() -> None:
    svg = drawing.shares_svg({"left_knee": 0.25, "right_knee": 1.0, "nose": 0.0}, "Joints")
    widths = re.findall(r'class="bar ?(\w*)".*?width="([\d.]+)"', svg)
    assert widths == [("left", "50.0"), ("right", "200.0"), ("", "0.0")]

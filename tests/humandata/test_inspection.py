"""Every check has a store that passes it and a store with the mistake it is there for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr
from people_store import SIZE, make_people_store, people_columns

from humandata import Store, geometry, inspection, keypoints
from humandata import open as open_store
from humandata.bodymodel import body_model, rest_pelvis
from humandata.checks import Check

Columns = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_people_store(tmp_path_factory.mktemp("sound") / "sound.zarr")


@pytest.fixture
def broken(tmp_path: Path) -> Callable[[Callable[[Columns], None]], dict[str, Check]]:
    """Checks, by name, of a store whose columns were edited before it was written."""

    def make(edit: Callable[[Columns], None], people: int = 24) -> dict[str, Check]:
        store = make_people_store(tmp_path / "broken.zarr", edit, people, pictures=False)
        return {check.name: check for check in inspection.verify(store)}

    return make


def damaged(path: Path, array: str, change: Callable[[bytearray], None]) -> Store:
    """A store of which one chunk file was changed on the disk."""
    make_people_store(path)
    file = next(file for file in sorted((path / array / "c").rglob("*")) if file.is_file())
    content = bytearray(file.read_bytes())
    change(content)
    file.write_bytes(content)
    return open_store(path)


def rewritten(path: Path, array: str, change: Callable[[Any], None]) -> dict[str, Check]:
    """Checks of a store that another program changed, checksums and all."""
    make_people_store(path, pictures=False)
    change(zarr.open_array(path / array, mode="r+"))
    return {check.name: check for check in inspection.verify(open_store(path))}


def flip_byte(content: bytearray) -> None:
    content[3] ^= 0x40


# A sound store -------------------------------------------------------------------------------


def test_a_sound_store_passes_every_check(sound: Store) -> None:
    checks = inspection.verify(sound)
    assert [(check.name, check.verdict) for check in checks if check.verdict != "passed"] == []
    assert len(checks) == 17
    assert inspection.is_sound(checks)


def test_verification_reports_progress_up_to_the_last_check(sound: Store) -> None:
    seen: list[tuple[str, int, int]] = []
    checks = inspection.verify(sound, lambda *step: seen.append(step))
    assert seen[0] == ("checks", 0, len(checks))
    assert seen[-1] == ("checks", len(checks), len(checks))


def test_content_digest_reproduces_the_fingerprint_of_the_commit(sound: Store) -> None:
    assert inspection.content_digest(sound) == sound.fingerprint


def test_checks_and_summary_can_be_written_as_json(sound: Store) -> None:
    document = [inspection.summarise(sound), *(c.as_dict() for c in inspection.verify(sound))]
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_summary_counts_what_the_columns_hold(sound: Store) -> None:
    summary = inspection.summarise(sound)
    columns = people_columns(24)["instances"]
    assert summary["rows"] == {"images": 12, "instances": 24, "sequences": 1}
    assert summary["genders"] == {"female": 24}
    assert summary["cameras"]["known"] == 1
    assert summary["cameras"]["focal_px"] == {"min": 520, "median": 520, "max": 520}
    assert summary["pictures"]["width"]["max"] == SIZE[0]
    assert summary["persons_per_picture"] == {"min": 2, "median": 2, "max": 2}
    nose = summary["joints"]["keypoints2d"]["nose"]
    assert nose == pytest.approx((columns["keypoints2d"][:, 0, 2] > 0).mean(), abs=1e-4)
    field = next(f for f in summary["fields"] if f["name"] == "keypoints3d")
    assert field["shape"] == [24, 45, 4]
    assert field["convention"] == "smpl_45"
    assert field["unit"] == "metre"
    assert summary["bytes"] == sum(f.stat().st_size for f in sound.path.rglob("*") if f.is_file())


def test_summary_tells_which_share_of_rows_has_a_value(tmp_path: Path) -> None:
    def edit(columns: Columns) -> None:
        columns["instances"]["smpl/valid"][::4] = False
        columns["instances"]["keypoints3d"][:12, :, 3] = 0
        columns["images"]["intrinsics"][:3] = 0

    summary = inspection.summarise(make_people_store(tmp_path / "s.zarr", edit, pictures=False))
    present = {f"{f['table']}/{f['name']}": f["present"] for f in summary["fields"]}
    assert present["instances/smpl/betas"] == 0.75
    assert present["instances/keypoints3d"] == 0.5
    assert present["images/intrinsics"] == 0.75
    assert summary["bodies"]["smpl/valid"] == 0.75


def test_an_empty_store_is_summarised_and_sound(tmp_path: Path) -> None:
    def edit(columns: Columns) -> None:
        for table in columns.values():
            for name, values in table.items():
                table[name] = values[:0]

    store = make_people_store(tmp_path / "empty.zarr", edit, pictures=False)
    assert inspection.summarise(store)["rows"]["instances"] == 0
    assert inspection.is_sound(inspection.verify(store))


# Bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array", ["instances/keypoints2d", "images/path_bytes", "sequences/name_offset"]
)
def test_one_changed_byte_fails_the_checksums_and_names_the_chunk(
    tmp_path: Path, array: str
) -> None:
    checks = inspection.verify(damaged(tmp_path / "s.zarr", array, flip_byte))
    found = {check.name: check for check in checks}
    assert found["checksums"].verdict == "failed"
    assert found["checksums"].details[0][0] == array
    assert f"{array}/c/0" in found["checksums"].details[0][1]
    assert found["fingerprint"].verdict == "failed"
    assert found["reprojection"].summary == "not made: checksums failed"
    assert not inspection.is_sound(checks)


def test_a_chunk_cut_short_is_named_and_nothing_else_breaks(tmp_path: Path) -> None:
    store = damaged(tmp_path / "s.zarr", "instances/bbox_xywh", lambda content: content.clear())
    checks = {check.name: check for check in inspection.verify(store)}
    assert checks["checksums"].verdict == "failed"
    assert "bytes" in checks["checksums"].details[0][1]


def test_a_missing_chunk_is_damage_though_zarr_reads_it_as_fill(tmp_path: Path) -> None:
    store = make_people_store(tmp_path / "s.zarr")
    (store.path / "instances/keypoints3d/c/0/0/0").unlink()
    checks = {check.name: check for check in inspection.verify(open_store(store.path))}
    assert checks["checksums"].verdict == "failed"
    assert "is missing" in checks["checksums"].details[0][1]


def test_a_changed_byte_of_a_picture_names_the_picture(tmp_path: Path) -> None:
    def flip(content: bytearray) -> None:
        content[len(content) // 2] ^= 1

    store = damaged(tmp_path / "s.zarr", "images/packs/00000", flip)
    checks = {check.name: check for check in inspection.verify(store)}
    assert checks["pictures"].verdict == "failed"
    assert "walk/00000" in checks["pictures"].details[0][1]
    assert checks["checksums"].details[0][0] == "images/packs/00000"


def test_a_store_of_paths_has_no_pictures_to_check(tmp_path: Path) -> None:
    store = make_people_store(tmp_path / "s.zarr", pictures=False)
    assert {c.name: c.passed for c in inspection.verify(store)}["pictures"] is None


# Schema, references, fingerprint -------------------------------------------------------------


def test_nan_is_found_in_array_and_row(tmp_path: Path) -> None:
    def change(array: Any) -> None:
        array[7, 3, 1] = np.nan

    checks = rewritten(tmp_path / "s.zarr", "instances/keypoints3d", change)
    assert checks["finite"].verdict == "failed"
    assert checks["finite"].details[0] == ("instances/keypoints3d, row 7", "holds nan")
    assert "row 7" in checks["schema"].details[0][1]
    assert checks["reprojection"].passed is not None


def test_a_value_against_the_schema_is_named_with_its_rule(tmp_path: Path) -> None:
    def change(array: Any) -> None:
        array[5] = 9

    checks = rewritten(tmp_path / "s.zarr", "instances/gender", change)
    assert checks["schema"].verdict == "failed"
    assert checks["schema"].details[0][1] == (
        "instances/gender, row 5: must be a code below 4; found [9]"
    )


def test_an_id_given_twice_breaks_the_schema(tmp_path: Path) -> None:
    def change(array: Any) -> None:
        array[9] = array[2]

    checks = rewritten(tmp_path / "s.zarr", "instances/id", change)
    assert "must be unique" in checks["schema"].details[0][1]


def test_a_missing_required_field_breaks_the_structure(tmp_path: Path) -> None:
    import shutil

    store = make_people_store(tmp_path / "s.zarr", pictures=False)
    shutil.rmtree(store.path / "instances" / "bbox_xywh")
    checks = {check.name: check for check in inspection.verify(open_store(store.path))}
    assert checks["structure"].verdict == "failed"
    assert "instances/bbox_xywh: is required" in checks["structure"].details[0][1]
    assert checks["joints_in_boxes"].summary == "not made: structure failed"


def test_a_convention_with_other_joints_breaks_the_structure(tmp_path: Path) -> None:
    store = make_people_store(tmp_path / "s.zarr", pictures=False)
    file = store.path / "instances" / "keypoints2d" / "zarr.json"
    file.write_text(file.read_text().replace('"coco"', '"smpl_45"'))
    checks = {check.name: check for check in inspection.verify(open_store(store.path))}
    assert checks["structure"].details == (
        ("schema", "instances/keypoints2d: must have shape (rows, 45, 3); found (rows, (17, 3))"),
    )


def test_an_array_that_the_schema_does_not_know_breaks_the_structure(tmp_path: Path) -> None:
    store = make_people_store(tmp_path / "s.zarr", pictures=False)
    (store.path / "instances" / "gender").rename(store.path / "instances" / "mood")
    checks = {check.name: check for check in inspection.verify(open_store(store.path))}
    assert "has no field 'mood'" in checks["structure"].details[0][1]


def test_an_instance_of_a_picture_that_is_not_there_stops_the_checks_of_people(
    tmp_path: Path,
) -> None:
    def change(array: Any) -> None:
        array[4] = 1_000_000

    checks = rewritten(tmp_path / "s.zarr", "instances/image", change)
    assert checks["references"].verdict == "failed"
    assert checks["references"].details[0] == (
        "instances/image, row 4", "is 1000000; there are 12 images",
    )  # fmt: skip
    assert checks["duplicates"].passed is None
    assert "references failed" in checks["duplicates"].summary


def test_a_changed_number_is_seen_by_the_fingerprint_alone(tmp_path: Path) -> None:
    def change(array: Any) -> None:
        array[0, 0] = array[0, 0] + 0.001

    checks = rewritten(tmp_path / "s.zarr", "instances/smpl/betas", change)
    assert [c.name for c in checks.values() if c.verdict == "failed"] == ["fingerprint"]


# Reprojection --------------------------------------------------------------------------------


def rotation_and_shift(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    pose = columns["images"]["extrinsics"][columns["instances"]["image"]].astype(np.float64)
    return pose[:, :3, :3], pose[:, None, :3, 3]


def world_joints(columns: Columns) -> np.ndarray:
    rotation, shift = rotation_and_shift(columns)
    joints = columns["instances"]["keypoints3d"][..., :3] - shift
    return np.einsum("nba,nkb->nka", rotation, joints)


def exchange_sides(columns: Columns) -> None:
    order = keypoints.flip_permutation("smpl_45")
    columns["instances"]["keypoints3d"] = columns["instances"]["keypoints3d"][:, order]


def transpose_rotation(columns: Columns) -> None:
    rotation, shift = rotation_and_shift(columns)
    moved = np.einsum("nba,nkb->nka", rotation, world_joints(columns)) + shift
    columns["instances"]["keypoints3d"][..., :3] = moved


def invert_extrinsics(columns: Columns) -> None:
    rotation, shift = rotation_and_shift(columns)
    moved = np.einsum("nba,nkb->nka", rotation, world_joints(columns) - shift)
    columns["instances"]["keypoints3d"][..., :3] = moved


def stay_in_the_world(columns: Columns) -> None:
    columns["instances"]["keypoints3d"][..., :3] = world_joints(columns)


def place_by_millimetres(columns: Columns) -> None:
    joints = columns["instances"]["keypoints3d"]
    root = joints[:, :1, :3].copy()
    joints[..., :3] += 999 * root


def flip_pictures(columns: Columns) -> None:
    """Mirrored pictures, as augmentation makes them; the names of the sides as they were."""
    columns["instances"]["keypoints2d"][..., 0] = (
        SIZE[0] - columns["instances"]["keypoints2d"][..., 0]
    )


def flip_pictures_and_names(columns: Columns) -> None:
    flip_pictures(columns)
    order = keypoints.flip_permutation("coco")
    columns["instances"]["keypoints2d"] = columns["instances"]["keypoints2d"][:, order]


def negate_x(columns: Columns) -> None:
    columns["instances"]["keypoints3d"][..., 0] *= -1


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (exchange_sides, "left and right of the 3D joints are exchanged"),
        (negate_x, "one side is mirrored, x being negated"),
        (flip_pictures, "x being negated or the picture flipped"),
        (flip_pictures_and_names, "picture flipped, with left and right renamed"),
        (transpose_rotation, "rotation was applied transposed"),
        (invert_extrinsics, "inverse of the extrinsics"),
        (stay_in_the_world, "still in the world frame"),
        (place_by_millimetres, "translation is in millimetres"),
    ],
)
def test_a_known_mistake_fails_the_reprojection_and_is_said_in_words(
    broken: Any, mistake: Callable[[Columns], None], words: str
) -> None:
    check = broken(mistake)["reprojection"]
    assert check.verdict == "failed"
    assert words in check.summary
    assert check.details


def test_a_subtracted_root_called_absolute_fails(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        joints = columns["instances"]["keypoints3d"]
        joints[..., :3] -= joints[:, :1, :3].copy()

    check = broken(edit)["reprojection"]
    assert check.verdict == "failed"
    assert "root been subtracted" in check.summary


def forget_the_pelvis(columns: Columns) -> None:
    rotation, _ = rotation_and_shift(columns)
    pelvis = rest_pelvis(body_model("female"), columns["instances"]["smpl/betas"])
    turned = np.einsum("nab,nb->na", rotation, pelvis)
    # R trans + t instead of R (trans + J) + t - J
    columns["instances"]["smpl/transl"] -= (turned - pelvis).astype(np.float32)


def turn_roots(columns: Columns, times: int) -> None:
    """As if the camera rotation (2: its transpose) had been forgotten (-1), or applied anyway."""
    rotation, _ = rotation_and_shift(columns)
    orient = geometry.axis_angle_to_matrix(columns["instances"]["smpl/global_orient"])
    for _ in range(times):
        orient = np.swapaxes(rotation, 1, 2) @ orient
    root = geometry.matrix_to_axis_angle(orient).astype(np.float32)
    columns["instances"]["smpl/global_orient"] = root


def leave_roots_in_the_world(columns: Columns) -> None:
    turn_roots(columns, 1)


def turn_roots_by_the_transpose(columns: Columns) -> None:
    turn_roots(columns, 2)


def move_bodies_by_millimetres(columns: Columns) -> None:
    columns["instances"]["smpl/transl"] *= 1000


def transpose_every_joint(columns: Columns) -> None:
    for name in ("smpl/global_orient", "smpl/body_pose"):
        columns["instances"][name] *= -1


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (forget_the_pelvis, "pelvis offset is missing"),
        (leave_roots_in_the_world, "root rotation is still in the world frame"),
        (turn_roots_by_the_transpose, "turned by the transposed camera rotation"),
        (move_bodies_by_millimetres, "translation is in millimetres"),
        (transpose_every_joint, "all rotations of the bodies are transposed"),
    ],
)
def test_a_known_mistake_of_bodies_is_said_in_words_against_2d_and_3d(
    broken: Any, mistake: Callable[[Columns], None], words: str
) -> None:
    checks = broken(mistake)
    assert checks["reprojection"].verdict == "passed"
    for name in ("body_reprojection", "body_joints"):
        assert checks[name].verdict == "failed"
        assert words in checks[name].summary
    assert "mm" in checks["body_joints"].details[0][1]


def without_places(columns: Columns) -> None:
    """As SPIN has them: joints around the pelvis, bodies without a translation."""
    at = columns["instances"]
    at["keypoints3d"][..., :3] -= at["keypoints3d"][:, :1, :3].copy()
    for name in ("smpl/transl", "smpl/transl_valid"):
        del at[name]


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (None, "median 0.0 mm"),
        (exchange_sides, "left and right of the 3D joints are exchanged"),
        (turn_roots_by_the_transpose, "turned by the transposed camera rotation"),
        (transpose_every_joint, "all rotations of the bodies are transposed"),
    ],
)
def test_bodies_without_a_place_are_held_against_joints_around_a_common_centre(
    broken: Any, mistake: Callable[[Columns], None] | None, words: str
) -> None:
    def edit(columns: Columns) -> None:
        if mistake is not None:
            mistake(columns)
        without_places(columns)

    checks = broken(edit)
    assert checks["body_reprojection"].passed is None
    assert checks["body_joints"].verdict == ("failed" if mistake else "passed")
    assert words in checks["body_joints"].summary


def test_the_distance_of_bodies_to_3d_joints_is_in_millimetres(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        columns["instances"]["smpl/transl"] += np.float32([0.03, 0, 0.04])

    assert "median 50.0 mm, 95th percentile 50.0 mm" in broken(edit)["body_joints"].summary


def test_a_few_exchanged_people_are_a_warning_that_names_them(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        order = keypoints.flip_permutation("smpl_45")
        joints = columns["instances"]["keypoints3d"]
        joints[[2, 9]] = joints[[2, 9]][:, order]

    check = broken(edit)["reprojection"]
    assert check.verdict == "warning"
    assert {where.split(" (")[0] for where, _ in check.details} == {
        "instances row 2",
        "instances row 9",
    }


def test_the_residual_is_that_of_geometry(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        columns["instances"]["keypoints2d"][..., 0] += 3
        columns["instances"]["keypoints2d"][..., 1] += 4

    assert "median 5.0 px, 95th percentile 5.0 px" in broken(edit)["reprojection"].summary


def test_joints_are_projected_through_the_lens_that_is_stored(broken: Any) -> None:
    """OpenCV's, where the store names no other formula; zeros are a pinhole."""
    lens = np.array([-0.3, 0.1, 0.02, -0.01, 0.05])

    def bend(columns: Columns) -> None:
        images, at = columns["images"], columns["instances"]
        images["distortion"] = np.zeros((len(images["path"]), 5), np.float32)
        images["distortion"][::2] = lens
        for row, image in enumerate(at["image"]):
            if image % 2:
                continue
            flat, camera = at["keypoints2d"][row], images["intrinsics"][image].astype(np.float64)
            rays = np.c_[flat[:, :2], np.ones(len(flat))] @ np.linalg.inv(camera).T
            flat[:, :2] = cv2.projectPoints(rays, *np.zeros((2, 3)), camera, lens)[0][:, 0]

    assert re.match(
        r"median 0\.0 px, 95th percentile 0\.0 px", broken(bend)["reprojection"].summary
    )


@pytest.mark.parametrize("code", [0, 2])
def test_cameras_that_are_assumed_or_unknown_are_not_held_against_the_joints(
    broken: Any, code: int
) -> None:
    def edit(columns: Columns) -> None:
        columns["images"]["intrinsics_source"][:] = code
        columns["images"]["intrinsics"][:, 0, 0] = 2000

    assert broken(edit)["reprojection"].passed is None


# Bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "unit"), [(1000, "millimetres"), (100, "centimetres")])
def test_joints_in_another_unit_fail_the_bone_lengths(broken: Any, factor: int, unit: str) -> None:
    def edit(columns: Columns) -> None:
        columns["instances"]["keypoints3d"][..., :3] *= factor

    check = broken(edit)["bone_lengths"]
    assert check.verdict == "failed"
    assert f"in {unit}, not in metres" in check.summary


def test_a_person_whose_bones_change_length_is_named(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        joints = columns["instances"]["keypoints3d"]
        joints[1::2, 4, :3] += np.linspace(-0.3, 0.3, 12)[:, None]

    check = broken(edit)["bone_lengths"]
    assert check.verdict == "warning"
    assert check.details[0][0] == "walk, person 1"


def test_a_left_leg_longer_than_the_right_is_a_warning(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        joints = columns["instances"]["keypoints3d"]
        joints[:, 7, :3] += 0.5 * (joints[:, 7, :3] - joints[:, 4, :3])

    check = broken(edit)["bone_lengths"]
    assert check.verdict == "warning"
    assert check.details[-1][0] == "shin"


@pytest.mark.parametrize("mistake", [exchange_sides, negate_x])
def test_mirrored_bodies_point_their_toes_backwards(
    broken: Any, mistake: Callable[[Columns], None]
) -> None:
    check = broken(mistake)["sides_3d"]
    assert check.verdict == "failed"
    assert "left and right are exchanged" in check.summary


def exchange_sides_2d(columns: Columns) -> None:
    order = keypoints.flip_permutation("coco")
    for name in ("keypoints2d", "keypoints2d_visibility"):
        columns["instances"][name] = columns["instances"][name][:, order]


def test_faces_with_the_left_eye_on_the_left_fail_the_2d_sides(broken: Any) -> None:
    check = broken(exchange_sides_2d, people=100)["sides_2d"]
    assert check.verdict == "failed"
    assert "left and right are exchanged" in check.summary


def test_hidden_eyes_of_people_seen_from_behind_are_no_faces(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        exchange_sides_2d(columns)  # so that every labelled face looks like one from behind
        face = columns["instances"]["keypoints2d_visibility"][:, :5]
        face[face == 2] = 1

    assert broken(edit, people=100)["sides_2d"].verdict == "passed"


def test_shoulders_against_hips_are_a_warning_that_names_the_rows(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        joints = columns["instances"]["keypoints2d"]
        joints[:, 5:7] = joints[:, [6, 5]]

    check = broken(edit)["sides_2d"]
    assert check.verdict == "warning"
    assert check.details


def test_rotations_in_degrees_fail(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        columns["instances"]["smpl/body_pose"] *= 180 / np.pi

    check = broken(edit)["body_parameters"]
    assert check.verdict == "failed"
    assert "degrees" in check.summary


def test_an_extreme_shape_is_a_warning(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        columns["instances"]["smpl/betas"][3, 1] = 7
        columns["instances"]["smpl/valid"][4] = False
        columns["instances"]["smpl/betas"][4, 1] = 70  # not a body, so nobody's shape

    check = broken(edit)["body_parameters"]
    assert check.verdict == "warning"
    assert [where.split(" (")[0] for where, _ in check.details] == ["instances row 3"]


# Boxes and duplicates ------------------------------------------------------------------------


def test_one_box_beside_its_person_is_a_warning_that_names_the_row(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        columns["instances"]["bbox_xywh"][6, 0] += 300

    check = broken(edit)["joints_in_boxes"]
    assert check.verdict == "warning"
    assert check.details[0][0].startswith("instances row 6 ")


def test_all_boxes_beside_their_people_fail(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        columns["instances"]["bbox_xywh"][:, 0] += 300

    assert broken(edit)["joints_in_boxes"].verdict == "failed"


def test_a_box_outside_of_its_picture_is_a_warning(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        columns["instances"]["bbox_xywh"][6, 0] = SIZE[0] + 5

    check = broken(edit)["boxes_in_pictures"]
    assert check.verdict == "warning"
    assert check.details[0][0].startswith("instances row 6 ")


def test_corners_stored_as_sizes_fail(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        box = columns["instances"]["bbox_xywh"]
        box[:, :4] = (200, 150, 420, 350)  # left, top, right, bottom

    check = broken(edit)["boxes_in_pictures"]
    assert check.verdict == "failed"
    assert "left, top, right, bottom" in check.summary


def test_a_person_annotated_twice_is_found_wherever_the_rows_lie(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        at = columns["instances"]
        for name in ("image", "bbox_xywh", "keypoints2d"):
            at[name][20] = at[name][1]
        at["keypoints2d"][20, :, :2] += 0.4

    check = broken(edit)["duplicates"]
    assert check.verdict == "warning"
    assert len(check.details) == 1
    assert {"instances row 1 ", "instances row 20 "} <= {
        part
        for text in check.details[0]
        for part in [text.split("(")[0], text.split("as ")[-1].split("(")[0]]
    }


def test_two_people_in_one_box_are_no_duplicates(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        at = columns["instances"]
        at["bbox_xywh"][1] = at["bbox_xywh"][0]

    assert broken(edit)["duplicates"].verdict == "passed"


def test_the_same_labels_in_another_picture_are_no_duplicate(broken: Any) -> None:
    def edit(columns: Columns) -> None:
        for name in ("bbox_xywh", "keypoints2d"):
            columns["instances"][name][20] = columns["instances"][name][1]

    assert broken(edit)["duplicates"].verdict == "passed"


@pytest.mark.parametrize(("shift", "verdict"), [(0.02, "warning"), (0.2, "passed")])
def test_without_joints_only_nearly_equal_boxes_are_duplicates(
    broken: Any, shift: float, verdict: str
) -> None:
    def edit(columns: Columns) -> None:
        at = columns["instances"]
        for name in ("keypoints2d", "keypoints2d_visibility"):
            del at[name]
        at["bbox_xywh"][7] = at["bbox_xywh"][6]
        at["bbox_xywh"][7, 0] += shift * at["bbox_xywh"][6, 2]

    assert broken(edit)["duplicates"].verdict == verdict


# Real data -----------------------------------------------------------------------------------


def test_the_real_coco_fragment_is_sound(samples: Path, tmp_path: Path) -> None:
    from humandata.converters import converter

    converter.convert("coco", samples / "coco", tmp_path / "coco.zarr", workers=1)
    store = open_store(tmp_path / "coco.zarr")
    checks = inspection.verify(store)
    assert [check.name for check in checks if check.passed is False] == []
    assert inspection.summarise(store)["counts"]["filtered"] == {"no_labelled_joint": 2}

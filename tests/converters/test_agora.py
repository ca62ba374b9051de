"""The AGORA converter recovers the ground truth of a release it has never seen."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from agora_release import (
    CAMERAS,
    SCANS,
    Person,
    Truth,
    camera_matrix,
    into_world,
    kid_template,
    pose_smpl,
    pose_smplx,
    smplx_rest,
    write_agora,
    write_pictures,
)
from scipy.spatial.transform import Rotation

import humandata
from humandata import DataError, HumandataError, bodymodel, exporting, unpickle_objects
from humandata.columns import Columns, join
from humandata.converters import agora
from humandata.converters.converter import Report, convert
from humandata.reprojection import (
    check_body_joints,
    check_body_reprojection,
    check_reprojection,
    placed_bodies,
)

HDRI, CAM02, TABLE = (
    next(name for name in CAMERAS if word in name) for word in ("hdri", "cam02", "construction")
)


def read(raw: Path, split: str = "train", **options: str) -> Columns:
    """All rows, without a store; every record is accounted for."""
    columns = join([agora.read(unit) for unit in agora.plan(raw, split, options)])
    rows = columns.rows("instances")
    assert columns.records == rows + sum(columns.filtered.values()) + len(columns.rejects)
    return columns


def converted(raw: Path, out: Path, **settings: Any) -> tuple[humandata.Store, Report]:
    settings.setdefault("pictures", "none")
    report = convert("agora", raw, out, workers=1, **settings)
    return humandata.open(out), report


def rows_of(columns: Columns, truth: Truth) -> list[tuple[int, int, int]]:
    """(row, picture, person) of every row."""
    stems = [Path(path).stem.removesuffix("_1280x720") for path in columns.images["path"]]
    pictures = [[Path(name).stem for name in truth.names].index(stem) for stem in stems]
    image, person = columns.instances["image"], columns.instances["person"]
    assert len(image) > 0
    return [(row, pictures[image[row]], int(person[row])) for row in range(len(image))]


def people_of(columns: Columns, truth: Truth) -> list[tuple[int, int, Person]]:
    return [(row, n, truth.people[n][person]) for row, n, person in rows_of(columns, truth)]


def words_of(columns: Columns, name: str) -> list[str]:
    vocabulary = columns.field_attributes[name]["vocabulary"]
    return [vocabulary[code] for code in columns.instances[name]]


def reasons(columns: Columns) -> list[str]:
    return [reject.reason for reject in columns.rejects]


UNKNOWN, NEUTRAL, MALE, FEMALE = range(4)


def matrix(axis_angle: np.ndarray) -> np.ndarray:
    return np.asarray(Rotation.from_rotvec(axis_angle).as_matrix())


# What is recovered -----------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["smpl", "smplx"])
@pytest.mark.parametrize("size", [(1280, 720), (3840, 2160)], ids=["1280x720", "3840x2160"])
def test_joints_and_cameras_are_those_of_the_ground_truth(
    tmp_path: Path, body: str, size: tuple[int, int]
) -> None:
    truth = write_agora(tmp_path, body, fits=False)
    columns = read(tmp_path, resolution=f"{size[0]}x{size[1]}")
    data, images = columns.instances, columns.images
    convention = {"smpl": "smpl_45", "smplx": "agora"}[body]
    assert columns.field_attributes["keypoints2d"]["convention"] == convention
    assert columns.field_attributes["keypoints3d"] == {
        "convention": convention,
        "root": "absolute",
    }
    world = np.random.default_rng(0).normal(size=(5, 3))
    for row, picture, person in people_of(columns, truth):
        pixels, joints = data["keypoints2d"][row], data["keypoints3d"][row]
        np.testing.assert_allclose(pixels[:, :2], person.pixels * size[0] / 3840, rtol=1e-6)
        np.testing.assert_allclose(joints[:, :3], person.joints, rtol=1e-6, atol=1e-6)
        assert (pixels[:, 2] == 1).all()
        assert (joints[:, 3] == 1).all()
        image = data["image"][row]
        assert (images["width"][image], images["height"][image]) == size
        camera = camera_matrix(truth.names[picture], size[0])
        np.testing.assert_allclose(images["intrinsics"][image], camera, rtol=1e-6)
        pose = images["extrinsics"][image]
        np.testing.assert_allclose(
            world @ pose[:3, :3].T + pose[:3, 3], truth.world_to_camera[picture](world), atol=1e-5
        )
        # The stored 3D, through the stored camera, by OpenCV.
        seen, _ = cv2.projectPoints(
            joints[:, :3].astype(np.float64), np.zeros(3), np.zeros(3), camera, None
        )
        np.testing.assert_allclose(seen[:, 0], pixels[:, :2], atol=2e-3)
        assert data["reprojection_error"][row] < 1e-3


def test_smpl_bodies_posed_from_the_store_are_the_people_in_the_pictures(tmp_path: Path) -> None:
    truth = write_agora(tmp_path)
    columns = read(tmp_path)
    data = columns.instances
    assert data["smpl/valid"][:].all()
    assert data["smpl/transl_valid"][:].all()
    assert (data["smpl/source"][:] == 1).all()
    for row, _, person in people_of(columns, truth):
        orient, pose, betas, transl = (
            data[f"smpl/{name}"][row].astype(np.float64)
            for name in ("global_orient", "body_pose", "betas", "transl")
        )
        weight = float(data["extra/kid_weight"][row])
        vertices, joints, rest = pose_smpl(orient, pose, betas, transl, weight)
        np.testing.assert_allclose(joints, person.joints, atol=1e-5)
        np.testing.assert_allclose(vertices, person.vertices, atol=1e-5)
        np.testing.assert_allclose(data["extra/rest_pelvis"][row], rest, atol=2e-6)
        assert (weight > 0) == person.scan.kid


def test_smplx_bodies_posed_from_the_store_are_the_people_in_the_pictures(tmp_path: Path) -> None:
    truth = write_agora(tmp_path, "smplx")
    columns = read(tmp_path)
    data = columns.instances
    order = ("body_pose", "jaw_pose", "leye_pose", "reye_pose", "left_hand_pose", "right_hand_pose")
    for row, _, person in people_of(columns, truth):
        pose = np.concatenate([data[f"smplx/{name}"][row].reshape(-1, 3) for name in order])
        rest = smplx_rest(data["smplx/betas"][row], float(data["extra/kid_weight"][row]))
        orient, transl = data["smplx/global_orient"][row], data["smplx/transl"][row]
        joints = pose_smplx(orient, pose, rest, transl)
        np.testing.assert_allclose(joints, person.joints, atol=1e-5)
        np.testing.assert_allclose(
            data["smplx/expression"][row], person.scan.fit["expression"], rtol=1e-6
        )
        # Girls are fitted with the neutral model, boys with the male one.
        scan = person.scan
        male = scan.gender == "male"
        assert data["gender"][row] == (MALE if male else NEUTRAL if scan.kid else FEMALE)
    for side in ("left", "right"):
        assert not columns.field_attributes[f"smplx/{side}_hand_pose"]["flat_hand_mean"]


def test_a_known_camera_turns_the_root_and_not_the_rest(tmp_path: Path) -> None:
    # By hand: the camera cam02 looks 45 degrees to the left and 30 down, a scan is turned over
    # (x stays, y and z change sign), then by its yaw less a quarter turn.
    truth = write_agora(tmp_path, names=[CAM02])
    columns = read(tmp_path)
    half, pitched = np.sqrt(0.5), Rotation.from_euler("x", 30, degrees=True).as_matrix()
    camera = pitched @ np.array([[half, 0, half], [0, 1, 0], [-half, 0, half]])
    np.testing.assert_allclose(columns.images["extrinsics"][0][:3, :3], camera, atol=1e-6)
    for row, _, person in people_of(columns, truth):
        spin = Rotation.from_euler("y", person.yaw - 90, degrees=True).as_matrix()
        wanted = camera @ spin @ np.diag([1, -1, -1]) @ matrix(person.scan.fit["root_pose"])
        found = matrix(columns.instances["smpl/global_orient"][row])
        np.testing.assert_allclose(found, wanted, atol=2e-6)
        pose = columns.instances["smpl/body_pose"][row].ravel()
        np.testing.assert_allclose(pose, person.scan.fit["body_pose"], rtol=1e-6)


def test_only_valid_people_are_kept_and_their_traits_are_stored(tmp_path: Path) -> None:
    truth = write_agora(tmp_path)
    columns = read(tmp_path)
    valid = [
        (n, i) for n, people in enumerate(truth.people) for i, p in enumerate(people) if p.valid
    ]
    assert [(picture, person) for _, picture, person in rows_of(columns, truth)] == valid
    assert columns.records == 21
    assert columns.filtered == {"not_valid": 21 - len(valid)}
    data = columns.instances
    ages, origins = (words_of(columns, f"extra/{word}") for word in ("age", "ethnicity"))
    for row, _, person in people_of(columns, truth):
        scan = person.scan
        assert data["scan_gender"][row] == (MALE if scan.gender == "male" else FEMALE)
        assert (ages[row], origins[row]) == (scan.age, scan.ethnicity)
        assert data["extra/kid"][row] == scan.kid
        assert data["extra/occlusion"][row] == pytest.approx(person.occlusion)
        assert data["extra/face_and_hands"][row] == ("bfh" in scan.path)
        # Only the flag makes a child of eleven betas.
        weight = scan.fit["betas"][10] if scan.kid else 0
        assert data["extra/kid_weight"][row] == pytest.approx(weight)
        assert data["gender"][row] == NEUTRAL


def test_boxes_hold_all_joints_enlarged_and_clipped_unless_as_a_peer(tmp_path: Path) -> None:
    def to_the_border(truth: Truth, columns: dict[str, Any]) -> None:
        """Shift the camera's view of one person until a part of them is outside."""
        person = truth.people[0][0]
        person.joints = person.joints - [person.joints[0, 0] + 0.36 * person.joints[0, 2], 0, 0]
        pixels = (person.joints / person.joints[:, 2:]) @ truth.intrinsics[0].T
        person.pixels = pixels[:, :2]
        columns["gt_joints_2d"][0][0], columns["gt_joints_3d"][0][0] = person.pixels, person.joints

    truth = write_agora(tmp_path, fits=False, change=to_the_border)
    assert truth.people[0][0].pixels[:, 0].min() < 0 < truth.people[0][0].pixels[:, 0].max()
    for rule in ("clipped", "mmhuman3d", "processing"):
        columns = read(tmp_path, box=rule, resolution="1280x720")
        assert columns.field_attributes["bbox_xywh"]["factor"] == 1.2
        for row, _, person in people_of(columns, truth):
            points = person.pixels / 3
            if rule == "processing":  # the square around what is inside of the first 25
                points = points[:25]
                points = points[((points >= 0) & (points <= [1280, 720])).all(axis=1)]
            low, high = points.min(axis=0), points.max(axis=0)
            centre, extent = (low + high) / 2, 1.2 * (high - low)
            if rule == "processing":
                extent = np.repeat(extent.max(), 2)
            low, high = centre - extent / 2, centre + extent / 2
            if rule == "clipped":
                low, high = np.clip(low, 0, [1280, 720]), np.clip(high, 0, [1280, 720])
            box = columns.instances["bbox_xywh"][row]
            np.testing.assert_allclose(box, [*low, *(high - low), 1], rtol=1e-4, atol=0.01)


def test_filters_of_others_keep_whom_they_keep(tmp_path: Path) -> None:
    def hide(truth: Truth, columns: dict[str, Any]) -> None:
        columns["occlusion"][1][:2] = [70.0, 70.1]

    truth = write_agora(tmp_path, fits=False, change=hide)
    columns = read(tmp_path, filter="processing")
    assert columns.filtered == {"agora_processing_code": 5}  # four hidden by 95 %
    kept = {(picture, person) for _, picture, person in rows_of(columns, truth)}
    assert (1, 0) in kept
    assert (1, 1) not in kept
    columns = read(tmp_path, filter="none")
    assert columns.filtered == {}
    assert columns.rows("instances") == 21
    assert columns.instances["extra/valid"].sum() == 17


def test_root_of_mmhuman3d_is_turned_over_on_the_other_side(tmp_path: Path) -> None:
    truth = write_agora(tmp_path)
    columns = read(tmp_path, root="mmhuman3d")
    right = read(tmp_path)
    assert not columns.instances["smpl/transl_valid"][:].any()
    assert columns.instances["smpl/valid"][:].all()
    flip = np.diag([1, -1, -1])
    for row, _, person in people_of(columns, truth):
        root = matrix(person.scan.fit["root_pose"])
        upright = matrix(right.instances["smpl/global_orient"][row]) @ root.T @ flip  # the turns
        wanted = upright @ root @ flip
        found = matrix(columns.instances["smpl/global_orient"][row])
        np.testing.assert_allclose(found, wanted, atol=5e-6)


# Layouts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tables_of_any_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    write_agora(tmp_path, protocol=protocol, names=[HDRI, TABLE], fits=False)
    assert read(tmp_path).rows("instances") == 5


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vertices_which_nobody_wants_are_not_read(
    tmp_path: Path, protocol: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retype(truth: Truth, columns: dict[str, Any]) -> None:
        columns["gt_verts"] = [[v.astype(dtype) for v in cell] for cell in columns["gt_verts"]]

    truth = write_agora(tmp_path, names=[HDRI, TABLE], fits=False, protocol=protocol, change=retype)
    made = []
    real = unpickle_objects.make_array

    def watch(*args: Any) -> Any:
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(unpickle_objects, "make_array", watch)
    columns = read(tmp_path)
    assert columns.rows("instances") == 5
    assert max(array.size for array in made) == 45 * 3
    assert truth.table.stat().st_size > 6 * 6890 * 3 * np.dtype(dtype).itemsize


@pytest.mark.parametrize(
    ("body", "tables", "pictures"),
    [
        ("smpl", "validation_SMPL/SMPL", "validation"),
        ("smpl", "camera_dataframe_smpl", "images/validation"),
        ("smplx", "camera_dataframe", "data/images"),
        ("smplx", "validation_SMPLX", "validation_images_1280x720_0/validation_0"),
    ],
)
def test_layouts_in_use_are_found(tmp_path: Path, body: str, tables: str, pictures: str) -> None:
    truth = write_agora(
        tmp_path,
        body,
        "validation",
        names=[CAM02],
        folder=tables,
        picture_folder=pictures,
        pictures=(1280, 720),
    )
    assert agora.find_splits(tmp_path) == ["validation"]
    columns = read(tmp_path, "validation")
    name = f"{Path(truth.names[0]).stem}_1280x720.png"
    assert columns.images["path"] == [f"{pictures}/{name}"]
    assert columns.images["width"].tolist() == [1280]
    assert columns.instances[f"{body}/valid"].all()


def test_tables_are_joined_in_the_order_of_their_numbers_with_words_of_all(tmp_path: Path) -> None:
    def older(truth: Truth, columns: dict[str, Any]) -> None:
        columns["age"][0] = ["100+", "0-2", "100+"]

    for number, change in ((0, None), (2, older), (10, None)):
        names = list(CAMERAS)[: 1 + number % 9]
        write_agora(tmp_path, number=number, names=names, fits=False, change=change)
        moved = tmp_path / "SMPL" / f"train_{number}_withjv.pkl"
        data = pickle.loads(moved.read_bytes())
        data["imgPath"] = [f"{number}_{name}" for name in data["imgPath"]]
        data.to_pickle(moved)
    store, report = converted(tmp_path, tmp_path / "s.zarr", options={"filter": "none"})
    numbers = [int(Path(path).name.split("_")[0]) for path in store.images["path"][:]]
    assert numbers == sorted(numbers) == [0] + [2] * 3 + [10] * 2
    words = store.instances["extra/age"].attributes["vocabulary"]
    ages = [words[code] for code in store.instances["extra/age"][:]]
    assert ages[:3] == ages[12:15] == ["31-50", "18-30", "3-12"]
    assert ages[3:6] == ["100+", "0-2", "100+"]
    assert any("tables 1, 3, 4, 5, 6, 7, 8, 9 of 10" in note for note in report.notes)


def test_of_two_sizes_the_smaller_is_used_unless_told(tmp_path: Path) -> None:
    truth = write_agora(tmp_path, names=[HDRI], pictures=(1280, 720), fits=False)
    write_pictures(tmp_path / "images/train", truth.names, (3840, 2160))
    columns, large = read(tmp_path), read(tmp_path, resolution="3840x2160")
    assert any("both sizes" in note for note in columns.notes)
    assert columns.images["path"] == [f"images/train/{Path(HDRI).stem}_1280x720.png"]
    assert large.images["path"] == [f"images/train/{HDRI}"]
    np.testing.assert_allclose(
        large.instances["keypoints2d"][..., :2],
        3 * columns.instances["keypoints2d"][..., :2],
        rtol=1e-6,
    )
    assert (large.instances["id"] == columns.instances["id"]).all()


def test_the_camera_is_told_by_the_file_name_and_not_by_its_folder(tmp_path: Path) -> None:
    def add_folder(truth: Truth, columns: dict[str, Any]) -> None:
        columns["imgPath"] = [f"my_hdri_data/{name}" for name in columns["imgPath"]]

    truth = write_agora(tmp_path, fits=False, change=add_folder)
    columns = read(tmp_path)
    for row, picture, _ in rows_of(columns, truth):
        camera = columns.images["intrinsics"][columns.instances["image"][row]]
        np.testing.assert_allclose(camera, camera_matrix(truth.names[picture]), rtol=1e-6)


def test_both_bodies_have_the_same_ids(tmp_path: Path) -> None:
    write_agora(tmp_path, "smpl", fits=False)
    write_agora(tmp_path, "smplx", fits=False)
    smpl, smplx = (read(tmp_path, fits=fits) for fits in ("smpl", "smplx"))
    assert (smpl.instances["id"] == smplx.instances["id"]).all()
    assert (smpl.images["id"] == smplx.images["id"]).all()
    ids = np.concatenate([smpl.instances["id"], smpl.images["id"]])
    assert len(np.unique(ids)) == len(ids)


def test_without_fits_there_are_joints_and_a_note(tmp_path: Path) -> None:
    write_agora(tmp_path, fits=False)
    columns = read(tmp_path)
    assert "smpl/valid" not in columns.instances
    assert any("no smpl_gt/: joints only" in note for note in columns.notes)


def test_a_fit_that_is_not_there_leaves_its_people_without_a_body(tmp_path: Path) -> None:
    truth = write_agora(tmp_path)
    gone = truth.people[0][0].scan.path
    (tmp_path / "smpl_gt" / f"{gone}.pkl").unlink()
    columns = read(tmp_path)
    assert columns.rejects == []
    has = [person.scan.path != gone for _, _, person in people_of(columns, truth)]
    assert columns.instances["smpl/valid"].tolist() == has
    lost = has.count(False)
    assert lost > 0
    assert any(f"{lost} persons have no body" in n and gone in n for n in columns.notes)


def test_fits_in_a_flat_folder_are_found_by_name(tmp_path: Path) -> None:
    write_agora(tmp_path, "smplx")
    for file in list((tmp_path / "smplx_gt").glob("*/*.pkl")):
        file.rename(tmp_path / "smplx_gt" / file.name)
    assert read(tmp_path).instances["smplx/valid"].all()


# In a store ------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["smpl", "smplx"])
def test_the_store_holds_what_was_read_and_verifies(tmp_path: Path, body: str) -> None:
    truth = write_agora(tmp_path, body, pictures=(1280, 720))
    store, report = converted(tmp_path, tmp_path / "s.zarr", pictures="original")
    columns = read(tmp_path)
    assert (report.records, report.instances) == (21, columns.rows("instances"))
    for name, values in columns.instances.items():
        np.testing.assert_array_equal(store.instances[name][:], values, err_msg=name)
    for picture, path in enumerate(store.images["path"][:]):
        assert store.picture(picture) == (tmp_path / path).read_bytes()
    assert len(store.images["path"][:]) == len(truth.names)
    assert check_reprojection(store).passed
    if body == "smpl":  # the stand-in is the body file that the truth was made with
        assert check_body_reprojection(store).passed
        assert check_body_joints(store).passed
    else:  # it has no SMPL-X
        assert "no SMPL-X file" in check_body_joints(store).summary


def test_children_are_posed_with_their_template_and_left_out_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = write_agora(tmp_path)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    kids = np.flatnonzero(store.instances["extra/kid"][:])
    assert 0 < len(kids) < len(store)
    people = placed_bodies(store, slice(None))
    assert people is not None
    assert not np.isin(kids, people.rows).any()
    for check in (check_body_reprojection(store), check_body_joints(store)):
        assert check.passed
        assert f"{len(kids)} children are left out: no smpl_kid_template.npy" in check.summary
    folder = bodymodel.body_files(tmp_path / "bodies")
    np.save(folder / "smpl_kid_template.npy", kid_template())
    monkeypatch.setenv("HUMANDATA_BODY_MODELS", str(folder))
    people = placed_bodies(store, slice(None))
    assert people is not None
    assert people.rows.tolist() == list(range(len(store)))
    columns = read(tmp_path)
    for row, _, person in people_of(columns, truth):
        joints = people.points3d[row][:24]
        np.testing.assert_allclose(joints, person.joints[:24], atol=1e-4)
    for check in (check_body_reprojection(store), check_body_joints(store)):
        assert check.passed
        assert "left out" not in check.summary


@pytest.mark.parametrize("shift", [None, (0.1, 0, 0)])
def test_a_translation_that_the_turns_moved_without_the_pelvis_is_told(
    tmp_path: Path, shift: tuple[float, float, float] | None
) -> None:
    truth = write_agora(tmp_path)
    columns = read(tmp_path)
    transl = columns.instances["smpl/transl"]
    for row, n, person in people_of(columns, truth):
        if shift is not None:
            transl[row] += shift
            continue
        # The fit's translation, taken for a point: turned and moved as its vertices are.
        see, fit = truth.world_to_camera[n], person.scan.fit["translation"]
        transl[row] = see(into_world(fit[None], person.yaw, person.place))[0]
    store_of = {
        "images": columns.images,
        "instances": columns.instances,
        "sequences": columns.sequences,
    }
    with humandata.create(tmp_path / "s.zarr", dataset="agora", split="train") as writer:
        writer.append(**store_of, field_attributes=columns.field_attributes)
    check = check_body_joints(humandata.open(tmp_path / "s.zarr"))
    assert ("the pelvis offset is missing" in check.summary) == (shift is None)
    assert check.verdict == ("failed" if shift is None else "passed")


def test_nobody_learns_or_is_scored_on_a_child_as_an_adult(tmp_path: Path) -> None:
    crops = pytest.importorskip("humandata.training.crops")
    evaluation = pytest.importorskip("humandata.training.evaluation")
    write_agora(tmp_path)
    for out, options, taken in (("1", {}, False), ("2", {"children": "mmhuman3d"}, True)):
        store, _ = converted(tmp_path, tmp_path / f"{out}.zarr", options=options)
        kid = store.instances["extra/kid"][:]
        targets = crops.Annotations(store).gather(np.arange(len(store)))
        assert targets["has_smpl"].tolist() == (~kid | taken).tolist()
        assert (targets["keypoints3d"][kid][..., 3] > 0).any(axis=1).all()
        assert store.instances["extra/kid_weight"][:].any() != taken
        rows, notes = evaluation.select_rows(store, evaluation.choose_protocol(store))
        assert rows.tolist() == np.flatnonzero(~kid | taken).tolist()
        assert any("without a valid body are left out" in note for note in notes) != taken
        done = exporting.export(store, tmp_path / f"{out}.npz", "spin")
        assert np.load(tmp_path / f"{out}.npz")["has_smpl"].tolist() == (~kid | taken).tolist()
        assert any("children without a body" in note for note in done.notes) != taken


# Bad input -------------------------------------------------------------------------------------


def nan_joint(truth: Truth, columns: dict[str, Any]) -> None:
    columns["gt_joints_3d"][1][0] = np.where(
        np.eye(45, 3) > 0, np.nan, columns["gt_joints_3d"][1][0]
    )


def few_joints(truth: Truth, columns: dict[str, Any]) -> None:
    columns["gt_joints_2d"][1][0] = columns["gt_joints_2d"][1][0][:24]


def behind(truth: Truth, columns: dict[str, Any]) -> None:
    columns["gt_joints_3d"][1][0] = -columns["gt_joints_3d"][1][0]


def outside(truth: Truth, columns: dict[str, Any]) -> None:
    columns["gt_joints_2d"][1][0] = columns["gt_joints_2d"][1][0] + [9000, 0]


def other_camera(truth: Truth, columns: dict[str, Any]) -> None:
    columns["gt_joints_2d"][1][0] = columns["gt_joints_2d"][1][0] + [-400, 100]


def other_yaw(truth: Truth, columns: dict[str, Any]) -> None:
    columns["Yaw"][1][0] += 180


def other_place(truth: Truth, columns: dict[str, Any]) -> None:
    columns["X"][1][0] += 250


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (nan_joint, "not_finite"),
        (few_joints, "joints_shape"),
        (behind, "behind_camera"),
        (outside, "outside_picture"),
        (other_camera, "camera_disagrees"),
        (other_yaw, "fit_disagrees"),
        (other_place, "fit_disagrees"),
    ],
)
def test_a_person_that_cannot_be_used_is_rejected_by_name(
    tmp_path: Path, change: Any, reason: str
) -> None:
    write_agora(tmp_path, change=change)
    columns = read(tmp_path)
    (reject,) = columns.rejects
    assert reject.reason == reason
    assert (reject.file, reject.record) == (
        "train_0_withjv.pkl",
        f"{list(CAMERAS)[1]}, person 0",
    )
    assert columns.rows("instances") == 16


def test_lists_of_unequal_length_reject_the_people_of_that_picture(tmp_path: Path) -> None:
    def shorten(truth: Truth, columns: dict[str, Any]) -> None:
        columns["Yaw"][1] = columns["Yaw"][1][:2]

    write_agora(tmp_path, change=shorten)
    columns = read(tmp_path)
    assert reasons(columns) == ["uneven_lists"] * 3
    assert columns.records == 21


def test_a_repeated_picture_is_rejected_the_second_time(tmp_path: Path) -> None:
    def repeat(truth: Truth, columns: dict[str, Any]) -> None:
        for cells in columns.values():
            cells.append(cells[0])

    write_agora(tmp_path, change=repeat)
    columns = read(tmp_path)
    assert reasons(columns) == ["duplicate_picture"] * 2


def test_a_picture_of_two_tables_is_named_with_both_before_any_picture_is_read(
    tmp_path: Path,
) -> None:
    write_agora(tmp_path, names=[HDRI, CAM02])
    write_agora(tmp_path, number=3, names=[TABLE, CAM02])
    with pytest.raises(DataError) as caught:
        converted(tmp_path, tmp_path / "s.zarr", pictures="tiled")
    said = str(caught.value)
    assert f"train_0_withjv.pkl, images/train/{CAM02}, again as " in said
    assert f"train_3_withjv.pkl, images/train/{CAM02}." in said
    assert "expected each picture once" in said
    (tmp_path / "SMPL" / "train_3_withjv.pkl").unlink()
    _, report = converted(tmp_path, tmp_path / "s.zarr", restart=True)
    assert report.images == 2


def test_a_picture_without_a_camera_is_rejected(tmp_path: Path) -> None:
    def no_camera(truth: Truth, columns: dict[str, Any]) -> None:
        columns["camX"] = [None] * len(truth.names)

    write_agora(tmp_path, change=no_camera)
    columns = read(tmp_path)
    assert reasons(columns) == ["no_camera"] * 2  # the only picture whose name tells no camera


def test_pictures_without_people_give_no_rows(tmp_path: Path) -> None:
    def empty(truth: Truth, columns: dict[str, Any]) -> None:
        for name, cells in columns.items():
            if isinstance(cells[0], list):
                columns[name] = [[] for _ in cells]

    write_agora(tmp_path, change=empty)
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    assert (len(store), report.records) == (0, 0)


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def no_translation(file: Path) -> None:
    file.write_bytes(pickle.dumps({"global_orient": np.zeros((1, 3)), "body_pose": np.zeros(63)}))


def nan_pose(file: Path) -> None:
    content = pickle.loads(file.read_bytes())
    content["transl"][:] = np.nan
    file.write_bytes(pickle.dumps(content))


def matrices(file: Path) -> None:
    content = pickle.loads(file.read_bytes())
    content["body_pose"] = np.tile(np.eye(3), (1, 21, 1, 1))
    file.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (damage, "damaged_fit", "rp_ben"),
        (no_translation, "fit_form", "no transl or translation"),
        (nan_pose, "fit_not_finite", "transl of rp_ben_posed_003_0_0.pkl"),
        (matrices, "fit_form", "63 expected, found 189"),
    ],
)
def test_a_fit_that_cannot_be_read_rejects_its_people(
    tmp_path: Path, spoil: Any, reason: str, words: str
) -> None:
    truth = write_agora(tmp_path, "smplx")
    path = "trainset_renderpeople_kids_bfh/rp_ben_posed_003_0_0"
    spoil(tmp_path / "smplx_gt" / f"{path}.pkl")
    columns = read(tmp_path)
    people = sum(p.scan.path == path and p.valid for line in truth.people for p in line)
    assert reasons(columns) == [reason] * people
    assert all(words in reject.detail for reject in columns.rejects)


def test_a_child_whose_fit_lacks_the_weight_is_rejected(tmp_path: Path) -> None:
    truth = write_agora(tmp_path, "smplx")
    file = tmp_path / "smplx_gt" / f"{SCANS[2][0]}.pkl"
    content = pickle.loads(file.read_bytes())
    content["betas"] = content["betas"][:, :10]
    file.write_bytes(pickle.dumps(content))
    columns = read(tmp_path)
    people = [p for line in truth.people for p in line if p.valid]
    count = sum(p.scan.path == SCANS[2][0] for p in people)
    assert reasons(columns) == ["kid_without_weight"] * count


def test_a_fit_that_tries_to_run_code_is_refused_and_does_not(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    write_agora(tmp_path, "smplx")
    file = tmp_path / "smplx_gt" / f"{SCANS[0][0]}.pkl"
    file.write_bytes(pickle.dumps({"betas": Bomb()}))
    with pytest.raises(HumandataError, match=file.name):
        read(tmp_path)
    assert not (tmp_path / "ran").exists()


def camera_only(truth: Truth, columns: dict[str, Any]) -> None:
    for name in ("gt_joints_2d", "gt_joints_3d", "gt_verts"):
        del columns[name]


def no_yaw(truth: Truth, columns: dict[str, Any]) -> None:
    del columns["Yaw"]


def scaled_joints(truth: Truth, columns: dict[str, Any]) -> None:
    columns["gt_joints_2d"] = [[joints / 3 for joints in cell] for cell in columns["gt_joints_2d"]]


def words_for_places(truth: Truth, columns: dict[str, Any]) -> None:
    columns["X"][0][0] = "here"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (camera_only, "The Cam archives hold no joints: fetch the SMPL"),
        (no_yaw, "found no Yaw"),
        (scaled_joints, "gt_joints_2d must be pixels of 3840x2160"),
        (words_for_places, "X: expected one number per person"),
    ],
)
def test_a_table_of_another_form_is_named(tmp_path: Path, change: Any, message: str) -> None:
    write_agora(tmp_path, fits=False, change=change)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "train_0_withjv.pkl" in str(caught.value)


def test_tables_of_the_other_body_in_a_folder_are_told(tmp_path: Path) -> None:
    write_agora(tmp_path, "smplx", folder="SMPL", fits=False)
    with pytest.raises(DataError, match=r"SMPL lie in the folder of SMPL-X") as caught:
        read(tmp_path)
    assert "(127, 3)" in str(caught.value)


def test_fits_of_another_frame_stop_the_conversion(tmp_path: Path) -> None:
    """Roots already turned into the camera, as a careless copy would have them."""
    truth = write_agora(tmp_path, "smplx")
    for line in truth.people:
        for person in line:
            file = tmp_path / "smplx_gt" / f"{person.scan.path}.pkl"
            content = pickle.loads(file.read_bytes())
            upside_down = np.diag([1, -1, -1]) @ matrix(person.scan.fit["global_orient"])
            content["global_orient"] = Rotation.from_matrix(upside_down).as_rotvec()[None]
            file.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="fits that stand as the 3D joints"):
        read(tmp_path)


def test_a_truncated_table_is_named(tmp_path: Path) -> None:
    truth = write_agora(tmp_path, fits=False)
    truth.table.write_bytes(truth.table.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"train_0_withjv\.pkl"):
        read(tmp_path)


def test_missing_pictures_are_rejected_with_their_people(tmp_path: Path) -> None:
    truth = write_agora(tmp_path, pictures=(1280, 720))
    name = f"{Path(truth.names[1]).stem}_1280x720.png"
    (tmp_path / "images" / "train" / name).unlink()
    _, report = converted(tmp_path, tmp_path / "s.zarr", pictures="original")
    assert report.rejected == {"missing_picture": 3}


def test_fits_that_came_after_an_interruption_are_not_mixed_in(tmp_path: Path) -> None:
    truth = write_agora(tmp_path, "smplx", fits=False)
    second = tmp_path / "SMPLX" / "train_1_withjv.pkl"
    second.write_bytes(truth.table.read_bytes()[:-1000])
    with pytest.raises(DataError, match="train_1"):
        converted(tmp_path, tmp_path / "s.zarr")
    second.unlink()
    write_agora(tmp_path, "smplx")
    second.write_bytes(truth.table.read_bytes())
    with pytest.raises(DataError, match="--restart"):
        converted(tmp_path, tmp_path / "s.zarr")


def test_the_wrong_option_and_the_missing_body_are_told(tmp_path: Path) -> None:
    write_agora(tmp_path, fits=False)
    with pytest.raises(DataError, match="tables of smpl only"):
        converted(tmp_path, tmp_path / "s.zarr", options={"fits": "smplx"})
    with pytest.raises(DataError, match="no tables with joints"):
        converted(tmp_path, tmp_path / "s.zarr", split="validation")

"""The body models: the stand-in's anatomy, SMPL's formulas, official files and wrong ones."""

from __future__ import annotations

import pickle
import pickletools
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from humandata import bodymodel, keypoints, pickle2
from humandata.bodymodel import SMPL45_VERTICES, BodyModel, body_model, forward, forward_joints
from humandata.errors import DataError, HumandataError

GENDERS = ("neutral", "male", "female")
MIRRORED_JOINT = [
    0,
    2,
    1,
    3,
    5,
    4,
    6,
    8,
    7,
    9,
    11,
    10,
    12,
    14,
    13,
    15,
    17,
    16,
    19,
    18,
    21,
    20,
    23,
    22,
]


@pytest.fixture(params=GENDERS)
def model(request: pytest.FixtureRequest) -> BodyModel:
    return body_model(request.param)


def random_bodies(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "global_orient": rng.normal(0, 1, (count, 3)),
        "body_pose": rng.normal(0, 0.4, (count, 23, 3)),
        "betas": rng.normal(0, 1, (count, 10)),
        "transl": rng.normal(0, 1, (count, 3)),
    }


def posed(model: BodyModel, **joints: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints of the mean shape with a few joints (``j16=...``) turned."""
    pose = np.zeros((1, 24, 3))
    for name, axis_angle in joints.items():
        pose[0, int(name[1:])] = axis_angle
    vertices, points = forward(model, pose[:, 0], pose[:, 1:], np.zeros((1, 10)))
    return vertices[0], points[0]


def mirror_of(model: BodyModel) -> np.ndarray:
    from scipy.spatial import cKDTree

    distance, mirror = cKDTree(model.v_template).query(model.v_template * [-1, 1, 1])
    assert distance.max() < 1e-6
    return mirror


# The stand-in's anatomy


def test_standin_has_the_shapes_of_smpl_and_says_what_it_is(model: BodyModel) -> None:
    assert model.v_template.shape == (6890, 3)
    assert model.shapedirs.shape == (6890, 3, 10)
    assert model.posedirs.shape == (6890, 3, 207)
    assert model.J_regressor.shape == model.weights.T.shape == (24, 6890)
    assert model.faces.shape == (13776, 3)
    assert model.regressors["h36m"].shape == (17, 6890)
    assert model.regressors["extra"].shape == (9, 6890)
    assert model.name == "standin"
    assert model.title == f"stand-in, not SMPL ({model.gender})"


def test_surface_is_closed_connected_and_a_sphere_in_topology(model: BodyModel) -> None:
    directed = np.concatenate([model.faces[:, [k, (k + 1) % 3]] for k in range(3)])
    assert len(np.unique(directed, axis=0)) == len(directed)
    edges, count = np.unique(np.sort(directed, axis=1), axis=0, return_counts=True)
    assert (count == 2).all()
    assert 6890 - len(edges) + 13776 == 2
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(6890, 6890))
    assert connected_components(graph, directed=False)[0] == 1


def test_faces_turn_outwards(model: BodyModel) -> None:
    a, b, c = (model.v_template[model.faces[:, k]] for k in range(3))
    volume = np.einsum("fi,fi->", np.cross(a, b), c) / 6
    assert 0.045 < volume < 0.11  # cubic metres: a person of 45 to 110 kg


def test_the_mean_body_is_an_adult_in_t_pose(model: BodyModel) -> None:
    low, high = model.v_template.min(axis=0), model.v_template.max(axis=0)
    assert 1.55 < high[1] - low[1] < 1.85
    span = high[0] - low[0]
    assert 0.9 < span / (high[1] - low[1]) < 1.1
    joints = model.joint_template
    arm = joints[[16, 18, 20, 22]]
    assert np.ptp(arm[:, 1]) < 0.02
    assert (np.diff(arm[:, 0]) > 0).all()  # the left hand is at +x
    assert model.v_template[332, 2] > joints[15, 2] + 0.05  # the nose is at +z
    assert np.linalg.norm(joints[0]) < 0.3


def test_body_and_joints_are_mirror_symmetric(model: BodyModel) -> None:
    mirror = mirror_of(model)
    np.testing.assert_allclose(
        model.joint_template[MIRRORED_JOINT] * [-1, 1, 1], model.joint_template, atol=1e-6
    )
    flipped = model.shapedirs[mirror] * np.array([-1, 1, 1])[:, None]
    np.testing.assert_array_equal(flipped, model.shapedirs)
    np.testing.assert_allclose(model.weights[mirror][:, MIRRORED_JOINT], model.weights, atol=1e-6)


def test_weights_and_regressors_are_convex_combinations(model: BodyModel) -> None:
    assert (np.count_nonzero(model.weights, axis=1) <= 4).all()
    for rows in (model.weights, model.J_regressor, *model.regressors.values()):
        assert rows.min() >= 0
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-12)
    assert np.count_nonzero(model.J_regressor, axis=1).max() < 300


def test_first_shape_direction_is_stature_in_standard_deviations(model: BodyModel) -> None:
    def stature(betas: list[float]) -> float:
        return float(np.ptp((model.v_template + model.shapedirs[..., :1] @ betas)[:, 1]))

    assert 0.05 < stature([1.0]) - stature([0.0]) < 0.12
    assert stature([-1.0]) < stature([0.0])


def test_joints_lie_inside_the_body_for_common_shapes(model: BodyModel) -> None:
    for betas in np.random.default_rng(1).normal(0, 1, (3, 10)):
        corners = (model.v_template + model.shapedirs @ betas)[model.faces]
        for joint, point in enumerate(bodymodel.rest_joints(model, betas)):
            assert abs(winding_number(corners - point) - 1) < 1e-6, joint


def winding_number(corners: np.ndarray) -> float:
    """How often triangles (F, 3, 3) enclose the origin (van Oosterom & Strackee, 1983)."""
    length = np.linalg.norm(corners, axis=-1)
    a, b, c = corners.transpose(1, 0, 2)
    la, lb, lc = length.T
    along = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    angle = 2 * np.arctan2((a * np.cross(b, c)).sum(-1), along)
    return float(angle.sum() / (4 * np.pi))


def test_official_vertex_numbers_are_the_named_points(model: BodyModel) -> None:
    names = keypoints.names("smpl_45")[24:]
    body, joint = model.v_template, model.joint_template
    point = {n: body[v] for n, v in zip(names, SMPL45_VERTICES, strict=True)}
    at = dict(zip(keypoints.names("smpl"), joint, strict=True))
    for name, where in point.items():
        side = where[0] * (1 if name.startswith("left") else -1)
        assert abs(where[0]) < 1e-6 if name == "nose" else side > 0.02, name
    for side in ("left", "right"):
        for finger in ("thumb", "index", "middle", "ring", "pinky"):
            wrist = point[f"{side}_{finger}"] - at[f"{side}_wrist"]
            assert 0.08 < np.linalg.norm(wrist) < 0.25, finger
            assert abs(point[f"{side}_{finger}"][0]) > abs(at[f"{side}_wrist"][0]) + 0.05
        assert point[f"{side}_bigtoe"][2] > at[f"{side}_foot"][2]
        assert abs(point[f"{side}_bigtoe"][0]) < abs(point[f"{side}_smalltoe"][0])
        assert point[f"{side}_heel"][2] < at[f"{side}_ankle"][2]
        assert point[f"{side}_eye"][1] > point["nose"][1] > at["neck"][1]
        assert point[f"{side}_ear"][2] < point[f"{side}_eye"][2]
        assert abs(point[f"{side}_ear"][0]) > abs(point[f"{side}_eye"][0])
        # In T-pose with the palm down the thumb points forward.
        assert point[f"{side}_thumb"][2] > point[f"{side}_pinky"][2]


def test_regressed_joints_are_near_their_kinematic_kin_in_any_pose(model: BodyModel) -> None:
    vertices, joints = forward(model, **random_bodies(20))
    h36m = bodymodel.joints_h36m(model, vertices)
    kin = {
        1: 1,
        2: 4,
        3: 7,
        4: 2,
        5: 5,
        6: 8,
        8: 12,
        11: 16,
        12: 18,
        13: 20,
        14: 17,
        15: 19,
        16: 21,
    }
    distance = np.linalg.norm(h36m[:, list(kin)] - joints[:, list(kin.values())], axis=-1)
    assert distance.mean(axis=0).max() < 0.03
    names = keypoints.names("smpl_54")
    all54 = bodymodel.joints_smpl54(model, vertices, joints)
    np.testing.assert_array_equal(all54[:, :24], joints)
    np.testing.assert_array_equal(all54[:, names.index("nose")], vertices[:, 332])
    for name, near in (("right_hip_extra", "right_hip"), ("left_hip_extra", "left_hip")):
        gap = all54[:, names.index(name)] - all54[:, names.index(near)]
        assert np.linalg.norm(gap, axis=-1).max() < 0.08
    head = all54[:, names.index("headtop")] - joints[:, 15]
    assert (np.linalg.norm(head, axis=-1) > 0.1).all()


# SMPL's formulas


def test_zero_pose_is_the_template(model: BodyModel) -> None:
    vertices, joints = posed(model)
    np.testing.assert_allclose(vertices, model.v_template, atol=1e-12)
    np.testing.assert_allclose(joints, model.J_regressor @ model.v_template, atol=1e-12)


def test_joints_of_a_shape_are_regressed_from_its_mesh(model: BodyModel) -> None:
    betas = np.random.default_rng(2).normal(0, 1, (3, 10))
    vertices, joints = forward(model, np.zeros((3, 3)), np.zeros((3, 23, 3)), betas)
    np.testing.assert_allclose(joints, model.J_regressor @ vertices, atol=1e-12)
    np.testing.assert_allclose(bodymodel.rest_pelvis(model, betas), joints[:, 0], atol=1e-12)


def test_a_right_angle_at_the_elbow_moves_the_wrist_along_its_circle() -> None:
    model = body_model("neutral")
    rest = model.joint_template
    _, joints = posed(model, j18=(0, -np.pi / 2, 0))
    forearm = rest[20] - rest[18]
    turned = [-forearm[2], forearm[1], forearm[0]]  # x goes to the front
    np.testing.assert_allclose(joints[20], rest[18] + turned, atol=1e-12)
    np.testing.assert_allclose(joints[:20], rest[:20], atol=1e-12)


def test_only_the_hand_follows_the_wrist() -> None:
    model = body_model("male")
    vertices, _ = posed(model, j20=(0.5, 0, 0))
    moved = np.linalg.norm(vertices - model.v_template, axis=1) > 1e-9
    assert moved[2445]
    assert model.v_template[moved, 0].min() > model.joint_template[18, 0] - 0.05


def test_the_root_turns_about_the_pelvis(model: BodyModel) -> None:
    bodies = random_bodies(2)
    still, _ = forward(model, np.zeros((2, 3)), bodies["body_pose"], bodies["betas"])
    turned, _ = forward(model, bodies["global_orient"], bodies["body_pose"], bodies["betas"])
    pelvis = bodymodel.rest_pelvis(model, bodies["betas"])[:, None]
    for k, rotation in enumerate(Rotation.from_rotvec(bodies["global_orient"])):
        expected = rotation.apply((still - pelvis)[k]) + pelvis[k]
        np.testing.assert_allclose(turned[k], expected, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 3))
def test_a_mirrored_pose_gives_the_mirrored_body(seed: int, count: int) -> None:
    model = body_model("neutral")
    bodies = random_bodies(count, seed)
    flipped = {k: v.copy() for k, v in bodies.items()}
    pose = np.concatenate([bodies["global_orient"][:, None], bodies["body_pose"]], axis=1)
    pose = pose[:, MIRRORED_JOINT] * [1, -1, -1]
    flipped |= {"global_orient": pose[:, 0], "body_pose": pose[:, 1:]}
    flipped["transl"] = bodies["transl"] * [-1, 1, 1]
    vertices, joints = forward(model, **bodies)
    other, other_joints = forward(model, **flipped)
    np.testing.assert_allclose(other[:, mirror_of(model)] * [-1, 1, 1], vertices, atol=1e-5)
    np.testing.assert_allclose(other_joints[:, MIRRORED_JOINT] * [-1, 1, 1], joints, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), dtype=st.sampled_from([np.float32, np.float64]))
def test_joints_alone_equal_the_joints_of_the_mesh(seed: int, dtype: type) -> None:
    bodies = {k: v.astype(dtype) for k, v in random_bodies(2, seed).items()}
    _, joints = forward(body_model("female"), **bodies)
    alone = forward_joints(body_model("female"), **bodies)
    assert joints.dtype == alone.dtype == dtype
    np.testing.assert_allclose(alone, joints, atol=1e-5 if dtype == np.float32 else 1e-12)


def test_single_precision_is_close_to_double(model: BodyModel) -> None:
    bodies = random_bodies(3)
    vertices, _ = forward(model, **bodies)
    single, _ = forward(model, **{k: v.astype(np.float32) for k, v in bodies.items()})
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, vertices, atol=1e-5)


def test_wrong_shapes_of_parameters_are_refused() -> None:
    model, zeros = body_model(), np.zeros
    with pytest.raises(ValueError, match=r"body_pose \(N, 23, 3\)"):
        forward(model, zeros((2, 3)), zeros((2, 24, 3)), zeros((2, 10)))
    with pytest.raises(ValueError, match="up to 10"):
        forward(model, zeros((2, 3)), zeros((2, 23, 3)), zeros((2, 16)))


def with_correctives(model: BodyModel) -> BodyModel:
    """The stand-in with made-up pose correctives, so that their formula is tested too."""
    from dataclasses import replace

    correctives = np.random.default_rng(3).normal(0, 0.002, (6890, 3, 207))
    return replace(model, posedirs=correctives)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_smplx_computes_the_same_body(tmp_path: Path, precision: str) -> None:
    torch = pytest.importorskip("torch")
    smplx = pytest.importorskip("smplx")
    model = with_correctives(body_model("male"))
    bodymodel.write_pkl(model, tmp_path / "SMPL_MALE.pkl", chumpy=False)
    dtype = getattr(torch, precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = smplx.SMPL(str(tmp_path), gender="male", batch_size=4, dtype=dtype)
    bodies = {k: v.astype(precision) for k, v in random_bodies(4).items()}
    tensors = {k: torch.tensor(v) for k, v in bodies.items()}
    tensors["body_pose"] = tensors["body_pose"].reshape(4, 69)
    with torch.no_grad():
        theirs = peer(**tensors)
    vertices, joints = forward(model, **bodies)
    tolerance = 1e-5 if precision == "float32" else 1e-6
    np.testing.assert_allclose(vertices, theirs.vertices.numpy(), atol=tolerance)
    ours = bodymodel.joints_smpl45(vertices, joints)
    np.testing.assert_allclose(ours, theirs.joints.numpy(), atol=tolerance)
    np.testing.assert_array_equal(peer.faces, model.faces)
    assert peer.parents.tolist() == model.parents.tolist()


def test_smplx_reads_the_npz_arrays(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    smplx = pytest.importorskip("smplx")
    bodymodel.write_npz(body_model("female"), tmp_path / "SMPL_FEMALE.npz")
    with np.load(tmp_path / "SMPL_FEMALE.npz") as file:
        arrays = SimpleNamespace(**{k: file[k] for k in file.files})
    peer = smplx.SMPL("", data_struct=arrays, dtype=torch.float64)
    vertices, _ = posed(body_model("female"))
    np.testing.assert_allclose(peer().vertices.detach().numpy()[0], vertices, atol=1e-6)


# Official files


def assert_same(one: BodyModel, other: BodyModel) -> None:
    for name in (
        "v_template",
        "shapedirs",
        "posedirs",
        "J_regressor",
        "weights",
        "parents",
        "faces",
    ):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("chumpy", [True, False])
def test_official_pickles_are_read_back_equal(tmp_path: Path, chumpy: bool) -> None:
    model = body_model("male")
    path = tmp_path / "basicmodel_m_lbs_10_207_0_v1.0.0.pkl"
    bodymodel.write_pkl(model, path, chumpy=chumpy)
    loaded = bodymodel.load(path, "male")
    assert_same(loaded, model)
    assert loaded.parents[0] == -1
    names = {op[1] for op in pickletools.genops(path.read_bytes()) if op[0].name == "GLOBAL"}
    assert ("chumpy.ch Ch" in names) == chumpy
    assert loaded.title == "stand-in, not SMPL (male)"  # also after a round trip


def test_npz_files_are_read_back_equal(tmp_path: Path) -> None:
    bodymodel.write_npz(body_model("neutral"), tmp_path / "SMPL_NEUTRAL.npz")
    assert_same(body_model("neutral", tmp_path), body_model("neutral"))


def test_a_file_without_our_mark_is_smpl(tmp_path: Path) -> None:
    from dataclasses import replace

    bodymodel.write_npz(replace(body_model(), name="smpl"), tmp_path / "SMPL_NEUTRAL.npz")
    assert body_model("neutral", tmp_path).title == "SMPL (neutral)"


def test_all_300_directions_of_newer_files_are_cut_to_ten(tmp_path: Path) -> None:
    content = bodymodel._official(body_model("female"))
    content["shapedirs"] = np.zeros((6890, 3, 300))
    content["shapedirs"][..., 9] = 1
    (tmp_path / "SMPL_FEMALE.pkl").write_bytes(pickle.dumps(content, protocol=2))
    loaded = body_model("female", tmp_path)
    assert loaded.shapedirs.shape == (6890, 3, 10)
    assert loaded.shapedirs[0, 0, 9] == 1


def test_the_written_folder_serves_every_part(tmp_path: Path) -> None:
    folder = bodymodel.body_files(tmp_path / "models")
    for gender in GENDERS:
        model = body_model(gender, folder)
        assert_same(model, body_model(gender))
        assert set(model.regressors) == {"h36m", "extra"}
    ours, theirs = bodymodel.mean_parameters(), bodymodel.mean_parameters(folder)
    np.testing.assert_array_equal(ours.pose6d, theirs.pose6d)
    np.testing.assert_array_equal(theirs.camera, np.array([0.9, 0, 0], np.float32))


def test_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bodymodel.write_npz(body_model("male"), tmp_path / "SMPL_MALE.npz")
    standin = body_model("male")
    monkeypatch.setenv("HUMANDATA_BODY_MODELS", str(tmp_path))
    assert body_model("male").path == str(tmp_path / "SMPL_MALE.npz")
    assert body_model("male") is body_model("male")
    monkeypatch.delenv("HUMANDATA_BODY_MODELS")
    assert body_model("male") is standin


def test_regressors_of_other_tools_are_brought_to_one_form(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    fourteen, correct = rng.random((14, 6890)), rng.random((17, 6890))
    np.save(tmp_path / "J_regressor_extra.npy", fourteen)
    np.save(tmp_path / "J_regressor_h36m_correct.npy", correct)
    found = bodymodel.load_regressors(tmp_path)
    np.testing.assert_array_equal(found["extra"], fourteen[5:])
    np.testing.assert_array_equal(found["h36m"][1:7], correct[[4, 5, 6, 1, 2, 3]])
    np.testing.assert_array_equal(found["h36m"][[0, 7, 16]], correct[[0, 7, 16]])


# Mean parameters


def test_mean_pose_stands_upright_in_a_camera_frame() -> None:
    mean = bodymodel.mean_parameters()
    assert mean.pose6d.shape == (144,)
    np.testing.assert_allclose(mean.pose6d[:6], [1, 0, 0, -1, 0, 0], atol=1e-6)
    first, second = mean.pose6d.reshape(24, 3, 2).transpose(2, 0, 1)
    matrices = np.stack([first, second, np.cross(first, second)], axis=-1)
    pose = Rotation.from_matrix(matrices).as_rotvec()[None]
    joints = forward_joints(body_model(), pose[:, 0], pose[:, 1:], mean.betas[None])[0]
    assert joints[15, 1] < joints[0, 1] < joints[7, 1]  # y points down
    for shoulder, wrist in ((16, 20), (17, 21)):
        assert joints[wrist, 1] > joints[shoulder, 1] + 0.35  # arms hang


def test_mean_parameters_of_another_shape_are_refused(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "smpl_mean_params.npz", pose=np.zeros(72), shape=np.zeros(10), cam=[0.9, 0, 0]
    )
    with pytest.raises(DataError, match=r"smpl_mean_params.npz, pose: expected shape \(144\)"):
        bodymodel.mean_parameters(tmp_path)


# Wrong files


def test_an_unknown_gender_is_named() -> None:
    with pytest.raises(HumandataError, match=r"'men'.*neutral, male, female"):
        body_model("men")


def test_an_empty_or_absent_folder_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SMPL_MALE.pkl.*no such file.*smpl.is.tue.mpg.de"):
        body_model("male", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        body_model("male", tmp_path / "absent")


def test_a_missing_or_misshapen_key_is_named(tmp_path: Path) -> None:
    content = bodymodel._official(body_model())
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(pickle2.dumps({k: v for k, v in content.items() if k != "weights"}))
    with pytest.raises(DataError, match=r"SMPL_NEUTRAL.pkl, weights: expected.*\(6890, 24\)"):
        bodymodel.load(path, "neutral")
    path.write_bytes(pickle2.dumps(content | {"weights": np.zeros((6890, 55))}))
    with pytest.raises(DataError, match=r"\(6890, 24\), found \(6890, 55\)"):
        bodymodel.load(path, "neutral")
    path.write_bytes(pickle2.dumps(content | {"v_template": np.zeros((10475, 3))}))
    with pytest.raises(DataError, match="SMPL-X"):
        bodymodel.load(path, "neutral")
    path.write_bytes(pickle2.dumps([1, 2]))
    with pytest.raises(DataError, match="a dictionary of SMPL's arrays, found list"):
        bodymodel.load(path, "neutral")
    with pytest.raises(DataError, match="no such file"):
        bodymodel.load(tmp_path / "absent.pkl", "neutral")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR.")
    with pytest.raises(HumandataError, match=r"os\.system|posix\.system"):
        bodymodel.load(path, "neutral")
    assert not (tmp_path / "ran").exists()


def test_a_regressor_of_wrong_width_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "J_regressor_h36m.npy", np.zeros((17, 10475)))
    with pytest.raises(DataError, match=r"\(17, 6890\), found \(17, 10475\)"):
        bodymodel.load_regressors(tmp_path)


def test_joints_that_need_an_absent_regressor_say_which(tmp_path: Path) -> None:
    bodymodel.write_npz(body_model(), tmp_path / "SMPL_NEUTRAL.npz")
    model = body_model("neutral", tmp_path)
    with pytest.raises(DataError, match=r"J_regressor_h36m.npy beside the body model"):
        bodymodel.joints_h36m(model, model.v_template[None])

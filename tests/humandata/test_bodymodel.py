"""The body models: the anatomy of the stand-in, and the formulas of SMPL."""

from __future__ import annotations

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

from humandata import bodymodel, keypoints
from humandata.bodymodel import SMPL45_VERTICES, BodyModel, body_model, forward, forward_joints

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

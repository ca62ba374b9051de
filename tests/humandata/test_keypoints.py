"""Joint conventions: the data, the maps, the mirror, the skeletons."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humandata import HumandataError, keypoints

ALL = keypoints.conventions()
PEER: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "peer_index_tables.json").read_text()
)["conventions"]
SCHEMA: dict[str, Any] = json.loads(
    resources.files("humandata.schemas").joinpath("keypoints.json").read_text()
)

# The toolbox these tables come from does not know these joints by their other name and loses them.
LOST_BY_THE_PEER = {
    "spin_smplx": {"headtop", "thorax_extra", "spine_extra", "jaw_extra", "head_extra"},
    "h36m_smplx": {"spine_extra"},
    "gta": {"headtop"},
    "human_data_10": {"thorax_extra"},
}


def test_the_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(keypoints).failed == 0


def test_importing_reads_no_convention() -> None:
    code = (
        "from humandata import keypoints; import sys;"
        "assert keypoints._schema.cache_info().currsize == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The data


def test_all_sixty_conventions_are_there() -> None:
    assert list(PEER) == ALL
    assert len(ALL) == 60


@pytest.mark.parametrize("name", ALL)
def test_a_convention_is_consistent_with_itself(name: str) -> None:
    found = keypoints.convention(name)
    count = len(found.joints)
    assert count == len(PEER[name]["union_index"])
    assert (len(set(found.joints)) < count) == (name == "mmpose_133")
    assert found.status in SCHEMA["status"]
    assert found.source
    for edge in [*found.skeleton, *found.flip_pairs, *sum(found.limbs.values(), ())]:
        assert len(set(edge)) == 2
        assert 0 <= min(edge) <= max(edge) < count
    for indices in [*found.parts.values(), found.upper, found.lower]:
        assert len(set(indices)) == len(indices)
        assert all(0 <= joint < count for joint in indices)
    assert len(found.sigmas) in (0, count)
    edges = {frozenset(edge) for edge in found.skeleton}
    assert len(edges) == len(found.skeleton)


def test_datasets_name_conventions_that_exist() -> None:
    for dataset, entry in SCHEMA["datasets"].items():
        for field in ("keypoints2d", "keypoints3d"):
            assert entry[field] is None or entry[field] in ALL, dataset
    assert len(SCHEMA["datasets"]) == 31


def test_the_file_is_one_a_person_can_read() -> None:
    text = resources.files("humandata.schemas").joinpath("keypoints.json").read_text()
    assert len(text) < 250_000
    assert SCHEMA["format_version"] == 1
    assert text.count('\n    "coco": {') == 2  # once among the datasets, once among the conventions


def test_coco_is_the_order_of_the_official_file(samples: Path) -> None:
    file = samples / "coco" / "annotations" / "person_keypoints_val2017.json"
    (person,) = json.loads(file.read_text())["categories"]
    ours = [name.removesuffix("_extra") for name in keypoints.names("coco")]
    assert ours == person["keypoints"]
    official = {frozenset((a - 1, b - 1)) for a, b in person["skeleton"]}
    assert {frozenset(edge) for edge in keypoints.limbs("coco").tolist()} == official


# Look-ups


def test_names_are_found_in_any_case() -> None:
    assert keypoints.names("CoCo") == keypoints.names("coco")
    assert keypoints.convention("COCO") is keypoints.convention("coco")


def test_an_unknown_convention_lists_near_names() -> None:
    with pytest.raises(HumandataError, match=r"'cocoo'.*did you mean coco"):
        keypoints.names("cocoo")
    for broken in (
        lambda: keypoints.mapping("coco", "xyzzy"),
        lambda: keypoints.flip_permutation("xyzzy"),
        lambda: keypoints.convert(np.zeros((17, 3)), "coco", "xyzzy"),
        lambda: keypoints.names(""),
    ):
        with pytest.raises(HumandataError, match="unknown keypoint convention"):
            broken()


def test_a_joint_is_found_by_either_of_its_names() -> None:
    assert keypoints.index("smpl", "left_knee") == 4
    assert keypoints.index("human_data", "nose_3") == keypoints.index("human_data", "nose_middle")
    assert keypoints.index("human_data_10", "nose_middle") == 92
    assert keypoints.index("spin_smplx", "headtop") == 13
    assert keypoints.index("mmpose_133", "left_wrist") == 9
    with pytest.raises(HumandataError, match=r"'smpl' has no joint 'left_kne'.*left_knee"):
        keypoints.index("smpl", "left_kne")


def test_trees_and_vertices_of_the_body_models() -> None:
    joints, parents = keypoints.kinematic_tree("smpl")
    assert joints == keypoints.names("smpl")
    assert parents[0] == -1
    assert all(parent < joint for joint, parent in enumerate(parents))
    assert keypoints.kinematic_tree("SMPLX")[0] == keypoints.names("smplx")[:55]
    vertices = keypoints.vertex_joints("smpl")
    assert tuple(vertices) == keypoints.names("smpl_45")[24:]
    assert vertices["nose"] == 332
    assert tuple(keypoints.vertex_joints("smplx")) == keypoints.names("smplx")[55:76]
    with pytest.raises(HumandataError, match="unknown body model 'skel'"):
        keypoints.kinematic_tree("skel")


def test_joints_and_vertices_are_those_of_the_smplx_package() -> None:
    official = pytest.importorskip("smplx.joint_names").JOINT_NAMES[:55]
    spelt = [re.sub(r"(\d)$", r"_\1", name).replace("eye_smplhf", "eyeball") for name in official]
    assert spelt == list(keypoints.names("smplx")[:55])
    assert spelt[:22] == list(keypoints.names("smpl")[:22])
    fingers = ("thumb", "index", "middle", "ring", "pinky")
    order = ["nose", "reye", "leye", "rear", "lear", "LBigToe", "LSmallToe", "LHeel"]
    order += ["RBigToe", "RSmallToe", "RHeel", *(side + f for side in "lr" for f in fingers)]
    vertex = pytest.importorskip("smplx.vertex_ids").vertex_ids
    for model, official_model in (("smpl", "smplh"), ("smplx", "smplx")):
        ours = list(keypoints.vertex_joints(model).values())
        assert ours == [vertex[official_model][name] for name in order]


# Mapping


@pytest.mark.parametrize("target", ["smpl_54", "smpl_49"])
@pytest.mark.parametrize("name", ALL)
def test_mapping_equals_the_tables_of_the_peer(name: str, target: str) -> None:
    for kind in ("exact", "approximate"):
        ours = keypoints.mapping(name, target, approximate=kind == "approximate")
        theirs = np.array(PEER[name][f"to_{target}"][kind])
        gained = {keypoints.names(target)[joint] for joint in np.flatnonzero(ours != theirs)}
        assert gained == LOST_BY_THE_PEER.get(name, set())
        assert (theirs[ours != theirs] == -1).all()


@pytest.mark.parametrize("name", ALL)
def test_every_joint_of_the_union_goes_where_the_peer_puts_it(name: str) -> None:
    slots = np.array(PEER[name]["union_index"])
    ours = keypoints.mapping("human_data", name)
    assert (ours[slots >= 0] == slots[slots >= 0]).all()
    names = keypoints.names(name)
    known = SCHEMA["aliases"] | SCHEMA["legacy_face_names"]
    for joint in np.flatnonzero((slots < 0) & (ours >= 0)):
        assert keypoints.names("human_data")[ours[joint]] == known[names[joint]]


@pytest.mark.parametrize("name", ALL)
def test_a_convention_maps_to_itself_unchanged(name: str) -> None:
    for approximate in (False, True):
        for once in (False, True):
            same = keypoints.mapping(name, name, approximate, once=once)
            assert same.tolist() == list(range(len(keypoints.names(name))))


def test_smpl_49_is_taken_from_smpl_54_as_spin_does() -> None:
    spin = [24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, *range(25, 35)]
    spin += [8, 5, 45, 46, 4, 7, 21, 19, 17, 16, 18, 20, *range(47, 54), 24, 26, 25, 28, 27]
    assert keypoints.mapping("smpl_54", "smpl_49", approximate=True).tolist() == spin


@pytest.mark.parametrize(
    ("name", "exact54", "near54", "exact49", "near49"),
    [
        ("coco", 17, 19, 17, 34),
        ("openpose_25", 0, 29, 25, 44),
        ("instavariety", 1, 28, 25, 43),
        ("h36m_spin", 17, 21, 17, 31),
        ("people3d", 33, 37, 11, 29),
        ("smpl_49", 24, 34, 49, 49),
    ],
)
def test_how_many_joints_reach_the_body_model(
    name: str, exact54: int, near54: int, exact49: int, near49: int
) -> None:
    counts = [
        int((keypoints.mapping(name, target, approximate) >= 0).sum())
        for target in ("smpl_54", "smpl_49")
        for approximate in (False, True)
    ]
    assert counts == [exact54, near54, exact49, near49]


def test_the_first_stand_in_wins() -> None:
    neck = keypoints.index("openpose_25", "neck_openpose")
    taken = keypoints.mapping("smpl_54", "openpose_25", approximate=True)[neck]
    assert keypoints.names("smpl_54")[taken] == "neck"  # and not neck_extra, which it has too
    assert keypoints.mapping("smpl_54", "openpose_25")[neck] == -1


def test_an_exact_joint_is_never_replaced_by_a_near_one() -> None:
    for source in ("coco", "smpl_54", "smpl_49", "human_data"):
        for target in ("smpl_54", "smpl_49", "openpose_25", "human_data"):
            exact = keypoints.mapping(source, target)
            near = keypoints.mapping(source, target, approximate=True)
            assert (near[exact >= 0] == exact[exact >= 0]).all()


def test_hand_roots_are_wrists_but_not_the_wrists_of_the_body() -> None:
    body, root = 9, 91
    forth = keypoints.mapping("mmpose_133", "coco_wholebody")
    back = keypoints.mapping("coco_wholebody", "mmpose_133")
    assert (forth[[body, root]] == [body, root]).all()
    assert (back[[body, root]] == [body, root]).all()
    assert keypoints.mapping("coco_wholebody", "coco")[9] == body
    assert keypoints.mapping("smplx", "coco_wholebody")[root] == keypoints.index(
        "smplx", "left_wrist"
    )


def test_old_and_new_face_names_are_the_same_places() -> None:
    assert keypoints.mapping("human_data_10", "human_data")[:144].tolist() == list(range(144))


@pytest.mark.parametrize("source", ["coco", "smpl_54", "h36m_spin", "mpi_inf_3dhp"])
@pytest.mark.parametrize("target", ["smpl_54", "smpl_49", "human_data"])
def test_once_uses_each_joint_once_and_keeps_the_exact_ones(source: str, target: str) -> None:
    every = keypoints.mapping(source, target, approximate=True)
    once = keypoints.mapping(source, target, approximate=True, once=True)
    used = once[once >= 0]
    assert len(set(used.tolist())) == len(used)
    assert set(used.tolist()) == set(every[every >= 0].tolist())
    assert (once[once >= 0] == every[once >= 0]).all()
    exact = keypoints.mapping(source, target)
    assert (once[exact >= 0] == exact[exact >= 0]).all()


def test_a_mapping_belongs_to_the_caller() -> None:
    keypoints.mapping("coco", "smpl_54")[:] = 0
    assert keypoints.mapping("coco", "smpl_54")[0] == -1


# Conversion


@given(
    source=st.sampled_from(ALL),
    target=st.sampled_from(ALL),
    approximate=st.booleans(),
    leading=st.sampled_from([(), (1,), (3,), (2, 3), (0,)]),
    columns=st.sampled_from([2, 3, 4]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int32]),
)
def test_conversion_copies_joint_by_joint(
    source: str, target: str, approximate: bool, leading: tuple[int, ...], columns: int, dtype: type
) -> None:
    count = len(keypoints.names(source))
    points = np.random.default_rng(0).integers(1, 100, (*leading, count, columns)).astype(dtype)
    before = points.copy()
    result, mask = keypoints.convert(points, source, target, approximate)
    taken = keypoints.mapping(source, target, approximate)
    assert result.shape == (*leading, len(taken), columns)
    assert result.dtype == points.dtype
    assert mask.dtype == bool
    assert not np.shares_memory(result, points)
    for joint, origin in enumerate(taken):
        expected = points[..., origin, :] if origin >= 0 else np.zeros((*leading, columns), dtype)
        assert (result[..., joint, :] == expected).all()
        assert mask[joint] == (origin >= 0)
    assert (points == before).all()


def test_conversion_to_the_same_convention_is_a_copy() -> None:
    points = np.ones((2, 17, 3), np.float32)
    result, mask = keypoints.convert(points, "coco", "coco")
    assert result is not points
    assert not np.shares_memory(result, points)
    assert (result == points).all()
    assert mask.all()


@pytest.mark.parametrize("name", ["coco", "lsp", "smpl", "h36m_spin", "openpose_25", "mpii"])
def test_there_and_back_through_the_union_changes_nothing(name: str) -> None:
    points = np.random.default_rng(1).normal(size=(4, len(keypoints.names(name)), 3))
    union, mask = keypoints.convert(points, name, "human_data")
    back, present = keypoints.convert(union, "human_data", name, mask=mask)
    assert (back == points).all()
    assert present.all()


def test_a_mask_is_carried_over_joint_by_joint() -> None:
    points = np.ones((2, 17, 3))
    given_mask = np.ones(17)
    given_mask[keypoints.index("coco", "nose")] = 0
    given_mask[keypoints.index("coco", "left_knee")] = 0.5  # more than nothing is something
    result, mask = keypoints.convert(points, "coco", "smpl_54", mask=given_mask)
    assert not mask[keypoints.index("smpl_54", "nose")]
    assert mask[keypoints.index("smpl_54", "left_knee")]
    assert not mask[keypoints.index("smpl_54", "pelvis")]
    assert mask.sum() == 16
    # The mask speaks about the joint, the coordinates are left alone.
    assert (result[:, keypoints.index("smpl_54", "nose")] == 1).all()


def test_a_mask_may_have_the_leading_axes_of_the_points() -> None:
    given_mask = np.zeros((2, 17), np.uint8)
    given_mask[1, 0] = 1
    _, mask = keypoints.convert(np.ones((2, 17, 2)), "coco", "smpl_54", mask=given_mask)
    assert mask.shape == (2, 54)
    assert np.argwhere(mask).tolist() == [[1, keypoints.index("smpl_54", "nose")]]


@pytest.mark.parametrize("shape", [(18, 3), (17,), (17, 4, 3), ()])
def test_a_wrong_number_of_joints_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(HumandataError) as caught:
        keypoints.convert(np.zeros(shape), "coco", "smpl")
    assert "'coco' must have shape (..., 17, D)" in str(caught.value)
    assert str(shape) in str(caught.value)


def test_a_mask_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(HumandataError, match=r"mask of convention 'coco'.*\(\.\.\., 17\).*\(18,\)"):
        keypoints.convert(np.zeros((17, 3)), "coco", "smpl", mask=np.ones(18))


# The mirror

ONE_HAND = [name for name in ALL if keypoints.convention(name).flip_unpaired]


def test_only_single_hands_have_no_mirror_image() -> None:
    assert [
        *("mano", "mano_left", "mano_right", "mano_left_reorder", "mano_right_reorder", "freihand")
    ] == ONE_HAND
    for name in ONE_HAND:
        with pytest.raises(HumandataError, match="no mirror image"):
            keypoints.flip_permutation(name)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ONE_HAND])
def test_the_mirror_exchanges_left_and_right(name: str) -> None:
    permutation = keypoints.flip_permutation(name)
    joints = keypoints.names(name)
    assert (permutation[permutation] == np.arange(len(joints))).all()
    legacy = SCHEMA["legacy_face_names"]
    for joint, partner in enumerate(permutation):
        ours, theirs = (legacy.get(joints[at], joints[at]) for at in (joint, partner))
        if ours.startswith(("left_", "right_")):
            swap = {"left": "right", "right": "left"}
            side, rest = ours.split("_", 1)
            assert theirs == f"{swap[side]}_{rest}"
        elif not ours.startswith(("gta_", "COCO_WB_")):  # sides within the name
            assert joint == partner


def test_the_mirror_of_smpl_is_that_of_the_pose() -> None:
    from humandata.geometry import SMPL_FLIP

    assert keypoints.flip_permutation("smpl").tolist() == list(SMPL_FLIP)


def test_the_mirror_of_smpl_54_is_that_of_hmr() -> None:
    pairs = [(1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21), (22, 23)]
    pairs += [(26, 25), (28, 27), (29, 32), (30, 33), (31, 34), (46, 45)]
    pairs += [(35, 40), (36, 41), (37, 42), (38, 43), (39, 44)]
    permutation = keypoints.flip_permutation("smpl_54")
    moved = {(a, int(b)) for a, b in enumerate(permutation) if a != b}
    assert moved == {*pairs, *((b, a) for a, b in pairs)}


# Skeletons

BODIES = [
    *("coco", "crowdpose", "smpl", "smpl_45", "smpl_54", "smpl_24", "star", "mpi_inf_3dhp"),
    *("mpi_inf_3dhp_test", "penn_action", "penn_action_swapped", "h36m", "h36m_mmpose"),
    *("h36m_spin", "pw3d", "mpii", "lsp", "instavariety", "instavariety_nop", "openpose_25"),
    *("hybrik_29", "hybrik_hp3d", "aic", "lip", "ochuman", "muco", "mupots3d", "people3d"),
    *("prox", "common_14", "spin_smplx"),
]


def _components(count: int, edges: np.ndarray) -> int:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges)), edges.T), shape=(count, count))
    return int(connected_components(graph, directed=False)[0])


@pytest.mark.parametrize("name", BODIES)
def test_the_skeleton_of_a_body_hangs_together(name: str) -> None:
    edges = keypoints.limbs(name)
    assert edges.dtype == np.intp
    assert _components(len(keypoints.names(name)), edges) == 1


@pytest.mark.parametrize("name", [name for name in ALL if name not in ONE_HAND])
def test_the_skeleton_is_its_own_mirror_image(name: str) -> None:
    edges = keypoints.limbs(name)
    mirrored = keypoints.flip_permutation(name)[edges]
    assert {frozenset(e) for e in edges.tolist()} == {frozenset(e) for e in mirrored.tolist()}


def test_every_arm_and_leg_is_drawn() -> None:
    for name in BODIES:
        joints = [j.removesuffix("_openpose") for j in keypoints.names(name)]
        edges = {frozenset((joints[a], joints[b])) for a, b in keypoints.limbs(name)}
        for side in ("left", "right"):
            for upper, lower in (("shoulder", "elbow"), ("elbow", "wrist"), ("knee", "ankle")):
                assert {f"{side}_{upper}", f"{side}_{lower}"} in edges, name
            hips = {f"{side}_hip", f"{side}_hip_extra"}
            assert any(f"{side}_knee" in edge and hips & edge for edge in edges), name


def test_a_convention_without_a_skeleton_has_no_edges() -> None:
    assert keypoints.limbs("face3d").shape == (0, 2)


# Evaluation


def test_evaluation_lists_are_those_of_the_schema() -> None:
    lists = SCHEMA["evaluation"]
    assert list(keypoints.LSP14_FROM_H36M17) == lists["h36m_17_to_14"]
    assert list(keypoints.LSP14_FROM_H36M_MMPOSE17) == lists["h36m_mmpose_17_to_14"]
    assert list(keypoints.LSP14_FROM_SMPL24) == lists["smpl_24_to_14"]


def test_evaluation_lists_pick_the_same_joints_everywhere() -> None:
    def picked(convention: str, joints: tuple[int, ...]) -> list[str]:
        return [keypoints.names(convention)[joint] for joint in joints]

    wanted = SCHEMA["evaluation"]["lsp_14"]
    spin = picked("h36m_spin", keypoints.LSP14_FROM_H36M17)
    assert spin[:13] == wanted[:13]
    assert spin[13] == "head_extra"
    assert picked("smpl_24", keypoints.LSP14_FROM_SMPL24) == spin
    a = picked("h36m", keypoints.LSP14_FROM_H36M17)
    assert picked("h36m_mmpose", keypoints.LSP14_FROM_H36M_MMPOSE17) == a

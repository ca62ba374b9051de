"""What is exported comes back through the import with the same values, and other tools read it."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import humandata_release
import mpii_release
import numpy as np
import pytest
import spin_release
from coco_release import write_coco
from numpy.testing import assert_allclose, assert_array_equal
from pw3d_release import write_pw3d

import humandata
from humandata import DataError, HumandataError, Store, keypoints
from humandata.converters.converter import convert
from humandata.exporting import export

COUNT = 5


def make(path: Path, **changes: Any) -> Store:
    """A store in which every row of every field differs."""
    rng = np.random.default_rng(1)
    valid = np.array([True, True, False, True, True])
    size = rng.uniform(50, 200, (COUNT, 2))
    points = np.dstack([rng.uniform(1, 600, (COUNT, 17, 2)), rng.integers(0, 2, (COUNT, 17))])
    points[:, 0, 2] = 1
    points[points[..., 2] == 0] = 0
    joints = np.dstack([rng.normal(0, 1, (COUNT, 24, 3)), np.ones((COUNT, 24))])
    masked = valid[:, None]
    camera = np.tile(np.eye(3) * [[900], [910], [1]], (3, 1, 1))
    outside = np.tile(np.eye(4), (3, 1, 1))
    outside[:, :3, 3] = rng.normal(size=(3, 3))
    instances: dict[str, Any] = {
        "id": np.arange(COUNT) + 1,
        "image": [0, 0, 1, 2, 2],
        "person": [0, 1, 0, 0, 1],
        "bbox_xywh": np.column_stack([rng.uniform(0, 100, (COUNT, 2)), size, np.ones(COUNT)]),
        "keypoints2d": points,
        "keypoints3d": joints,
        "smpl/global_orient": rng.normal(size=(COUNT, 3)) * masked,
        "smpl/body_pose": rng.normal(size=(COUNT, 23, 3)) * masked[..., None],
        "smpl/betas": rng.normal(size=(COUNT, 10)) * masked,
        "smpl/transl": rng.normal(size=(COUNT, 3)) * [[1], [0], [0], [1], [1]],
        "smpl/valid": valid,
        "smpl/transl_valid": valid & [True, False, True, True, True],
        "smpl/source": np.where(valid, 3, 0),
        "gender": [2, 3, 2, 1, 0],
        "extra/weight": rng.uniform(0, 1, COUNT),
    }
    images: dict[str, Any] = {
        "id": np.arange(3) + 1,
        "path": [f"frames/{row:03d}.jpg" for row in range(3)],
        "height": [480, 480, 720],
        "width": [640, 640, 1280],
        "sequence": [0, 0, 1],
        "frame": [4, 5, 0],
        "intrinsics": camera,
        "intrinsics_source": [1, 1, 1],
        "extrinsics": outside,
    }
    attributes: dict[str, dict[str, Any]] = {
        "keypoints2d": {"convention": "coco"},
        "keypoints3d": {"convention": "smpl", "root": "absolute"},
        "bbox_xywh": {"rule": "joints", "factor": 1.1},
    }
    for name, value in changes.items():
        table = images if name in images else instances
        table.pop(name, None)
        if value is not None:
            table[name] = value
    with humandata.create(path, dataset="mine", split="train") as writer:
        writer.append(
            images={k: v if k == "path" else typed("images", k, v) for k, v in images.items()},
            instances={k: typed("instances", k, v) for k, v in instances.items()},
            sequences={"name": ["walk", "run"]},
            field_attributes={k: v for k, v in attributes.items() if k in instances},
        )
    return humandata.open(path)


def typed(table: str, name: str, values: Any) -> np.ndarray:
    like = np.asarray(values, np.float32)
    return np.asarray(values).astype(humandata.schema.field(table, name, like).dtype)


def back(file: Path, dataset: str, **options: str) -> Store:
    store = file.with_suffix(".zarr")
    convert(dataset, file, store, workers=1, pictures="none", options=options)
    return humandata.open(store)


def assert_same(a: Store, b: Store, *names: str, **tolerance: float) -> None:
    for name in names:
        table = name.partition("/")[0]
        first, second = (getattr(s, table)[name.removeprefix(f"{table}/")] for s in (a, b))
        if isinstance(first[:], list):
            assert first[:] == second[:], name
        elif tolerance:
            assert_allclose(first[:], second[:], **tolerance, err_msg=name)
        else:
            assert_array_equal(first[:], second[:], err_msg=name)


def test_humandata_gives_every_value_back(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr")
    made = export(store, tmp_path / "mine_train.npz", "humandata")
    again = back(tmp_path / "mine_train.npz", "humandata")
    assert (made.persons, made.pictures, again.split) == (COUNT, 3, "train")
    assert_same(
        store, again, "images/path", "images/height", "images/width", "images/intrinsics",
        "images/extrinsics", "images/sequence", "images/frame", "sequences/name",
        "instances/image", "instances/person", "instances/bbox_xywh", "instances/keypoints2d",
        "instances/keypoints3d", "instances/smpl/global_orient", "instances/smpl/body_pose",
        "instances/smpl/betas", "instances/smpl/transl", "instances/smpl/valid",
        "instances/smpl/transl_valid", "instances/smpl/source", "instances/gender",
        "instances/extra/weight",
    )  # fmt: skip
    assert again.convention("keypoints2d") == "coco"
    assert again.instances["keypoints3d"].attributes["root"] == "absolute"
    assert again.instances["bbox_xywh"].attributes["factor"] == 1.1
    assert made.left_out == {}


def test_humandata_has_the_form_that_mmhuman3d_writes(tmp_path: Path) -> None:
    """Keys, shapes and dtypes as in HumanData.dump; joints by the list of its documentation."""
    export(make(tmp_path / "s.zarr"), tmp_path / "o.npz", "humandata")
    with np.load(tmp_path / "o.npz", allow_pickle=True) as npz:
        data = {key: npz[key].item() if npz[key].ndim == 0 else npz[key] for key in npz}
    assert data["__key_strict__"] is False
    assert data["__keypoints_compressed__"] is True
    assert data["__data_len__"] == COUNT
    assert isinstance(data["config"], str)
    mask = data["keypoints2d_mask"]
    assert mask.shape == (190,)
    assert data["keypoints2d"].shape == (COUNT, int(mask.sum()), 3) == (COUNT, 17, 3)
    assert data["keypoints2d_convention"] == "human_data"
    full = np.zeros((COUNT, 190, 3), np.float32)
    full[:, mask == 1] = data["keypoints2d"]
    coco = humandata.open(tmp_path / "s.zarr").instances["keypoints2d"][:]
    assert_array_equal(full[:, humandata_release.COCO], coco)
    assert data["bbox_xywh"].shape == (COUNT, 5)
    assert {k: v.shape[1:] for k, v in data["smpl"].items()} == {
        "body_pose": (23, 3), "global_orient": (3,), "betas": (10,), "transl": (3,),
    }  # fmt: skip
    assert data["meta"]["gender"] == ["m", "f", "m", "n", "unknown"]
    assert set(data["cam_param"][0]) == {"in_mat", "rotation_mat", "translation", "H", "W"}
    assert data["image_path"].dtype.kind == "U"


def test_object_members_name_only_what_every_numpy_has(tmp_path: Path) -> None:
    export(make(tmp_path / "s.zarr"), tmp_path / "o.npz", "humandata")
    named: set[str] = set()
    with zipfile.ZipFile(tmp_path / "o.npz") as archive:
        for name in ("smpl.npy", "meta.npy", "misc.npy", "cam_param.npy"):
            stream = io.BytesIO(archive.read(name))
            assert np.lib.format.read_magic(stream) == (1, 0)
            np.lib.format.read_array_header_1_0(stream)
            assert stream.read(2) == b"\x80\x04"  # the protocol
            stream.seek(-2, io.SEEK_CUR)
            _Recorder(stream, named).load()
    assert named == {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
                     ("numpy", "dtype")}  # fmt: skip


class _Recorder(pickle.Unpickler):
    """Python's own reader, telling what it is asked to import."""

    def __init__(self, stream: io.BytesIO, named: set[tuple[str, str]]) -> None:
        super().__init__(stream)
        self.named = named

    def find_class(self, module: str, name: str) -> Any:
        self.named.add((module, name))
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def test_humandata_keeps_smplx_and_what_an_import_had_kept_aside(tmp_path: Path) -> None:
    data = humandata_release.values(6)
    rng = np.random.default_rng(4)
    data["smplx"] = {
        "global_orient": rng.normal(size=(6, 3)),
        "body_pose": rng.normal(size=(6, 21, 3)),
        "betas": rng.normal(size=(6, 10)),
        "left_hand_pose": rng.normal(size=(6, 15, 3)),
        "expression": rng.normal(size=(6, 10)),
    }
    data["meta"]["ethnicity"] = ["a", "b", "a", "a", "b", "b"]
    data["keypoints2d_smplx"] = humandata_release.keypoints(6, humandata_release.COCO)
    data["keypoints2d_smplx_mask"] = humandata_release.mask(humandata_release.COCO)
    data["misc"]["flat_hand_mean"] = True
    first = back(humandata_release.write_npz(tmp_path / "one_train.npz", data), "humandata")
    export(first, tmp_path / "two_train.npz", "humandata")
    second = back(tmp_path / "two_train.npz", "humandata")
    fields = [name for name in first.instances if name not in ("id", "extra/meta_ethnicity")]
    assert_same(first, second, *(f"instances/{name}" for name in fields))
    words = second.instances["extra/meta_ethnicity"].attributes["vocabulary"]
    codes = second.instances["extra/meta_ethnicity"][:]
    assert [words[code] for code in codes] == data["meta"]["ethnicity"]
    assert second.instances["extra/keypoints2d_smplx"].attributes["convention"] == "coco"
    assert second.instances["smplx/left_hand_pose"].attributes["flat_hand_mean"] is True
    config = second.instances["source_id"].attributes["file_level"]["config"]
    assert config == "mine"


def test_assumed_cameras_are_not_passed_off_as_measured(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr", intrinsics_source=[1, 2, 2], extrinsics=None)
    made = export(store, tmp_path / "o.npz", "humandata")
    assert made.left_out["images/intrinsics"] == "2 are only assumed"
    again = back(tmp_path / "o.npz", "humandata")
    assert again.images["intrinsics_source"][:].tolist() == [1, 0, 0]


def test_spin_gives_every_value_back(tmp_path: Path) -> None:
    file = spin_release.write(tmp_path / "mpi_inf_3dhp_train.npz", spin_release.mocap_values())
    first = back(file, "spin")
    made = export(first, tmp_path / "out" / "mpi_inf_3dhp_train.npz", "spin")
    second = back(tmp_path / "out" / "mpi_inf_3dhp_train.npz", "spin")
    fields = [name for name in first.instances if name != "id"]
    assert_same(first, second, "images/path", *(f"instances/{f}" for f in fields), rtol=1e-6)
    assert_same(first, second, "instances/keypoints2d", "instances/smpl/body_pose")
    assert second.instances["keypoints3d"].attributes["root"] == "pelvis"
    assert set(made.left_out) == {"instances/smpl/source"}
    # And the arrays are those of the file that the store was made from.
    data = spin_release.mocap_values()
    with np.load(tmp_path / "out" / "mpi_inf_3dhp_train.npz") as npz:
        assert set(npz) == set(data)
        for key, values in data.items():
            assert npz[key].shape == values.shape
            if key in ("pose", "shape"):
                values = np.where(data["has_smpl"][:, None] > 0, values, 0)
            if values.dtype.kind == "f":
                assert_allclose(npz[key], values, rtol=1e-5, atol=1e-5, err_msg=key)


def test_the_real_fragment_of_human36m_goes_out_as_it_came_in(
    samples: Path, tmp_path: Path
) -> None:
    file = samples / "h36m" / "test_h36m.npz"
    convert("spin", file, tmp_path / "s.zarr", workers=1, pictures="none")
    export(humandata.open(tmp_path / "s.zarr"), tmp_path / "o.npz", "spin")
    with np.load(file) as first, np.load(tmp_path / "o.npz") as second:
        assert first["imgname"].tolist() == second["imgname"].tolist()
        for key in ("center", "scale", "part", "S", "pose", "shape"):
            assert_allclose(second[key], first[key], rtol=1e-6, atol=1e-6, err_msg=key)


def test_genders_are_written_as_spin_reads_them(tmp_path: Path) -> None:
    file = spin_release.write(tmp_path / "3dpw_test.npz", spin_release.evaluation_values())
    store = back(file, "spin")
    export(store, tmp_path / "out.npz", "spin")
    with np.load(tmp_path / "out.npz") as npz:
        assert [0 if str(g) == "m" else 1 for g in npz["gender"]] == [0, 1, 0, 1]
    neutral = make(tmp_path / "s.zarr", gender=[1] * COUNT)
    export(neutral, tmp_path / "neutral.npz", "spin")
    with np.load(tmp_path / "neutral.npz") as npz:
        assert "gender" not in npz  # SPIN: KeyError, so the neutral model
    made = export(make(tmp_path / "t.zarr"), tmp_path / "mixed.npz", "spin")
    assert any("for female" in note for note in made.notes)


def test_spin_boxes_are_squares_that_hold_its_factor(tmp_path: Path) -> None:
    box = np.tile([10.0, 20, 110, 55, 1], (COUNT, 1))
    box[4, 4] = 0
    made = export(make(tmp_path / "s.zarr", bbox_xywh=box), tmp_path / "o.npz", "spin")
    with np.load(tmp_path / "o.npz") as npz:
        assert_allclose(npz["center"], [[65, 47.5]] * 4)
        assert_allclose(npz["scale"], [110 / 1.1 * 1.2 / 200] * 4)
    assert made.persons == 4
    assert made.left_out["people without a box"].startswith("1:")
    assert any("squares" in note for note in made.notes)


def test_boxes_of_mpii_leave_as_spins_own_file_has_them(tmp_path: Path) -> None:
    """SPIN's datasets/preprocess/mpii.py copies centre and scale from the list train.h5."""
    listed = mpii_release.write_h5(tmp_path / "raw", mpii_release.release())
    options = {"filter": "mmhuman3d"}
    convert("mpii", tmp_path / "raw", tmp_path / "s.zarr", workers=1, pictures="none",
            options=options)  # fmt: skip
    made = export(humandata.open(tmp_path / "s.zarr"), tmp_path / "mpii_train.npz", "spin")
    with h5py.File(listed) as raw, np.load(tmp_path / "mpii_train.npz") as npz:
        whole = (raw["part"][:] > 0).all(axis=(1, 2))  # SPIN's rule
        names = [f"images/{name.decode()}" for name in raw["imgname"][whole]]
        assert npz["imgname"].tolist() == names
        assert_allclose(npz["center"], raw["center"][whole], rtol=1e-6)
        assert_allclose(npz["scale"], raw["scale"][whole], rtol=1e-6)
        # Slots of SPIN's 24 that its script fills from MPII's 16, in their order.
        assert_allclose(npz["part"][:, [0, 1, 2, 3, 4, 5, 14, 15, 12, 13, 6, 7, 8, 9, 10, 11], :2],
                        raw["part"][whole])  # fmt: skip
    assert not any("factor" in note for note in made.notes)
    again = back(tmp_path / "mpii_train.npz", "spin")
    assert again.instances["bbox_xywh"].attributes["factor"] == 1.25


def test_spins_loader_reads_the_file(tmp_path: Path) -> None:
    """What BaseDataset.__init__ of SPIN does with a file, step by step, without a pickle."""
    store = make(tmp_path / "s.zarr")
    made = export(store, tmp_path / "mine_train.npz", "spin")
    data = np.load(tmp_path / "mine_train.npz")
    assert all(isinstance(name, str) for name in data["imgname"])
    assert data["scale"].shape[0] == len(data["center"]) == COUNT
    pose, betas = data["pose"].astype(float), data["shape"].astype(float)
    assert (pose.shape, betas.shape) == ((COUNT, 72), (COUNT, 10))
    assert_array_equal(data["has_smpl"], store.instances["smpl/valid"][:])
    points = np.concatenate([data["openpose"], data["part"]], axis=1)
    assert points.shape == (COUNT, 49, 3)
    assert data["S"].shape == (COUNT, 24, 4)
    genders = [0 if str(g) == "m" else 1 for g in data["gender"]]
    assert genders == [0, 1, 0, 1, 1]
    # 3D joints before the camera stay there: the loss subtracts the hips' middle on both sides.
    assert any("subtracts the pelvis" in note for note in made.notes)


def test_a_sequence_of_3dpw_leaves_as_a_spin_file_with_its_bodies(tmp_path: Path) -> None:
    write_pw3d(tmp_path / "raw", name="walk_00", frames=4, size=(108, 192))
    convert("pw3d", tmp_path / "raw", tmp_path / "s.zarr", workers=1)
    store = humandata.open(tmp_path / "s.zarr")
    made = export(store, tmp_path / "3dpw_test.npz", "spin")
    again = back(tmp_path / "3dpw_test.npz", "spin")
    assert_same(store, again, "instances/smpl/body_pose", "instances/gender")
    # The format knows neither translation nor camera, and says so.
    assert {"instances/smpl/transl", "images/intrinsics", "images/extrinsics"} <= set(made.left_out)


def test_coco_gives_every_value_back_and_pycocotools_reads_it(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw")
    convert("coco", tmp_path / "raw", tmp_path / "s.zarr", workers=1)
    first = humandata.open(tmp_path / "s.zarr")
    folder = tmp_path / "out" / "annotations"
    folder.mkdir(parents=True)
    file = folder / "person_keypoints_train2017.json"
    made = export(first, file, "coco")
    convert("coco", tmp_path / "out", tmp_path / "t.zarr", workers=1, pictures="none")
    second = humandata.open(tmp_path / "t.zarr")
    assert_same(
        first, second, "images/height", "images/width", "instances/image", "instances/bbox_xywh",
        "instances/keypoints2d", "instances/keypoints2d_visibility", "instances/area",
        "instances/iscrowd", "instances/source_id", rtol=1e-6,
    )  # fmt: skip
    assert second.images["path"][0].endswith(first.images["path"][0])
    assert set(made.left_out) == {"pictures"}
    # COCO's evaluation joins detections by the ids of pictures.
    raw = json.loads((tmp_path / "raw/annotations/person_keypoints_train2017.json").read_text())
    ids = {image["file_name"]: image["id"] for image in raw["images"]}
    for image in json.loads(file.read_text())["images"]:
        assert image["id"] == ids[Path(image["file_name"]).name]
    assert average_precision(file) == pytest.approx(1)


def average_precision(file: Path) -> float:
    """Of the annotations themselves as detections, by pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(file))
        listed = truth.loadAnns(truth.getAnnIds())
        found = [
            {k: a[k] for k in ("image_id", "category_id", "keypoints")} | {"score": 0.9}
            for a in listed
            if not a["iscrowd"]
        ]
        run = evaluation.COCOeval(truth, truth.loadRes(found), "keypoints")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0])


def test_coco_boxes_are_tight_and_its_category_is_the_official_one(tmp_path: Path) -> None:
    box = np.tile([10.0, 20, 110, 55, 1], (COUNT, 1))
    made = export(make(tmp_path / "s.zarr", bbox_xywh=box), tmp_path / "o.json", "coco")
    document = json.loads((tmp_path / "o.json").read_text())
    assert_allclose(document["annotations"][0]["bbox"], [15, 22.5, 100, 50], atol=1e-4)
    assert document["annotations"][0]["area"] == pytest.approx(5000)
    (category,) = document["categories"]
    assert category["keypoints"][11:13] == ["left_hip", "right_hip"]
    assert [16, 14] in category["skeleton"]
    assert len(category["skeleton"]) == 19
    annotation = document["annotations"][3]
    flags = np.array(annotation["keypoints"]).reshape(17, 3)[:, 2]
    assert annotation["num_keypoints"] == (flags > 0).sum()
    assert set(flags) <= {0, 2}
    assert any("factor" in note for note in made.notes)
    assert {"instances/keypoints3d", "instances/smpl/body_pose"} <= set(made.left_out)


def test_near_joints_stand_in_only_when_asked(tmp_path: Path) -> None:
    smpl = np.ones((COUNT, 24, 3))
    store = make(tmp_path / "s.zarr", keypoints2d=None)
    with pytest.raises(DataError, match="keypoints2d: expected 2D joints"):
        export(store, tmp_path / "o.json", "coco")
    path = tmp_path / "t.zarr"
    with humandata.create(path, dataset="mine", split="train") as writer:
        writer.append(
            images={"id": np.arange(1), "path": ["a.jpg"], "height": [9], "width": [9]},
            instances={
                "id": np.arange(COUNT), "image": np.zeros(COUNT, int), "keypoints2d": smpl,
                "bbox_xywh": np.tile([0.0, 0, 9, 9, 1], (COUNT, 1)),
            },
            field_attributes={
                "keypoints2d": {"convention": "smpl"},
                "bbox_xywh": {"rule": "x", "factor": 1.0},
            },
        )  # fmt: skip
    hips = [keypoints.index("coco", side) for side in ("left_hip_extra", "right_hip_extra")]
    for approximate in (False, True):
        made = export(
            humandata.open(path), tmp_path / "o.json", "coco", approximate=approximate,
            overwrite=True,
        )  # fmt: skip
        document = json.loads((tmp_path / "o.json").read_text())
        values = np.array(document["annotations"][0]["keypoints"]).reshape(17, 3)
        assert values[hips, 2].tolist() == ([2, 2] if approximate else [0, 0])
        told = made.left_out["instances/keypoints2d"]
        assert ("left_hip" in told) is not approximate
        assert "spine_1" in told


def test_an_empty_store_makes_files_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with humandata.create(path, dataset="mine", split="train") as writer:
        writer.append(
            images={"id": np.arange(0), "path": [], "height": [], "width": []},
            instances={
                "id": np.arange(0), "image": np.zeros(0, int), "bbox_xywh": np.zeros((0, 5)),
                "keypoints2d": np.zeros((0, 17, 3)),
            },
            field_attributes={
                "keypoints2d": {"convention": "coco"},
                "bbox_xywh": {"rule": "x", "factor": 1.0},
            },
        )  # fmt: skip
    store = humandata.open(path)
    for name, dataset in (("humandata", "humandata"), ("spin", "spin")):
        export(store, tmp_path / f"{name}.npz", name)
        assert len(back(tmp_path / f"{name}.npz", dataset)) == 0
    export(store, tmp_path / "coco.json", "coco")
    assert json.loads((tmp_path / "coco.json").read_text())["annotations"] == []


def test_files_are_not_replaced_unasked_nor_left_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "s.zarr")
    export(store, tmp_path / "o.npz", "spin")
    with pytest.raises(DataError, match="--overwrite"):
        export(store, tmp_path / "o.npz", "spin")
    with pytest.raises(HumandataError, match=r"ends in \.json"):
        export(store, tmp_path / "o.npz", "coco", overwrite=True)
    with pytest.raises(HumandataError, match="choose among humandata, spin, coco"):
        export(store, tmp_path / "o.npz", "vibe")
    before = (tmp_path / "o.npz").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "o.npz")

    monkeypatch.setattr("humandata.npz_writing.write_npz", full)
    with pytest.raises(HumandataError, match="No space left"):
        export(store, tmp_path / "o.npz", "humandata", overwrite=True)
    assert (tmp_path / "o.npz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []

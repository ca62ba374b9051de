"""An AGORA release in its true form, from known ground truth.

Tables are pandas frames pickled by the pandas that is installed; SMPL fits are dictionaries of
torch parameters that claim to lie on a GPU, SMPL-X fits dictionaries of arrays. Bodies are posed in
their scan's frame and carried into the pictures point by point, as the release's own code does it,
so nothing here shares a formula with the converter.
"""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from humandata import bodymodel, keypoints

# Name -> (focal mm, camera in Unreal cm, yaw, pitch): the cameras that a picture's name stands for.
CAMERAS = {
    "ag_trainset_3dpeople_bfh_hdri_50mm_5_10_00001.png": (50, (0, 0, 170), 0, 0),
    "ag_trainset_renderpeople_bfh_archviz_5_10_cam00_00002.png": (18, (400, -275, 265), 135, 30),
    "ag_trainset_renderpeople_bfh_archviz_5_10_cam01_00003.png": (18, (400, 225, 265), -135, 30),
    "ag_trainset_renderpeople_bfh_archviz_5_10_cam02_00004.png": (18, (-490, 170, 265), -45, 30),
    "ag_trainset_renderpeople_bfh_archviz_5_10_cam03_00005.png": (18, (-490, -275, 265), 45, 30),
    "ag2_trainset_axyz_bfh_brushify_5_15_00006.png": (28, (0, 0, 170), 0, 15),
    "ag_trainset_humanalloy_bfh_construction_5_10_00007.png": (28, (310, -145, 12), 70, 0),
}
MEANINGLESS = (99999.0, -99999.0, 5.0, 12.0)
"""camX, camY, camZ, camYaw of pictures whose name tells their camera."""
SCANS = (
    ("trainset_3dpeople_adults_bfh/10004_w_Amaya_0_0", "female", False, "31-50", "asian"),
    ("trainset_renderpeople_adults_body/rp_alan_posed_001_0_0", "male", False, "18-30", "african"),
    ("trainset_renderpeople_kids_bfh/rp_ava_posed_002_0_0", "female", True, "3-12", "caucasian"),
    ("trainset_renderpeople_kids_bfh/rp_ben_posed_003_0_0", "male", True, "3-12", "asian"),
    ("trainset_axyz_adults_bfh/axyz_0_0", "male", False, "50+", "caucasian"),
)
"""Fit, gender, child, age, ethnicity; the last adult's fit carries an eleventh beta as well."""
ELEVEN_BETAS = (2, 3, 4)


@dataclass
class Scan:
    """One fit in its own frame, and the body that it makes."""

    path: str
    gender: str
    kid: bool
    age: str
    ethnicity: str
    fit: dict[str, np.ndarray]  # flat, float64
    rest_pelvis: np.ndarray
    joints: np.ndarray  # (K, 3), scan's frame
    vertices: np.ndarray


@dataclass
class Person:
    """Ground truth of one person in one picture, camera frame, metres and 4K pixels."""

    scan: Scan
    yaw: float
    place: np.ndarray  # Unreal, cm
    joints: np.ndarray
    vertices: np.ndarray
    pixels: np.ndarray
    occlusion: float

    @property
    def valid(self) -> bool:
        return self.occlusion <= 90


@dataclass
class Truth:
    """Ground truth of a table."""

    body: str
    names: list[str]
    people: list[list[Person]]
    intrinsics: list[np.ndarray]  # 4K
    world_to_camera: list[Any]  # functions of OpenCV world points, metres
    frame: Any = None
    table: Path = field(default_factory=Path)


# Bodies ----------------------------------------------------------------------------------------


def kid_template() -> np.ndarray:
    """A child's template: smaller, larger in the head, standing elsewhere than the adult's."""
    template = np.asarray(bodymodel.standin("neutral").v_template, np.float64)
    scale = 0.55 + 0.25 * (template[:, 1:2] > 0.25)
    moved: np.ndarray = template * scale + [0.3, 1.05, 0.2]
    return moved


@functools.lru_cache(64)
def kid_model(weight: float) -> Any:
    """The stand-in between the adult's template (0) and the child's around its mean (1)."""
    model = bodymodel.standin("neutral")
    adult, child = np.asarray(model.v_template, np.float64), kid_template()
    return replace(model, v_template=adult + weight * (child - child.mean(axis=0) - adult))


def pose_smpl(
    orient: np.ndarray,
    body_pose: np.ndarray,
    betas: np.ndarray,
    transl: np.ndarray,
    kid_weight: float = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, 45 joints and rest pelvis of the stand-in."""
    model = kid_model(kid_weight)
    vertices, joints = bodymodel.forward(
        model, orient[None], body_pose.reshape(1, 23, 3), betas[None], transl[None]
    )
    rest = bodymodel.rest_pelvis(model, betas[None])
    return vertices[0], bodymodel.joints_smpl45(vertices, joints)[0], np.asarray(rest[0])


def pose_smplx(
    orient: np.ndarray, pose: np.ndarray, rest: np.ndarray, transl: np.ndarray
) -> np.ndarray:
    """127 points of a stick figure with SMPL-X's tree: 55 joints, and 72 that move with some.

    ``pose`` (54, 3) turns the joints but the root; ``rest`` (127, 3) is the rest body.
    """
    parents = keypoints.kinematic_tree("smplx")[1]
    turns = Rotation.from_rotvec(np.vstack([orient[None], pose])).as_matrix()
    where, points = [turns[0]], [rest[0]]
    for joint in range(1, 55):
        parent = parents[joint]
        where.append(where[parent] @ turns[joint])
        points.append(points[parent] + where[parent] @ (rest[joint] - rest[parent]))
    for point in range(55, 127):
        points.append(points[point % 55] + where[point % 55] @ (rest[point] - rest[point % 55]))
    return np.array(points) + transl


def smplx_rest(betas: np.ndarray, kid_weight: float) -> np.ndarray:
    """Rest body of the stick figure: hips and spine like a person's, the rest anywhere."""
    rng = np.random.default_rng(7)
    rest = rng.uniform(-0.5, 0.5, (127, 3))
    rest[:4] = [[0.003, -0.351, 0.012], [0.061, -0.444, -0.014], [-0.06, -0.455, -0.009],
                [0.0, -0.24, -0.02]]  # fmt: skip
    rest *= 1 + 0.02 * betas[0] + 0.01 * betas[1]
    return np.asarray(rest * (1 - 0.45 * kid_weight))


@functools.cache
def make_scan(body: str, number: int, seed: int) -> Scan:
    rng = np.random.default_rng([seed, number])
    path, gender, kid, age, ethnicity = SCANS[number]
    betas = rng.normal(size=11 if number in ELEVEN_BETAS else 10)
    if betas.size == 11:
        betas[10] = rng.uniform(0.3, 1)
    weight = betas[10] if kid else 0
    # An upright person facing the scanner, not quite straight: no half turn leaves it as it is.
    orient = Rotation.from_euler("yxz", rng.uniform([-2, -0.3, -0.3], [2, 0.3, 0.3])).as_rotvec()
    transl = rng.uniform([-0.3, 0.8, -0.3], [0.3, 1.2, 0.3])
    if body == "smpl":
        fit = {
            "root_pose": orient,
            "body_pose": rng.normal(scale=0.25, size=69),
            "betas": betas,
            "translation": transl,
        }
        vertices, joints, rest = pose_smpl(orient, fit["body_pose"], betas[:10], transl, weight)
        return Scan(path, gender, kid, age, ethnicity, fit, rest, joints, vertices)
    sizes = {"body_pose": 63, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3,
             "left_hand_pose": 45, "right_hand_pose": 45}  # fmt: skip
    poses = {name: rng.normal(scale=0.2, size=size) for name, size in sizes.items()}
    rest_body = smplx_rest(betas, weight)
    joints = pose_smplx(
        orient, np.concatenate(list(poses.values())).reshape(54, 3), rest_body, transl
    )
    fit = {"global_orient": orient, "betas": betas, "transl": transl,
           "expression": rng.normal(size=10), **poses}  # fmt: skip
    vertices = np.repeat(joints, 83, axis=0)[:10475]
    return Scan(path, gender, kid, age, ethnicity, fit, rest_body[0], joints, vertices)


def fit_shapes(body: str, scan: Scan) -> dict[str, np.ndarray]:
    """The fit as in the files: a leading axis of one, or two, and single precision."""
    shapes = {"global_orient": (1, 1, 3), "body_pose": (1, 21, 3)}
    if scan.path.startswith("trainset_3dpeople"):  # some fits are flat
        shapes = {}
    if body == "smpl":
        shapes = {"root_pose": (1, 1, 3), "body_pose": (1, 23, 3)}
    return {
        name: values.astype(np.float32).reshape(shapes.get(name, (1, -1)))
        for name, values in scan.fit.items()
    }


# The way into the picture ----------------------------------------------------------------------


def turn(axis: int, degrees: float) -> np.ndarray:
    vector = np.zeros(3)
    vector[axis] = np.deg2rad(degrees)
    return np.asarray(cv2.Rodrigues(vector)[0])


def opencv_axes(place: Any) -> np.ndarray:
    x, y, z = place
    return np.array([y, -z, x]) / 100


def into_world(points: np.ndarray, yaw: float, place: Any) -> np.ndarray:
    return (turn(1, yaw - 90) @ (points * [1, -1, -1]).T).T + opencv_axes(place)


def camera_function(name: str) -> Any:
    _, position, yaw, pitch = CAMERAS[name]
    centre = opencv_axes(position)
    if "construction" in name:
        centre = centre + np.array([0, -1.7, 0])
    return lambda points: (turn(0, pitch) @ turn(1, -yaw) @ (points - centre).T).T


def camera_matrix(name: str, width: int = 3840) -> np.ndarray:
    height = width * 9 / 16
    focal = CAMERAS[name][0]
    return np.array(
        [[focal / 36 * width, 0, width / 2], [0, focal / 20.25 * height, height / 2], [0, 0, 1]]
    )


def place_before(name: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """A place on the ground that the camera sees, Unreal, cm."""
    _, position, yaw, _ = CAMERAS[name]
    angle = np.deg2rad(yaw + rng.uniform(-12, 12))
    away = rng.uniform(500, 800)
    ground = 12.0 if "construction" in name else 0.0
    return (
        position[0] + away * np.cos(angle),
        position[1] + away * np.sin(angle),
        ground,
    )


def write_agora(
    root: Path,
    body: str = "smpl",
    split: str = "train",
    number: int = 0,
    names: Any = None,
    seed: int = 0,
    protocol: int = 4,
    pictures: tuple[int, int] | None = None,
    folder: str | None = None,
    picture_folder: str | None = None,
    fits: bool = True,
    change: Any = None,
) -> Truth:
    """Write one table with its fits and pictures.

    ``change(truth, columns)`` may spoil the columns before they become a frame.
    """
    rng = np.random.default_rng(seed)
    names = list(CAMERAS if names is None else names)
    scans = [make_scan(body, i, seed) for i in range(len(SCANS))]
    truth = Truth(body, names, [], [], [])
    for picture, name in enumerate(names):
        see, matrix = camera_function(name), camera_matrix(name)
        people = []
        for i in range(3):
            scan = scans[(2 * picture + i) % len(scans)]
            yaw, place = float(rng.uniform(-180, 180)), place_before(name, rng)
            joints, vertices = (
                see(into_world(points, yaw, place)) for points in (scan.joints, scan.vertices)
            )
            pixels = (joints / joints[:, 2:]) @ matrix.T
            # The third person of every other picture is hidden too well.
            occlusion = 95.0 if (picture % 2 == 0 and i == 2) else float(rng.uniform(0, 60))
            people.append(
                Person(scan, yaw, np.array(place), joints, vertices, pixels[:, :2], occlusion)
            )
        truth.people.append(people)
        truth.intrinsics.append(matrix)
        truth.world_to_camera.append(see)
    columns = table_columns(truth)
    if change is not None:
        change(truth, columns)
    truth.frame = pd.DataFrame(columns)
    place_ = root / (folder or {"smpl": "SMPL", "smplx": "SMPLX"}[body])
    place_.mkdir(parents=True, exist_ok=True)
    truth.table = place_ / f"{split}_{number}_withjv.pkl"
    truth.frame.to_pickle(truth.table, protocol=protocol)
    if fits:
        write_fits(root, body, scans)
    if pictures is not None:
        write_pictures(root / (picture_folder or f"images/{split}"), names, pictures)
    return truth


def table_columns(truth: Truth) -> dict[str, list[Any]]:
    def each(get: Any) -> list[list[Any]]:
        return [[get(person) for person in people] for people in truth.people]

    cameras = [
        (*CAMERAS[name][1], CAMERAS[name][2]) if "construction" in name else MEANINGLESS
        for name in truth.names
    ]
    columns: dict[str, list[Any]] = {
        "imgPath": list(truth.names),
        "X": each(lambda p: float(p.place[0])),
        "Y": each(lambda p: float(p.place[1])),
        "Z": each(lambda p: float(p.place[2])),
        "Yaw": each(lambda p: p.yaw),
        **{
            name: [float(camera[i]) for camera in cameras]
            for i, name in enumerate(("camX", "camY", "camZ", "camYaw"))
        },
        "gender": each(lambda p: p.scan.gender),
        "kid": each(lambda p: p.scan.kid),
        "occlusion": each(lambda p: p.occlusion),
        "isValid": each(lambda p: p.valid),
        "age": each(lambda p: p.scan.age),
        "ethnicity": each(lambda p: p.scan.ethnicity),
        "gt_path_smpl": each(lambda p: f"smpl_gt/{p.scan.path}.obj"),
        "gt_path_smplx": each(lambda p: f"smplx_gt/{p.scan.path}.obj"),
        "gt_joints_2d": each(lambda p: p.pixels),
        "gt_joints_3d": each(lambda p: p.joints),
        "gt_verts": each(lambda p: p.vertices.astype(np.float32)),
    }
    return columns


def write_fits(root: Path, body: str, scans: list[Scan]) -> None:
    for scan in scans:
        file = root / {"smpl": "smpl_gt", "smplx": "smplx_gt"}[body] / f"{scan.path}.pkl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".obj").write_text("# a mesh\n")
        content: dict[str, Any] = fit_shapes(body, scan)
        if body == "smplx":
            file.write_bytes(pickle.dumps(content))
            continue
        import torch

        # What torch writes for a tensor on a GPU differs in this word only.
        with mock.patch.object(torch.serialization, "location_tag", return_value="cuda:0"):
            tensors = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in content.items()}
            file.write_bytes(pickle.dumps(tensors))


def write_pictures(folder: Path, names: list[str], size: tuple[int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ending = "_1280x720" if size == (1280, 720) else ""
    _, encoded = cv2.imencode(".png", np.full((size[1], size[0]), 90, np.uint8))
    for name in names:
        (folder / f"{Path(name).stem}{ending}.png").write_bytes(encoded.tobytes())

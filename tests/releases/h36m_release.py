"""A Human3.6M release in its true form, from known ground truth: CDF, XML, MATLAB 7.3, MP4.

People are random stick figures around the origin of a world whose z points up; cameras stand on a
ring. The lens model here is written from its definition, apart from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cdflib.cdfwrite
import cv2
import h5py
import numpy as np
import py2pickle
from scipy.spatial.transform import Rotation

CAMERAS = ("54138969", "55011271", "58860488", "60457274")
SUBJECTS = [f"S{number}" for number in range(1, 12)]
ACTIONS = [
    "Miscellaneous", "Directions", "Discussion", "Eating", "Greeting", "Phoning", "Posing",
    "Purchases", "Sitting", "SittingDown", "Smoking", "TakingPhoto", "Waiting", "Walking",
    "WalkingDog", "WalkingTogether",
]  # fmt: skip
TALL = {"S4", "S7", "S10"}
"""Subjects whose pictures are 1002 high in all four cameras."""
PICKED = [11, 6, 7, 8, 1, 2, 3, 12, 24, 14, 15, 17, 18, 19, 25, 26, 27]
TWINS = {16: 13, 24: 13, 20: 19, 23: 22, 28: 27, 31: 30}
"""Raw joints that lie where another one does."""
LENS = np.array([1145.0, 1143.8, 512.5, 515.5, -0.207, 0.248, -0.003, -0.0014, -0.00098])
"""fx, fy, cx, cy, k1, k2, k3, p1, p2."""


@dataclass
class Recording:
    """Ground truth of one camera's view of a sequence."""

    camera: np.ndarray  # (N, 32, 3) metres, camera frame
    pixels: np.ndarray  # (N, 32, 2)
    extrinsics: np.ndarray  # (4, 4) metres
    intrinsics: np.ndarray  # (3, 3)
    distortion: np.ndarray  # k1, k2, p1, p2, k3
    width: int
    height: int


@dataclass
class H36mTruth:
    """Recordings by subject, prefix and camera; bodies of MoSh by the same."""

    recordings: dict[tuple[str, str, str], Recording] = field(default_factory=dict)
    roots: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)
    poses: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)


@dataclass
class Rig:
    """Angles (rad), centres (mm) and matrices of 4 cameras x 11 subjects."""

    angles: np.ndarray
    centres: np.ndarray
    rotations: np.ndarray

    def numbers(self) -> list[float]:
        outer = np.concatenate([self.angles, self.centres], axis=2).ravel()
        lenses = [LENS + 0.01 * camera for camera in range(4)]
        return [*outer.tolist(), *np.concatenate(lenses).tolist()]


def make_rig() -> Rig:
    rotations = np.empty((4, 11, 3, 3))
    centres = np.empty((4, 11, 3))
    for camera in range(4):
        for subject in range(11):
            around = 0.4 + camera * np.pi / 2 + 0.02 * subject
            centre = np.array([5.2 * np.cos(around), 5.2 * np.sin(around), 1.5 + 0.01 * subject])
            forward = np.array([0, 0, 0.9]) - centre
            forward /= np.linalg.norm(forward)
            right = np.cross(forward, [0, 0, 1.0])
            right /= np.linalg.norm(right)
            rotations[camera, subject] = np.stack([right, np.cross(forward, right), forward])
            centres[camera, subject] = 1000 * centre
    # 'XYZ' is intrinsic: Rx(a) Ry(b) Rz(c).
    angles = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_euler("XYZ").reshape(4, 11, 3)
    return Rig(angles, centres, rotations)


def devkit_project(points: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """The lens model of the release, term by term."""
    fx, fy, cx, cy, k1, k2, k3, p1, p2 = lens
    x, y = points[..., 0] / points[..., 2], points[..., 1] / points[..., 2]
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    tangential = p1 * y + p2 * x
    u = fx * (x * (radial + tangential) + p2 * r2) + cx
    v = fy * (y * (radial + tangential) + p1 * r2) + cy
    return np.stack([u, v], axis=-1)


def stick_figure(rng: np.random.Generator, frames: int) -> np.ndarray:
    """World joints (N, 32, 3) in metres: a rigid figure that turns and walks, with duplicates."""
    rest = rng.uniform(-0.35, 0.35, (32, 3))
    rest[0] = 0
    around = (rng.uniform(0, 6) + 0.1 * np.arange(frames))[:, None] * [0, 0, 1.0]
    turn = Rotation.from_rotvec(around).as_matrix()
    walk = np.array([0, 0, 0.9]) + np.cumsum(rng.normal(scale=0.02, size=(frames, 3)), axis=0)
    joints = np.einsum("nij,kj->nki", turn, rest) + walk[:, None]
    for twin, original in TWINS.items():
        joints[:, twin] = joints[:, original]
    joints[:, 11] = joints[:, 0] + 1e-4
    return joints


def write_cdf(file: Path, values: np.ndarray) -> None:
    """One variable Pose, float32, (1, N, joints x axes): as the release has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    flat = values.reshape(1, len(values), -1).astype(np.float32)
    writer = cdflib.cdfwrite.CDF(str(file))
    spec = {
        "Variable": "Pose",
        "Data_Type": 44,  # CDF_FLOAT
        "Num_Elements": 1,
        "Rec_Vary": True,
        "Dim_Sizes": list(flat.shape[1:]),
    }
    writer.write_var(spec, var_data=flat)
    writer.close()


def write_video(file: Path, frames: int, size: tuple[int, int], fourcc: str = "mp4v") -> None:
    """Flat grey frames; `grey_of(n)` is the level of frame n."""
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*fourcc), 50, size)
    assert writer.isOpened()
    for frame in range(frames):
        writer.write(np.full((size[1], size[0], 3), grey_of(frame), np.uint8))
    writer.release()


def grey_of(frame: int) -> int:
    """Level by which a frame of `write_video` is known."""
    return 20 + 10 * frame


def write_masks(file: Path, masks: list[np.ndarray]) -> None:
    """MATLAB 7.3: references to uint8 arrays that lie transposed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w", userblock_size=512) as content:
        group = content.create_group("#refs#")
        references = content.create_dataset("Masks", (len(masks), 1), dtype=h5py.ref_dtype)
        for number, mask in enumerate(masks):
            stored = group.create_dataset(f"m{number}", data=mask.T.astype(np.uint8))
            references[number, 0] = stored.ref
    with open(file, "r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def write_metadata(
    root: Path,
    takes: dict[str, list[tuple[int, int, str]]],
    frames: int,
    rig: Rig,
    change: Callable[[str], str] | None = None,
) -> None:
    """metadata.xml with 35 rows of mapping, the _ALL rows and the odd last ones included."""
    prefixes = {
        (subject, action, subaction): prefix
        for subject, listed in takes.items()
        for action, subaction, prefix in listed
    }
    rows = [["Action", "subaction", *SUBJECTS]]
    counts: list[list[str]] = [[""] for _ in SUBJECTS]
    for action in range(1, 17):
        for subaction in (1, 2):
            row = [str(action), str(subaction)]
            for column, subject in enumerate(SUBJECTS):
                prefix = prefixes.get((subject, action, subaction), "")
                if action == 1:
                    prefix = "_ALL" if subaction == 1 else "_ALL 1"
                row.append(prefix)
                video = frames + 3
                counts[column].append(f"[{video} {video} {video} {video} {4 * frames + 2}]")
            rows.append(row)
    rows.append(["", "", *(f"actor {number}" for number in range(11))])
    sizes = [
        "[1002 1000;1002 1000;1002 1000;1002 1000]" if subject in TALL
        else "[1002 1000;1000 1000;1000 1000;1002 1000]" for subject in SUBJECTS
    ]  # fmt: skip
    rows.append(["", "", *sizes])

    def table(cells: list[list[str]]) -> str:
        return "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells
        )

    ids = "".join(f"<item>{camera}</item>" for camera in CAMERAS)
    names = "".join(f"<item>{name}</item>" for name in ACTIONS)
    numbers = " ".join(repr(number) for number in rig.numbers())
    text = (
        '<?xml version="1.0" encoding="utf-8"?><a>'
        f"<mapping>{table(rows)}</mapping><toffiles/><frames>{table(counts)}</frames>"
        "<train_subjects>[1 7 8 9 11]</train_subjects>"
        f"<w0>[{numbers}]</w0><dbcameras><index2id>{ids}</index2id></dbcameras>"
        f"<actionnames>{names}</actionnames></a>"
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / "metadata.xml").write_text(text if change is None else change(text))


DIRECTIONS = [(2, 1, "Directions 1")]


def write_h36m(
    root: Path,
    takes: dict[str, list[tuple[int, int, str]]] | None = None,
    frames: int = 11,
    seed: int = 0,
    mono: bool = True,
    world: bool = False,
    videos: bool = False,
    masks: bool = False,
    mosh: bool = False,
    cameras: tuple[str, ...] = CAMERAS,
    change: Callable[[str], str] | None = None,
    change_pose: Callable[[str, np.ndarray], np.ndarray] | None = None,
) -> H36mTruth:
    """Write subjects' sequences as all cameras saw them.

    ``change(text)`` may spoil metadata.xml; ``change_pose(kind, values)`` what a CDF file holds,
    ``kind`` being mono, world or pixels.
    """
    takes = {"S1": DIRECTIONS, "S9": [(2, 1, "Directions 1")]} if takes is None else takes
    rng = np.random.default_rng(seed)
    rig, truth = make_rig(), H36mTruth()
    write_metadata(root, takes, frames, rig, change)
    spoil = change_pose or (lambda kind, values: values)
    for subject, listed in takes.items():
        column = SUBJECTS.index(subject)
        features = root / subject / "MyPoseFeatures"
        for _, _, prefix in listed:
            joints = stick_figure(rng, frames)
            if world:
                values = spoil("world", 1000 * joints)
                write_cdf(features / "D3_Positions" / f"{prefix}.cdf", values)
            for number, camera in enumerate(CAMERAS):
                if camera not in cameras:
                    continue
                rotation = rig.rotations[number, column]
                centre = rig.centres[number, column] / 1000
                lens = LENS + 0.01 * number
                seen = (joints - centre) @ rotation.T
                pixels = devkit_project(seen, lens)
                extrinsics = np.eye(4)
                extrinsics[:3, :3], extrinsics[:3, 3] = rotation, -rotation @ centre
                tall = subject in TALL or number in (0, 3)
                width, height = 1000, 1002 if tall else 1000
                fx, fy, cx, cy, k1, k2, k3, p1, p2 = lens
                key = (subject, prefix, camera)
                truth.recordings[key] = Recording(
                    seen, pixels, extrinsics, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
                    np.array([k1, k2, p1, p2, k3]), width, height,
                )  # fmt: skip
                stem = f"{prefix}.{camera}"
                if mono:
                    values = spoil("mono", 1000 * seen)
                    write_cdf(features / "D3_Positions_mono" / f"{stem}.cdf", values)
                flat = spoil("pixels", pixels)
                write_cdf(features / "D2_Positions" / f"{stem}.cdf", flat)
                if videos:
                    film = root / subject / "Videos" / f"{stem}.mp4"
                    write_video(film, frames + 3, (width, height))
                if masks:
                    _masks(root / subject / "MySegmentsMat", stem, frames, (width, height))
                if mosh:
                    _mosh(root, truth, key, number, rng)
        everything = features / "D3_Positions_mono" / f"_ALL.{CAMERAS[0]}.cdf"
        write_cdf(everything, np.zeros((3, 96)))
    return truth


def _masks(folder: Path, stem: str, frames: int, size: tuple[int, int]) -> None:
    """Rectangles, and silhouettes that are smaller; the mask of pose 5 is empty."""
    rectangles, silhouettes = [], []
    for frame in range(frames):
        rectangle, silhouette = np.zeros((2, size[1], size[0]), np.uint8)
        if frame != 5:
            rectangle[300:700, 400 + frame : 600 + frame] = 1
            silhouette[320:690, 410 + frame : 580 + frame] = 1
            silhouette[320, 410 + frame] = 0
        rectangles.append(rectangle)
        silhouettes.append(silhouette)
    write_masks(folder / "ground_truth_bb" / f"{stem}.mat", rectangles)
    write_masks(folder / "ground_truth_bs" / f"{stem}.mat", silhouettes)


def _mosh(root: Path, truth: H36mTruth, key: tuple[str, str, str], number: int, rng: Any) -> None:
    """The pickle of a recording: every fifth pose, the root turned by pi about the body's x."""
    subject, prefix, _ = key
    count = -(-len(truth.recordings[key].pixels) // 5)
    poses = rng.normal(scale=0.3, size=(count, 72))
    upright = Rotation.from_rotvec(rng.normal(size=(count, 3)))
    poses[:, :3] = (upright * Rotation.from_euler("x", np.pi)).as_rotvec()
    truth.roots[key], truth.poses[key] = upright.as_matrix(), poses
    folder = root / "h36m_mosh" / subject
    folder.mkdir(parents=True, exist_ok=True)
    content = {"new_poses": poses, "betas": np.linspace(-1, 1, 10)}
    (folder / f"{prefix}_cam{number}_aligned.pkl").write_bytes(py2pickle.dumps(content))

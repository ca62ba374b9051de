"""MPI-INF-3DHP in its true form, from known ground truth: MATLAB 5, MATLAB 7.3, text, AVI, npz."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import scipy.io

CAMERAS = 14
USED = (0, 1, 2, 4, 5, 6, 7, 8)
FOCAL, CENTRE = (1497.7, 1497.1), (1024.7, 1051.4)
OUTDOOR = ((1683.48, 1671.93), (939.93, 560.21))
HIPS_AND_SPINE = {28: (3, 18, 23), 17: (8, 11, 15)}
PELVIS = {28: 4, 17: 14}
UNIVERSAL = 0.93
LEFT, RIGHT = [8, 9, 10, 11, 12, 18, 19, 20, 21, 22], [13, 14, 15, 16, 17, 23, 24, 25, 26, 27]

Change = Callable[[dict[str, Any]], None]


@dataclass
class View:
    """Ground truth of one camera: metres in its frame, and pixels as annotated."""

    joints: np.ndarray  # (N, K, 3)
    universal: np.ndarray  # (N, K, 3)
    pixels: np.ndarray  # (N, K, 2)
    intrinsics: np.ndarray
    extrinsics: np.ndarray


def intrinsics_of(camera: int) -> np.ndarray:
    focal, centre = np.add(FOCAL, camera), np.add(CENTRE, 2 * camera)
    return np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]])


def extrinsics_of(camera: int) -> np.ndarray:
    """World to camera, metres; the world's y points up."""
    around = 0.3 + camera * 2 * np.pi / CAMERAS
    centre = np.array([4 * np.sin(around), 1.4, 4 * np.cos(around)])
    forward = np.array([0, 0.9, 0]) - centre
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 1.0, 0])
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    matrix[:3, 3] = -matrix[:3, :3] @ centre
    return matrix


def figure(rng: np.random.Generator, frames: int, joints: int) -> np.ndarray:
    """World joints (N, K, 3), metres: a rigid figure on a slow walk."""
    rest = rng.uniform(-0.4, 0.4, (joints, 3))
    rest[PELVIS[joints]] = 0
    steps = np.cumsum(rng.normal(scale=0.003, size=(frames, 3)), axis=0)
    return rest + (np.array([0, 0.9, 0]) + steps)[:, None]


def seen(world: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray) -> View:
    """What a camera sees; hips and spine are one pixel off, as in the release."""
    count = world.shape[1]
    joints = world @ extrinsics[:3, :3].T + extrinsics[:3, 3]
    pixels = (joints / joints[..., 2:]) @ intrinsics.T
    pixels[:, HIPS_AND_SPINE[count], 0] += 1
    root = joints[:, PELVIS[count], None]
    return View(joints, root + UNIVERSAL * (joints - root), pixels[..., :2], intrinsics, extrinsics)


def write_calibration(file: Path, cameras: list[int] | None = None) -> None:
    """The text of Skeletool, with the trailing blanks of the real one."""
    lines = ["Skeletool Camera Calibration File V1.0"]
    for camera in range(CAMERAS) if cameras is None else cameras:
        inner = np.eye(4)
        inner[:3, :3] = intrinsics_of(camera)
        outer = extrinsics_of(camera)
        outer[:3, 3] *= 1000
        lines += [
            f"name          {camera}",
            "  sensor      10 10",
            "  size        2048 2048",
            "  animated    0",
            "  intrinsic   " + " ".join(repr(float(v)) for v in inner.ravel()) + " ",
            "  extrinsic   " + " ".join(repr(float(v)) for v in outer.ravel()) + " ",
            "  radial      0",
        ]
    file.write_text("\n".join(lines) + "\n")


def write_train(
    root: Path,
    subject: str = "S1",
    sequence: str = "Seq1",
    frames: int = 12,
    seed: int = 0,
    outside: int | None = None,
    exchanged: tuple[int, int] | None = None,
    videos: dict[int, int] | None = None,
    change: Change | None = None,
) -> dict[int, View]:
    """Write one sequence; ground truth by camera.

    ``outside``: a frame whose joint 27 (a toe) lies out of all pictures. ``exchanged``: first and
    last row whose sides are exchanged in the files, not in the truth. ``videos``: frames of the
    video by camera. ``change(variables)`` may spoil annot.mat.
    """
    rng = np.random.default_rng(seed)
    world = figure(rng, frames, 28)
    folder = root / subject / sequence
    folder.mkdir(parents=True, exist_ok=True)
    views: dict[int, View] = {}
    cells: dict[str, np.ndarray] = {
        name: np.empty((CAMERAS, 1), object) for name in ("annot2", "annot3", "univ_annot3")
    }
    for camera in range(CAMERAS):
        view = seen(world, intrinsics_of(camera), extrinsics_of(camera))
        if outside is not None:
            view.joints[outside, 27, 1] += 8
            view.pixels[outside, 27] = (
                view.joints[outside, 27] / view.joints[outside, 27, 2] @ view.intrinsics.T
            )[:2]
        views[camera] = view
        arrays = {"annot2": view.pixels, "annot3": 1000 * view.joints}
        arrays["univ_annot3"] = 1000 * view.universal
        for name, values in arrays.items():
            written = values.copy()
            if exchanged is not None:
                rows = slice(exchanged[0], exchanged[1] + 1)
                written[rows, LEFT], written[rows, RIGHT] = values[rows, RIGHT], values[rows, LEFT]
            cells[name][camera, 0] = written.reshape(frames, -1)
    variables: dict[str, Any] = {
        **cells,
        "cameras": np.arange(CAMERAS, dtype=np.uint8)[None],
        "frames": np.arange(frames, dtype=np.uint16)[:, None],
    }
    if change is not None:
        change(variables)
    scipy.io.savemat(folder / "annot.mat", variables)
    write_calibration(folder / "camera.calibration")
    for camera, count in (videos or {}).items():
        write_video(folder / "imageSequence" / f"video_{camera}.avi", count)
    return views


def write_video(file: Path, frames: int) -> None:
    """Flat grey frames of the true size; `grey_of(n)` is the level of frame n."""
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"XVID"), 25, (2048, 2048))
    assert writer.isOpened()
    for frame in range(frames):
        writer.write(np.full((2048, 2048, 3), grey_of(frame), np.uint8))
    writer.release()


def grey_of(frame: int) -> int:
    """Level by which a frame of `write_video` is known."""
    return 20 + 9 * frame


def picture(size: tuple[int, int] = (2048, 2048), grey: int = 128) -> bytes:
    """A flat JPEG."""
    return cv2.imencode(".jpg", np.full((size[1], size[0]), grey, np.uint8))[1].tobytes()


def write_mat73(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """MATLAB 7.3: HDF5 behind a block of 512 bytes; axes backwards, as MATLAB's HDF5 has them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w", userblock_size=512) as content:
        for name, values in arrays.items():
            stored = content.create_dataset(name, data=np.asarray(values, np.float64))
            stored.attrs["MATLAB_class"] = np.bytes_("double")
    with open(file, "r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def write_test(
    root: Path,
    scene: str = "TS1",
    frames: int = 8,
    invalid: tuple[int, ...] = (1, 4),
    folder: str = "mpi_inf_3dhp_test_set",
    pictures: bool = False,
    seed: int = 1,
    low_joint: int | None = None,
    older: bool = False,
    change: Change | None = None,
) -> View:
    """Write one scene. ``low_joint``: a frame in which joint 10 lies at y = 1500."""
    rng = np.random.default_rng(seed)
    outdoors = scene in ("TS5", "TS6")
    focal, centre = OUTDOOR if outdoors else (FOCAL, CENTRE)
    intrinsics = np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]])
    view = seen(figure(rng, frames, 17), intrinsics, extrinsics_of(3))
    if low_joint is not None:
        x, _, z = view.joints[low_joint, 10]
        view.joints[low_joint, 10] = (x, (1500 - centre[1]) * z / focal[1], z)
        view.pixels[low_joint, 10, 1] = 1500
    valid = np.ones((frames, 1))
    valid[list(invalid)] = 0
    arrays: dict[str, Any] = {
        "annot2": view.pixels[:, None],
        "annot3": 1000 * view.joints[:, None],
        "univ_annot3": 1000 * view.universal[:, None],
        "valid_frame": valid,
        "activity_annotation": 1 + np.arange(frames)[:, None] % 7,
    }
    if change is not None:
        change(arrays)
    place = root / folder / scene
    place.mkdir(parents=True, exist_ok=True)
    if older:
        scipy.io.savemat(place / "annot_data.mat", {k: np.asarray(v).T for k, v in arrays.items()})
    else:
        write_mat73(place / "annot_data.mat", arrays)
    if pictures:
        (place / "imageSequence").mkdir(exist_ok=True)
        data = picture((1920, 1080) if outdoors else (2048, 2048))
        # Some scenes have more pictures than rows.
        for frame in range(frames + 1):
            (place / "imageSequence" / f"img_{frame + 1:06d}.jpg").write_bytes(data)
    return view


def write_spin(root: Path, frames: int = 3, change: Change | None = None) -> dict[str, np.ndarray]:
    """``mpi_inf_3dhp_train.npz`` of two videos; every third row has no body."""
    rng = np.random.default_rng(5)
    names = [
        f"S{subject}/Seq1/imageFrames/video_{camera}/frame_{10 * frame + 1:06d}.jpg"
        for subject, camera in ((1, 0), (2, 8))
        for frame in range(frames)
    ]
    rows = len(names)
    part, openpose = rng.uniform(100, 1900, (2, rows, 25, 3))
    part, joints = part[:, :24], rng.uniform(-1, 1, (rows, 24, 4))
    part[..., 2] = joints[..., 3] = np.arange(24) % 8 > 0
    openpose[..., 2] = rng.uniform(0.1, 1, (rows, 25))
    data: dict[str, Any] = {
        "imgname": np.array(names),
        "center": rng.uniform(900, 1100, (rows, 2)),
        "scale": rng.uniform(2, 5, rows),
        "part": part,
        "S": joints,
        "openpose": openpose,
        "pose": rng.normal(scale=0.4, size=(rows, 72)),
        "shape": rng.normal(size=(rows, 10)),
        "has_smpl": (np.arange(rows) % 3 > 0).astype(np.uint8),
    }
    if change is not None:
        change(data)
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "mpi_inf_3dhp_train.npz", **data)
    return data

"""MPI-INF-3DHP's files: MATLAB annotations of either version, calibrations, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.errors import DataError, HumandataError
from humandata.videos import existing

Float = NDArray[np.float64]
Int = NDArray[np.int64]

FRAMES = {
    "S1": (6416, 12430), "S2": (6502, 6081), "S3": (12488, 12283), "S4": (6171, 6675),
    "S5": (12820, 12312), "S6": (6188, 6145), "S7": (6239, 6320), "S8": (6468, 6054),
}  # fmt: skip
"""Frames of each sequence's videos that are to be used (README of the release)."""
SCENES = ("TS1", "TS2", "TS3", "TS4", "TS5", "TS6")
CAMERA_SETS = {
    "vnect": (0, 1, 2, 4, 5, 6, 7, 8),
    "mm3d_chest": (0, 2, 4, 7, 8),
    "relevant": tuple(range(11)),
    "ceiling": (11, 12, 13),
    "all": tuple(range(14)),
}
VALID_ROWS = {"TS1": 603, "TS2": 540, "TS3": 505, "TS4": 553, "TS5": 276, "TS6": 452}
"""Rows with ``valid_frame`` (README of the test set); early copies of the labels differ."""
FALLBACK = {
    "TS1": (1500.16, 1500.84, 1017.387, 1043.032), "TS2": (1504.04, 1501.57, 1015.256, 1038.701),
    "TS3": (1500.04, 1500.59, 1017.39, 1043.05), "TS4": (1499.93, 1500.76, 1017.37, 1042.99),
    "TS5": (1683.48, 1671.93, 939.93, 560.21), "TS6": (1683.98, 1672.67, 939.85, 560.12),
}  # fmt: skip
"""fx, fy, cx, cy of the test scenes, measured (TS1, TS2) or as MMPose fitted them."""

TRAIN_FOLDERS = ("{subject}/{sequence}", "train/{subject}/{sequence}")
TEST_FOLDERS = (
    "mpi_inf_3dhp_test_set/{scene}",
    "mpi_inf_3dhp_test_set/mpi_inf_3dhp_test_set/{scene}",  # the official archive nests twice
    "test/{scene}",
    "{scene}",
)
TRAIN_FRAMES = (
    "{base}/imageSequence/img_{camera}_{number:06d}.jpg",  # the release's advice
    "{base}/imageFrames/video_{camera}/frame_{number:06d}.jpg",  # SPIN
    "{base}/video_{camera}/{number:06d}.jpg",  # mmhuman3d
    "images/{subject}_{sequence}_Cam{camera}_{number:06d}.jpg",  # MMPose
)
TEST_FRAMES = ("{base}/imageSequence/img_{number:06d}.jpg", "images/{scene}_{number:06d}.jpg")
"""Extracted frames: the number is that of the annotation row, counted from 1."""

ONE_PLACE = 0.02
"""Metres by which cameras may disagree on where a joint is in the world."""

_DAMAGED = "The file is cut off or damaged: download and unpack it again"


def cameras_of(text: str) -> tuple[int, ...]:
    """The cameras that an option names: a set, or numbers; HumandataError for anything else."""
    if text in CAMERA_SETS:
        return CAMERA_SETS[text]
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and int(word) < 14 for word in words):
        sets = ", ".join(CAMERA_SETS)
        raise HumandataError(f"cameras={text}: write one of {sets}, or numbers from 0 to 13")
    return tuple(dict.fromkeys(int(word) for word in words))


@dataclass(frozen=True)
class Calibration:
    """One camera of ``camera.calibration``.

    Attributes
    ----------
    intrinsics : (3, 3) float64
        Pixels; there is no lens distortion.
    extrinsics : (4, 4) float64
        World to camera, metres. The world's y points up.
    width, height : int
    """

    intrinsics: Float
    extrinsics: Float
    width: int
    height: int


def read_calibration(file: Path) -> dict[int, Calibration]:
    """Cameras by number. The text is read by keyword; some copies have other line lengths.

    Raises
    ------
    DataError
        If the file is missing or of another form.
    """
    try:
        lines = file.read_text(encoding="latin1").splitlines()
    except OSError as error:
        raise DataError(
            file,
            expected="the calibration of the 14 cameras",
            found=error.strerror or str(error),
            hint="It comes with every sequence of the release, beside annot.mat",
        ) from error
    cameras: dict[int, Calibration] = {}
    found: dict[str, list[str]] = {}
    for line in [*(line.split() for line in lines), ["name"]]:
        if line[:1] == ["name"]:
            if "name" in found:
                number, camera = _camera(file, found)
                if number in cameras:
                    raise DataError(
                        file, f"camera {number}", expected="one block", found="a second one"
                    )
                cameras[number] = camera
            found = {}
        if line:
            found.setdefault(line[0], line[1:])
    if not cameras:
        raise DataError(
            file,
            expected="blocks of name, size, intrinsic and extrinsic",
            found=repr("\n".join(lines)[:60]),
        )
    return cameras


def _camera(file: Path, words: dict[str, list[str]]) -> tuple[int, Calibration]:
    record = f"camera {' '.join(words['name'])}"

    def numbers(key: str, count: int) -> list[float]:
        try:
            values = [float(word) for word in words.get(key, [])]
        except ValueError:
            values = []
        if len(values) != count or not np.isfinite(values).all():
            raise DataError(
                file,
                record,
                expected=f"{key} and {count} numbers",
                found=" ".join(words.get(key, ["none"]))[:60],
            )
        return values

    (name,) = numbers("name", 1)
    width, height = numbers("size", 2)
    extrinsics = np.array(numbers("extrinsic", 16)).reshape(4, 4)
    extrinsics[:3, 3] /= 1000
    intrinsics = np.array(numbers("intrinsic", 16)).reshape(4, 4)[:3, :3]
    return int(name), Calibration(intrinsics, extrinsics, int(width), int(height))


def read_mat(file: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """Variables of a MATLAB file, of version 5 or 7.3 by its signature.

    Returns
    -------
    dict
        Arrays of numbers with the axes in MATLAB's order; a cell array becomes a list of its
        cells, in MATLAB's order.

    Raises
    ------
    DataError
        If the file is damaged or lacks one of ``names``.
    """
    try:
        with open(file, "rb") as stream:
            newer = b"MATLAB 7.3" in stream.read(128)
        read = _read_newer if newer else _read_older
        found = read(file, [*names, *optional])
    except Exception as error:  # damaged files make scipy and HDF5 stumble anywhere
        raise DataError(
            file,
            expected="a MATLAB file",
            found=f"{type(error).__name__}: {error}",
            hint=_DAMAGED,
        ) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            file, expected=f"the variables {', '.join(names)}", found=f"no {', '.join(missing)}"
        )
    return found


def _read_older(file: Path, names: Sequence[str]) -> dict[str, Any]:
    import scipy.io

    content = scipy.io.loadmat(file, variable_names=list(names))
    return {
        name: list(content[name].ravel(order="F"))
        if content[name].dtype == object
        else content[name]
        for name in names
        if name in content
    }


def _read_newer(file: Path, names: Sequence[str]) -> dict[str, Any]:
    import h5py

    found: dict[str, Any] = {}
    with h5py.File(file) as content:
        for name in names:
            if name not in content:
                continue
            values = np.asarray(content[name])
            # HDF5 lists MATLAB's axes backwards.
            found[name] = (
                [np.asarray(content[cell]).T for cell in values.ravel()]
                if values.dtype == object
                else values.T
            )
    return found


def read_cells(file: Path, name: str, cameras: Sequence[int], axes: int) -> list[Float]:
    """One variable of ``annot.mat`` for some cameras: (N, 28, axes) each.

    Variables are read one at a time, since a long sequence has 100 MB of each.
    """
    content = read_mat(file, [name], ["cameras"])
    cells = content[name]
    order = np.asarray(content.get("cameras", np.arange(len(cells)))).ravel().tolist()
    if len(set(order)) < len(order):
        raise DataError(file, "cameras", expected="every camera once", found=f"{order}")
    found = []
    for camera in cameras:
        place = order.index(camera) if camera in order else -1
        there = 0 <= place < len(cells)
        values: NDArray[Any] = np.asarray(cells[place]) if there else np.zeros(0)
        if values.ndim != 2 or values.shape[1] != 28 * axes:
            raise DataError(
                file,
                f"{name}, camera {camera}",
                expected=f"shape (N, {28 * axes})",
                found="no such camera" if place < 0 else f"shape {values.shape}",
            )
        found.append(values.astype(np.float64).reshape(-1, 28, axes))
    return found


def check_frames(file: Path) -> None:
    """Row i has to be that of frame i: pictures are found by it.

    Raises
    ------
    DataError
        If ``frames`` says otherwise.
    """
    frames = np.asarray(read_mat(file, [], ["frames"]).get("frames", [])).ravel()
    first = int(frames[0]) if len(frames) and frames[0] in (0, 1) else 0
    wrong = np.flatnonzero(frames != first + np.arange(len(frames)))
    if len(wrong):
        raise DataError(
            file,
            f"frames, row {wrong[0]}",
            expected=f"{first + wrong[0]}: a row for every frame, in order",
            found=f"{frames[wrong[0]]}",
            hint="Rows are repeated, or some were taken away: use the file of the release",
        )


def compare_cameras(joints: Sequence[Float], views: Sequence[Calibration]) -> str | None:
    """Do the extrinsics of a sequence put the joints of all its cameras in one place of the world.

    Parameters
    ----------
    joints : sequence of (N, 28, 3) float64
        ``annot3`` of each camera, millimetres.
    views : sequence of Calibration
        Of the same cameras.

    Returns
    -------
    str or None
        What is wrong, in words where transposing or inverting mends it; None where all agree.
    """
    count = min(len(values) for values in joints)
    if len(joints) < 2 or not count:
        return None
    rows = np.unique(np.linspace(0, count - 1, 50).astype(np.int64))
    seen = np.stack([values[rows].reshape(-1, 3) / 1000 for values in joints])
    turn = np.stack([view.extrinsics[:3, :3] for view in views])
    shift = np.stack([view.extrinsics[:3, 3] for view in views])[:, None]

    def apart(world: Float) -> float:
        away = np.linalg.norm(world - world[:1], axis=-1)[1:]
        return float(np.median(away[np.isfinite(away)])) if np.isfinite(away).any() else 0.0

    found = apart((seen - shift) @ turn)
    if found <= ONE_PLACE:
        return None
    back = np.swapaxes(turn, 1, 2)
    tried = {
        ": its rotations are transposed": apart((seen - shift) @ back),
        ": it is the inverse, camera to world": apart(seen @ back + shift),
        ": its translations are the cameras' places": apart(seen @ turn + shift),
    }
    best = min(tried, key=lambda words: tried[words])
    words = best if tried[best] <= max(ONE_PLACE, found / 100) else ""
    return (
        f"camera.calibration puts one person {1000 * found:.0f} mm apart (median) in the world of "
        f"different cameras{words}"
    )


def frames_first(file: Path, name: str, values: Any, axes: int) -> Float:
    """Joints of the test set as (n, 17, axes), from MATLAB's (axes, 17, 1, n)."""
    array: NDArray[Any] = np.asarray(values, np.float64)
    if array.shape[:2] == (axes, 17):
        return array.reshape(axes, 17, -1).transpose(2, 1, 0)
    if array.shape[-2:] == (17, axes):
        return array.reshape(-1, 17, axes)
    raise DataError(
        file, name, expected=f"{axes} x 17 x 1 x n numbers", found=f"shape {array.shape}"
    )


def find_folder(raw: Path, patterns: Sequence[str], file: str, **names: str) -> str | None:
    """The first folder, relative to the raw root, that holds ``file``."""
    for pattern in patterns:
        folder = pattern.format(**names)
        if (raw / folder / file).is_file():
            return folder
    return None


def find_sequences(raw: Path) -> list[tuple[str, str, str]]:
    """Subject, sequence and folder of the training sequences that are there, in order."""
    found = []
    for subject in FRAMES:
        for sequence in ("Seq1", "Seq2"):
            names = {"subject": subject, "sequence": sequence}
            folder = find_folder(raw, TRAIN_FOLDERS, "annot.mat", **names)
            if folder is not None:
                found.append((subject, sequence, folder))
    return found


def find_scenes(raw: Path) -> list[tuple[str, str]]:
    """Name and folder of the test scenes that are there, in order."""
    found = (
        (scene, find_folder(raw, TEST_FOLDERS, "annot_data.mat", scene=scene)) for scene in SCENES
    )
    return [(scene, folder) for scene, folder in found if folder is not None]


def find_pictures(
    raw: Path, patterns: Sequence[str], video: str, frames: Int, **names: Any
) -> tuple[list[str], list[str]]:
    """Where the pictures of some frames are: extracted, or in the video.

    Parameters
    ----------
    patterns : sequence of str
        Layouts of extracted frames.
    video : str
        The video, relative to the raw root; empty where the release has pictures only.
    frames : (n,) int
        Frame numbers from 0.

    Returns
    -------
    paths, videos : list of str
        As they lie extracted, with an empty video; else frames of the video, by whose path and
        number they are named. Test pictures that are missing keep their official name.
    """
    if video:
        stem = video.rsplit(".", 1)[0]
        paths = [f"{stem}/{frame:06d}.jpg" for frame in frames.tolist()]
    else:
        paths = [patterns[0].format(number=frame + 1, **names) for frame in frames.tolist()]
    videos = [video] * len(paths)
    open_rows = np.ones(len(paths), bool)
    for pattern in patterns:
        if not (raw / pattern.format(number=1, **names)).parent.is_dir():
            continue
        candidates = [pattern.format(number=frame + 1, **names) for frame in frames.tolist()]
        there = existing(raw, candidates)
        for row in np.flatnonzero(open_rows):
            if candidates[row] in there:
                paths[row], videos[row], open_rows[row] = candidates[row], "", False
    return paths, videos


def fit_intrinsics(joints: Float, pixels: Float) -> tuple[Float, float] | None:
    """Focal lengths and principal point that project joints onto pixels, by least squares.

    The projection is linear in them: ``u = fx X / Z + cx``.

    Parameters
    ----------
    joints : (n, 3) float64
        Camera frame, in front of the camera.
    pixels : (n, 2) float64

    Returns
    -------
    (3, 3) float64 and the median residual in pixels, or None where the points do not tell.
    """
    usable = np.isfinite(joints).all(axis=1) & np.isfinite(pixels).all(axis=1)
    usable &= np.nan_to_num(joints[:, 2]) > 0
    if usable.sum() < 4:
        return None
    plane = joints[usable, :2] / joints[usable, 2:]
    if not (np.ptp(plane, axis=0) > 1e-3).all():
        return None
    intrinsics, away = np.eye(3), np.zeros((int(usable.sum()), 2))
    for axis in (0, 1):
        system = np.column_stack([plane[:, axis], np.ones(len(plane))])
        solution = np.linalg.lstsq(system, pixels[usable, axis], rcond=None)[0]
        intrinsics[axis, axis], intrinsics[axis, 2] = solution
        away[:, axis] = system @ solution - pixels[usable, axis]
    if not (np.diag(intrinsics) > 0).all():
        return None
    return intrinsics, float(np.median(np.linalg.norm(away, axis=1)))

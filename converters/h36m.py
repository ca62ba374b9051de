"""Human3.6M: the CDF poses, cameras and videos of the official release.

One row per camera and kept pose; cameras outer, poses inner. Every fifth pose is kept, counted
from the first of a sequence, as in all peers. 3D joints are ``D3_Positions_mono`` (or the world's,
moved by the camera table), in the camera frame, metres, not root-centred; 2D joints are
``D2_Positions``, in pixels of the picture as it is, lens distortion included. Of the 32 joints the
17 of SPIN and mmhuman3d are stored, left leg first. The pelvis is raw joint 11 throughout.

Splits: ``train`` is S1, S5, S6, S7 and S8 with all four cameras, the training set of both
protocols; ``test_p1`` is S9 and S11 with all cameras, ``test_p2`` the same with camera 60457274
alone: protocols 1 and 2 as HMR and SPIN count them. Others (Sun et al.: every 64th pose, S9 in
training) are had by the options ``subjects``, ``cameras`` and ``stride``. Subjects that are not on
the disk are left out, with a note.

Where this differs from the peers:

* mmhuman3d stores the camera's own pose (camera to world) where world to camera is documented;
  here ``extrinsics`` are world to camera, and the projection proves it.
* mmhuman3d takes heights from a table per camera; they depend on the subject too.
* mmhuman3d drops a sequence without a MoSh file; here its rows stay, without a body.
* Joints 9 and 10 are called jaw and head, as SPIN uses them and as their regressors are; with
  ``--option convention=h36m`` they carry mmhuman3d's names, head and head top.
* S9's Greeting, SittingDown 1 and Waiting 1 are shifted by 0.2 m in the release. Published numbers
  were measured on them as they are, so they stay; ``--option s9=corrected`` moves them.

MoSh bodies are taken as those of the neutral model; their translation is unknown. Pictures are
frames that lie extracted in one of the usual layouts, else those of the videos. SPIN's evaluation
script extracts frames one late (its picture n shows pose n + 1): do not reuse those.

Boxes hold the 17 joints, enlarged 1.2 about their centre, not clipped; the option ``box`` makes
those of the peers, for which mmhuman3d and SPIN need the masks of the release.

Sources: the release's files; posepile, SPIN, mmhuman3d and MMPose for how others read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, h36m_boxes, h36m_files, h36m_metadata, h36m_mosh, videos
from humandata.cameras import H36M_LENS
from humandata.columns import join, take
from humandata.converters.converter import Columns, DatasetInfo, Option, Reject, Unit
from humandata.errors import DataError, HumandataError
from humandata.h36m_files import Recording
from humandata.h36m_metadata import CAMERAS, Camera, Take
from humandata.schema import row_ids

Float = NDArray[np.float64]
Int = NDArray[np.int64]

SUBJECTS = {
    "train": ("S1", "S5", "S6", "S7", "S8"),
    "test_p1": ("S9", "S11"),
    "test_p2": ("S9", "S11"),
}
FRONTAL = "60457274"
"""The camera of protocol 2."""
JOINTS = (11, 6, 7, 8, 1, 2, 3, 12, 24, 14, 15, 17, 18, 19, 25, 26, 27)
"""The 17 joints of SPIN and mmhuman3d among the 32 of the release."""
MIRRORED = (0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13)
"""The 17 joints with left and right exchanged."""
SHIFTED = ("Greeting", "SittingDown 1", "Waiting 1")
"""Sequences of S9 whose ground truth lies 0.2 m off along the world's x axis."""
SHIFT = 0.2
GOOD_PX = 0.1
BAD_PX = 5.0
GOOD_METRES = 0.001
"""Median residuals: those above the first are told, one above the second says that poses and
cameras do not belong together. On real frames it is 0.00003 px."""

INFO = DatasetInfo(
    name="h36m",
    title="Human3.6M",
    citation="Ionescu et al., Human3.6M: Large Scale Datasets and Predictive Methods for 3D Human "
    "Sensing in Natural Environments, TPAMI 2014",
    url="http://vision.imar.ro/human3.6m",
    licence="academic use after registration; MoSh fits must not be passed on",
    splits=tuple(SUBJECTS),
    expects=(
        "RAW/metadata.xml and, per subject, RAW/S1/MyPoseFeatures/D3_Positions_mono/*.cdf (or "
        "D3_Positions), RAW/S1/MyPoseFeatures/D2_Positions/*.cdf, and RAW/S1/Videos/*.mp4 or "
        "extracted frames (RAW/S1/images/<sequence>/, RAW/images/ ...); RAW/h36m_mosh/ if at hand"
    ),
    yields="17 joints in 2D and 3D, cameras with lens distortion, SMPL where MoSh files are",
    keypoints2d="h36m_spin",
    keypoints3d="h36m_spin",
    options=(
        Option("stride", "keep every n-th pose, counted from the first of a sequence", (), "5"),
        Option("subjects", "such as S1,S5 or 1,5; default: those of the split", (), ""),
        Option("cameras", "such as 60457274; default: those of the split", (), ""),
        Option("poses", "which 3D positions to read", ("auto", "mono", "world"), "auto"),
        Option(
            "box",
            "'joints', or the box of a peer; mmhuman3d's and SPIN's need the masks",
            tuple(h36m_boxes.BOXES),
            "joints",
        ),
        Option(
            "convention",
            "joints 9 and 10 are jaw and head (h36m_spin) or head and headtop (h36m)",
            ("h36m_spin", "h36m"),
            "h36m_spin",
        ),
        Option(
            "s9",
            "three sequences of S9 as released, as published numbers have them, or moved by 0.2 m",
            ("as_released", "corrected"),
            "as_released",
        ),
        Option("mosh", "folder of the MoSh files; default: RAW/h36m_mosh", (), ""),
    ),
)


def find_splits(raw: Path) -> list[str]:
    """Splits of which at least one subject's poses are there."""
    found = [
        split
        for split, subjects in SUBJECTS.items()
        if any(h36m_files.has_poses(raw, subject) for subject in subjects)
    ]
    if not found:
        raise DataError(raw, expected=INFO.expects, found="no CDF files of poses")
    return found


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit per sequence of a subject, with all its cameras; subjects in the split's order."""
    chosen = {option.name: option.default for option in INFO.options} | dict(options)
    subjects = _chosen_subjects(chosen["subjects"]) or SUBJECTS[split]
    cameras = _chosen_cameras(chosen["cameras"])
    if not cameras:
        cameras = (FRONTAL,) if split == "test_p2" else CAMERAS
    stride = _stride(chosen["stride"])
    file = raw / "metadata.xml"
    metadata = h36m_metadata.read(file)
    here = [subject for subject in subjects if h36m_files.has_poses(raw, subject)]
    if not here:
        raise DataError(
            raw, f"split {split}", expected=INFO.expects, found=f"no poses of {', '.join(subjects)}"
        )
    absent = [subject for subject in subjects if subject not in here]
    units: list[Unit] = []
    for take_ in (t for subject in here for t in metadata.takes if t.subject == subject):
        recordings = [Recording(take_, camera) for camera in cameras]
        files = [
            part
            for recording in recordings
            for part in _files(raw, recording, chosen)
            if part is not None
        ]
        detail = {
            **chosen,
            "stride": stride,
            "take": take_,
            "cameras": {camera: metadata.cameras[take_.subject, camera] for camera in cameras},
            "absent": absent if not units else [],
        }
        # A world file serves all cameras, but is one file.
        units.append(
            Unit(
                f"{take_.subject}/{take_.prefix}",
                split,
                raw,
                (file, *dict.fromkeys(files)),
                detail,
            )
        )
    return units


def _chosen_subjects(text: str) -> tuple[str, ...]:
    words = [word.strip().upper() for word in text.split(",") if word.strip()]
    subjects = tuple(word if word.startswith("S") else f"S{word}" for word in words)
    known = [f"S{number}" for number in range(1, h36m_metadata.SUBJECTS + 1)]
    if any(subject not in known for subject in subjects):
        raise HumandataError(f"subjects={text}: write numbers from 1 to 11, such as 1,5,6")
    return tuple(dict.fromkeys(subjects))


def _chosen_cameras(text: str) -> tuple[str, ...]:
    cameras = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if any(camera not in CAMERAS for camera in cameras):
        raise HumandataError(f"cameras={text}: the cameras are {', '.join(CAMERAS)}")
    return cameras


def _stride(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise HumandataError(f"stride={text}: write a whole number from 1 on")
    return int(text)


def _files(raw: Path, recording: Recording, options: Mapping[str, str]) -> list[Path | None]:
    """3D poses, 2D poses, mask and body of a recording; None where one is not there."""
    return [
        _pose_file(raw, recording, options["poses"])[0],
        _find(raw, recording, "pixels"),
        h36m_boxes.mask_file(raw, recording, options["box"]),
        h36m_mosh.find(raw, recording, options["mosh"]),
    ]


def _find(raw: Path, recording: Recording, kind: str) -> Path | None:
    # A world file speaks of all cameras and names none.
    stem = recording.take.prefix if kind == "world" else recording.stem
    folders = h36m_files.POSE_FOLDERS[kind]
    return h36m_files.find(raw, recording.take.subject, folders, f"{stem}.cdf")


def _pose_file(raw: Path, recording: Recording, which: str) -> tuple[Path | None, str]:
    for kind in ("mono", "world") if which == "auto" else (which,):
        file = _find(raw, recording, kind)
        if file is not None:
            return file, kind
    return None, which


def read(unit: Unit) -> Columns:
    """Read one sequence, as all its cameras saw it.

    A recording whose poses are missing, or whose poses or bodies are damaged, becomes one reject;
    the others stay. Where they are damaged, or do not belong to the cameras, the exit status says
    so.

    Raises
    ------
    DataError
        If the boxes of a peer are asked for and their masks are not there.
    UnsafePickle
        A MoSh file asks for code to be run.
    """
    options = unit.detail
    take_: Take = options["take"]
    parts: list[Columns] = []
    for camera in options["cameras"]:
        recording = Recording(take_, camera)
        try:
            parts.append(_recording(unit, recording, options["cameras"][camera]))
        except _Unusable as problem:
            file = f"{take_.subject}/{recording.stem}"
            lost = problem.reason != "missing_poses"  # subsets of the release are in order
            reject = Reject(file, "all poses", problem.reason, problem.detail, whole_file=lost)
            parts.append(Columns({}, {}, rejects=[reject], records=1))
    joined = join(parts)
    joined.field_attributes = _attributes(options)
    if options["absent"]:
        joined.notes.append(f"not on the disk, left out: {', '.join(options['absent'])}")
    if joined.instances and not joined.instances["smpl/valid"].any():
        for name in [n for n in joined.instances if n.startswith("smpl/") or n == "gender"]:
            del joined.instances[name]
    return joined


def _attributes(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    rule, factor = h36m_boxes.BOXES[options["box"]]
    convention = options["convention"]
    return {
        "keypoints2d": {"convention": convention},
        "keypoints3d": {"convention": convention, "root": "absolute"},
        "bbox_xywh": {"rule": rule, "factor": factor},
        "video": videos.RECORDED,
        "distortion": {"model": H36M_LENS},
    }


class _Unusable(Exception):
    """A recording that cannot be used at all."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _recording(unit: Unit, recording: Recording, camera: Camera) -> Columns:
    """One camera's rows of a sequence."""
    options = unit.detail
    where = f"{recording.take.subject}/{recording.stem}"
    joints, pixels = _poses(unit.raw, recording, camera, options["poses"])
    total, both = max(len(joints), len(pixels)), min(len(joints), len(pixels))
    pose = np.arange(0, total, options["stride"], dtype=np.int64)
    filtered = {f"stride_{options['stride']}": total - len(pose)}
    rejects = [
        Reject(where, f"pose {p}", "poses_differ", f"2D: {len(pixels)} poses, 3D: {len(joints)}")
        for p in pose[pose >= both]
    ]
    more = [f"{where}: {len(pixels)} poses in 2D, {len(joints)} in 3D; the rest left out"]
    pose = pose[pose < both]
    released3d, released = joints[pose], pixels[pose]
    joints, pixels, notes = _corrected(released3d, released, recording, camera, options["s9"])
    notes += more if rejects else []
    if recording.take.poses not in (0, total):
        notes.append(f"{where}: {total} poses; metadata.xml says {recording.take.poses}")
    lens = camera.intrinsics, camera.distortion
    distance = np.linalg.norm(h36m_metadata.project(joints, *lens) - pixels, axis=-1)
    error = np.nan_to_num(distance.mean(axis=1), nan=-1.0, posinf=-1.0)
    notes += _judge(where, joints, pixels, camera, error)
    notes += _compare_world(unit.raw, recording, camera, pose, released3d)
    box, more = h36m_boxes.boxes(unit.raw, recording, released, pose, options["box"])
    box[:, :2] += (pixels - released).mean(axis=1)
    try:
        bodies = h36m_mosh.columns(h36m_mosh.find(unit.raw, recording, options["mosh"]), pose)
    except DataError as damage:
        raise _Unusable("damaged_bodies", str(damage)) from damage
    more += h36m_mosh.compare(bodies, joints, pixels, camera, where)
    paths, films = h36m_files.find_pictures(unit.raw, recording, pose)
    instances = {
        "id": row_ids(f"h36m/{unit.split}/{where}", pose),
        "image": np.arange(len(pose), dtype=np.int32),
        "person": np.zeros(len(pose), np.int32),
        "bbox_xywh": np.hstack([box, np.ones((len(pose), 1))]).astype(np.float32),
        "keypoints2d": _confident(pixels),
        "keypoints3d": _confident(joints),
        "reprojection_error": error.astype(np.float32),
        **bodies,
    }
    bad, sound = _rejects(where, pose, joints, pixels, box, instances)
    columns = Columns(
        images=_images(unit, where, pose, camera, paths, films),
        instances=instances,
        sequences={
            "name": [where],
            "subject": [recording.take.subject],
            "camera": [recording.camera],
            "action": [recording.take.action_name],
        },
        rejects=rejects + bad,
        filtered={rule: count for rule, count in filtered.items() if count},
        records=total,
        notes=notes + more,
    )
    return columns if sound.all() else take(columns, sound)


def _poses(raw: Path, recording: Recording, camera: Camera, which: str) -> tuple[Float, Float]:
    """3D joints in the camera frame, (N, 17, 3) metres, and 2D joints, (M, 17, 2) pixels."""
    file, kind = _pose_file(raw, recording, which)
    flat = _find(raw, recording, "pixels")
    missing = [what for what, path in (("3D", file), ("2D", flat)) if path is None]
    if file is None or flat is None:
        raise _Unusable("missing_poses", f"there is no CDF file of the {' and '.join(missing)}")
    try:
        joints = h36m_files.read_poses(file, 3)[:, JOINTS] / 1000
        pixels = h36m_files.read_poses(flat, 2)[:, JOINTS]
    except DataError as error:
        raise _Unusable("damaged_poses", str(error)) from error
    if kind == "world":
        joints = np.asarray(geometry.transform(camera.extrinsics, joints), np.float64)
    return joints, pixels


def _corrected(
    joints: Float, pixels: Float, recording: Recording, camera: Camera, s9: str
) -> tuple[Float, Float, list[str]]:
    """Undo the shift of three sequences of S9, in 3D and 2D, if that is asked for."""
    if recording.take.subject != "S9" or recording.take.prefix not in SHIFTED:
        return joints, pixels, []
    if s9 != "corrected":
        return (
            joints,
            pixels,
            [
                "S9's Greeting, SittingDown 1 and Waiting 1 lie 0.2 m off in the release and are "
                "kept so, as published numbers have them; --option s9=corrected moves them"
            ],
        )
    joints = joints - SHIFT * camera.extrinsics[:3, 0]
    return joints, h36m_metadata.project(joints, camera.intrinsics, camera.distortion), []


def _judge(where: str, joints: Float, pixels: Float, camera: Camera, error: Float) -> list[str]:
    """Does the 3D fall on the 2D; if not, which known mistake explains it."""
    known = error[error >= 0]
    typical = float(np.median(known)) if len(known) else 0.0
    if typical <= GOOD_PX:
        return []
    found = (
        f"3D joints projected by metadata.xml miss the 2D joints by {typical:.2f} px (median)"
        f"{_mistake(joints, pixels, camera, typical)}"
    )
    if typical > BAD_PX:
        raise _Unusable("does_not_reproject", found)
    return [f"{where}: {found}"]


def _mistake(joints: Float, pixels: Float, camera: Camera, typical: float) -> str:
    """Undo each known mistake in turn; the words of the one that puts the 3D on the 2D."""
    turn, shift = camera.extrinsics[:3, :3], camera.extrinsics[:3, 3]
    world, centre = (joints - shift) @ turn, -shift @ turn
    tried = {
        "the joints of D3_Positions_mono are in the world frame": joints @ turn.T + shift,
        "the angles of metadata.xml turn from the camera to the world": (world - centre) @ turn,
        "the centres of metadata.xml are translations": world @ turn.T + centre,
        "left and right of the 3D joints are exchanged": joints[:, MIRRORED],
    }
    for words, points in tried.items():
        projected = h36m_metadata.project(points, camera.intrinsics, camera.distortion)
        distance = np.linalg.norm(projected - pixels, axis=-1)
        known = distance[np.isfinite(distance)]
        if 2 * len(known) > distance.size and np.median(known) < typical / 10:
            return f": {words}"
    if typical > BAD_PX:
        return ": are these D3_Positions_mono_universal, or cameras of another subject?"
    return ""


def _compare_world(
    raw: Path, recording: Recording, camera: Camera, pose: Int, joints: Float
) -> list[str]:
    """Do the extrinsics move the world's joints, if at hand, onto those of the camera."""
    file = _find(raw, recording, "world")
    if file is None:
        return []
    try:
        world = h36m_files.read_poses(file, 3)[:, JOINTS] / 1000
    except DataError as error:
        return [f"not compared with the joints in the world: {error}"]
    both = pose[pose < len(world)]
    moved = geometry.transform(camera.extrinsics, world[both])
    away = np.linalg.norm(moved - joints[: len(both)], axis=-1)
    typical = float(np.nanmedian(away)) if away.size else 0.0
    if typical <= GOOD_METRES:
        return []
    return [
        f"{recording.take.subject}/{recording.stem}: the extrinsics of metadata.xml put the joints "
        f"of D3_Positions {1000 * typical:.0f} mm (median) beside those of the camera"
    ]


def _confident(points: Float) -> NDArray[np.float32]:
    """Coordinates and a confidence of one."""
    ones = np.ones((*points.shape[:-1], 1))
    return np.concatenate([points, ones], axis=-1).astype(np.float32)


def _images(
    unit: Unit, where: str, pose: Int, camera: Camera, paths: list[str], films: list[str]
) -> dict[str, Any]:
    rows = len(pose)
    return {
        "id": row_ids(f"h36m/{unit.split}/{where}/image", pose),
        "path": paths,
        "video": films,
        "width": np.full(rows, camera.width, np.int32),
        "height": np.full(rows, camera.height, np.int32),
        "sequence": np.zeros(rows, np.int32),
        "frame": pose.astype(np.int32),
        "intrinsics": np.tile(camera.intrinsics, (rows, 1, 1)).astype(np.float32),
        "intrinsics_source": np.ones(rows, np.uint8),
        "distortion": np.tile(camera.distortion, (rows, 1)).astype(np.float32),
        "extrinsics": np.tile(camera.extrinsics, (rows, 1, 1)).astype(np.float32),
    }


def _rejects(
    where: str, pose: Int, joints: Float, pixels: Float, box: Float, instances: Mapping[str, Any]
) -> tuple[list[Reject], NDArray[np.bool_]]:
    """Rows whose numbers are not numbers, or whose person is behind the camera."""
    finite = np.isfinite(joints).all(axis=(1, 2)) & np.isfinite(pixels).all(axis=(1, 2))
    behind = finite & (joints[:, 0, 2] <= 0)
    flat = finite & ~behind & ~((box[:, 2:] > 0) & np.isfinite(box[:, 2:])).all(axis=1)
    rejects = [
        Reject(where, f"pose {pose[row]}", reason, detail)
        for reason, bad, detail in (
            ("not_finite", ~finite, "2D or 3D joints hold NaN or infinity"),
            ("behind_camera", behind, "the pelvis lies behind the camera"),
            ("empty_box", flat, "the 2D joints span no box"),
        )
        for row in np.flatnonzero(bad)
    ]
    return rejects, finite & ~behind & ~flat

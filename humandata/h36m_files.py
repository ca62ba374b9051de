"""Where Human3.6M's files lie on the disk, in the layouts people have, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata.errors import DataError
from humandata.h36m_metadata import CAMERAS, Take
from humandata.videos import existing

Float = NDArray[np.float64]

RAW_JOINTS = 32
SUBJECT_FOLDERS = ("{subject}", "extracted/{subject}")
POSE_FOLDERS = {
    "mono": ("MyPoseFeatures/D3_Positions_mono", "Poses_D3_Positions_mono"),
    "world": ("MyPoseFeatures/D3_Positions", "Poses_D3_Positions"),
    "pixels": ("MyPoseFeatures/D2_Positions", "MyPoseFeatures/D2Positions", "Poses_D2_Positions"),
}
FRAME_NAMES = (
    # mmhuman3d; the customary name, and that of frames decoded from videos
    "{subject}/images/{name}/{name}_{number:06d}.jpg",
    "{subject}/images/{name}/{name}_{number:05d}.jpg",  # as mmhuman3d's documentation writes it
    "images/{subject}/{name}/{name}_{number:06d}.jpg",  # MMPose
    "{subject}/{name}/{name}_{number:06d}.jpg",  # MMPose with data_root/images as the root
    "images/{name}_{number:06d}.jpg",  # SPIN, GraphCMR
    "images/{code}/{code}_{number:06d}.jpg",  # RootNet, I2L-MeshNet, SMPLer-X
    "processed/{subject}/{action}/imageSequence/{camera}/img_{number:06d}.jpg",  # h36m-fetch
)
"""Extracted frames; in all of them the number is that of the pose, counted from 1."""


@dataclass(frozen=True)
class Recording:
    """A take as one camera saw it.

    Attributes
    ----------
    take : Take
    camera : str
    """

    take: Take
    camera: str

    @property
    def stem(self) -> str:
        """``Directions 1.54138969``: the file name without its ending."""
        return f"{self.take.prefix}.{self.camera}"

    @property
    def name(self) -> str:
        """``S1_Directions_1.54138969``: how folders of extracted frames are called."""
        return f"{self.take.subject}_{self.stem.replace(' ', '_')}"

    def frame_name(self, pattern: str, number: int) -> str:
        """Path of an extracted frame relative to the raw root; ``number`` counts from 1."""
        take = self.take
        code = (
            f"s_{int(take.subject[1:]):02d}_act_{take.action:02d}_subact_{take.subaction:02d}"
            f"_ca_{CAMERAS.index(self.camera) + 1:02d}"
        )
        return pattern.format(
            subject=take.subject,
            name=self.name,
            code=code,
            action=f"{take.action_name}-{take.subaction}",
            camera=self.camera,
            number=number,
        )


def find(raw: Path, subject: str, folders: tuple[str, ...], name: str) -> Path | None:
    """The file ``name`` in the first of the folders that holds it."""
    for place in SUBJECT_FOLDERS:
        for folder in folders:
            file = raw / place.format(subject=subject) / folder / name
            if file.is_file():
                return file
    return None


def has_poses(raw: Path, subject: str) -> bool:
    """Whether any 3D poses of a subject are there."""
    folders = [
        raw / place.format(subject=subject) / folder
        for place in SUBJECT_FOLDERS
        for folder in (*POSE_FOLDERS["mono"], *POSE_FOLDERS["world"])
    ]
    return any(next(folder.glob("*.cdf"), None) is not None for folder in folders)


def read_poses(file: Path, axes: int) -> Float:
    """The variable ``Pose`` of a CDF file, (N, 32, axes): pixels or millimetres.

    Raises
    ------
    DataError
        If the file is no whole CDF file, or holds something else.
    """
    import cdflib

    try:
        values = np.asarray(cdflib.CDF(file).varget("Pose"))
    except Exception as error:  # a damaged file may make cdflib stumble anywhere
        raise DataError(
            file,
            expected="a CDF file with the variable Pose",
            found=f"{type(error).__name__}: {error}",
            hint="The file is cut off or damaged: download and unpack it again",
        ) from error
    wanted = RAW_JOINTS * axes
    if values.ndim != 3 or len(values) != 1 or values.shape[2] != wanted:
        raise DataError(
            file,
            "Pose",
            expected=f"shape (1, N, {wanted})",
            found=f"shape {values.shape}",
        )
    joints: Float = values[0].astype(np.float64).reshape(-1, RAW_JOINTS, axes)
    return joints


def find_pictures(
    raw: Path, recording: Recording, poses: NDArray[np.int64]
) -> tuple[list[str], list[str]]:
    """Where the pictures of some poses are: extracted, or in the video.

    Parameters
    ----------
    poses : (n,) int
        Numbers of poses, from 0; frame and pose have the same number.

    Returns
    -------
    paths : list of str
        Of extracted frames, where there are any; else the customary name.
    videos : list of str
        Empty where the picture lies extracted. Without a picture of either kind the official
        place of the video, so that the report of what is missing names it.
    """
    file = find(raw, recording.take.subject, ("Videos",), f"{recording.stem}.mp4")
    video = f"{recording.take.subject}/Videos/{recording.stem}.mp4"
    if file is not None:
        video = file.relative_to(raw).as_posix()
    paths = [recording.frame_name(FRAME_NAMES[0], int(pose) + 1) for pose in poses]
    videos = [video] * len(paths)
    for pattern in FRAME_NAMES:
        if not (raw / recording.frame_name(pattern, 1)).parent.is_dir():
            continue
        names = [recording.frame_name(pattern, int(pose) + 1) for pose in poses]
        there = existing(raw, names)
        for row, name in enumerate(names):
            if videos[row] and name in there:
                paths[row], videos[row] = name, ""
    return paths, videos

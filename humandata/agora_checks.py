"""Checks of AGORA's persons: who cannot be used and why, and what is to be told of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata import agora_bodies
from humandata.agora_files import Table
from humandata.columns import Reject
from humandata.errors import DataError

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

GENDERS = {"neutral": 1, "male": 2, "female": 3}
"""Words of the tables and codes of the field ``gender``."""
BAD_SHARE = 0.05
"""Share of the box by which projected joints may miss the 2D joints; more is a wrong camera."""
BAD_ANGLE = 45.0
"""Degrees between the root rotation and hips and spine; more is a wrong turn, not a wide body."""
PELVIS, PELVIS_SPREAD = np.array([0.0, -0.3, 0.0]), 0.6
"""Where rest-pose pelvises are, roughly, and how far from there is impossible, in metres."""
SPREAD_TOLD = 0.005
"""A scan's rest pelvis may differ between its pictures by this many metres untold."""


class Problems:
    """Who cannot be used and why; only the first reason of a person counts.

    Attributes
    ----------
    kept : (n,) bool
        Whom the chosen filter keeps; the others are counted by it and not looked at.
    bad : (n,) bool
    notes : list of str
    """

    def __init__(self, people: int, kept: Bool) -> None:
        self.kept = kept
        self.bad = np.zeros(people, bool)
        self.found: list[tuple[int, str, str]] = []
        self.notes: list[str] = []

    def add(self, rows: Bool, reason: str, detail: str) -> None:
        new = rows & self.kept & ~self.bad
        self.found.extend((row, reason, detail) for row in np.flatnonzero(new).tolist())
        self.bad |= new

    def rejects(self, file: Path, names: list[str], table: Table) -> list[Reject]:
        return [
            Reject(file.name, f"{names[table.row[row]]}, person {table.person[row]}", why, said)
            for row, why, said in sorted(self.found)
        ]


def check_joints(
    problems: Problems,
    table: Table,
    names: list[str],
    extrinsics: Float,
    box: Float,
) -> None:
    """Find persons whose place, joints, box or camera cannot be used."""
    nowhere = np.asarray(~np.isfinite(extrinsics).all(axis=(1, 2)))
    joints = np.concatenate([table.joints2d, table.joints3d], axis=-1)
    place = np.stack([table.numbers[name] for name in ("X", "Y", "Z", "Yaw")], axis=1)
    finite = np.asarray(np.isfinite(joints).all(axis=(1, 2)) & np.isfinite(place).all(axis=1))
    problems.add(~table.shapes, "joints_shape", "the joints are no array of the release's shape")
    problems.add(~finite, "not_finite", "joints, place or yaw hold NaN or infinity")
    problems.add(
        _repeated(names)[table.row], "duplicate_picture", "this picture came before in the table"
    )
    problems.add(
        nowhere[table.row], "no_camera", "neither name nor table says where the camera stood"
    )
    problems.add(table.joints3d[:, 0, 2] <= 0, "behind_camera", "the pelvis lies behind the camera")
    flat = np.asarray(~(box[:, 2:] > 0).all(axis=1))
    problems.add(flat, "outside_picture", "no part of the box is in the picture")


def _repeated(names: list[str]) -> Bool:
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    return np.array([first[name] != row for row, name in enumerate(names)], bool)


def check_cameras(file: Path, problems: Problems, share: Float, error: Float) -> None:
    """Find persons whose projected 3D joints miss the 2D joints by a share of the box."""
    looked = problems.kept & ~problems.bad & (error >= 0)
    if looked.any() and np.median(share[looked]) > BAD_SHARE:
        raise DataError(
            file,
            "gt_joints_3d",
            expected="3D joints that fall on gt_joints_2d through the cameras of AGORA",
            found=f"typically {np.median(error[looked]):.0f} pixels between them",
            hint="gt_joints_2d must be pixels of 3840x2160 whatever pictures are used; were the "
            "tables changed?",
        )
    problems.add(
        looked & (share > BAD_SHARE),
        "camera_disagrees",
        f"the projected 3D joints lie beside the 2D joints by over {BAD_SHARE:.0%} of the box",
    )


def tell_genders(problems: Problems, table: Table) -> None:
    """Note how many persons have a gender that is no word of the release."""
    unknown = np.array([word.lower() not in GENDERS for word in table.words["gender"]], bool)
    count = int((unknown & problems.kept).sum())
    if count:
        problems.notes.append(f"{count} persons have a gender other than male and female: unknown")


def check_fits(
    file: Path, problems: Problems, rows: NDArray[np.int64], placed: agora_bodies.Placed
) -> None:
    """Hold the fits of these rows, in the camera frame, against the joints of the table."""
    astray = np.linalg.norm(placed.pelvis - PELVIS, axis=1) > PELVIS_SPREAD
    wrong = (placed.angle > BAD_ANGLE) | astray
    if len(rows) > 1 and wrong.mean() > 0.5:
        raise DataError(
            file,
            expected="fits that stand as the 3D joints of the table do",
            found=f"{np.median(placed.angle):.0f} degrees typically between their roots, rest "
            f"pelvises around {np.round(np.median(placed.pelvis, axis=0), 2).tolist()} m",
            hint="Are the fits those of the release, each in its own scan's frame?",
        )
    bad = np.zeros(len(problems.bad), bool)
    bad[rows] = wrong
    problems.add(
        bad, "fit_disagrees", "in the camera frame, the fit does not stand as the 3D joints do"
    )


def tell_spread(problems: Problems, scans: list[str], pelvis: Float) -> None:
    """A scan seen in several pictures has one rest pelvis; say so where it has not."""
    spread = agora_bodies.pelvis_spread(scans, pelvis)
    wide = int((spread > SPREAD_TOLD).sum())
    if wide:
        problems.notes.append(
            f"the rest pelvis of {wide} scans differs between their pictures, by up to "
            f"{spread.max() * 1000:.0f} mm: their translations are that uncertain"
        )

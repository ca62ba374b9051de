"""Human3.6M's ``metadata.xml``: cameras, file names, picture sizes; and its lens model.

The file comes with the release's code ("Visualisation and large scale prediction software"). Its
cameras lie in ``w0``, a text of 300 numbers: 4 cameras x 11 subjects x (three angles in radians,
camera centre in millimetres), then 4 x (fx, fy, cx, cy, k1, k2, k3, p1, p2). So intrinsics belong
to a camera, extrinsics to a camera and a subject. With ``R = Rx(a) Ry(b) Rz(c)`` a world point X
lies at ``R (X - C)`` in the camera: R is world-to-camera, and C the centre, not the translation.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humandata.cameras import H36M_LENS, project_through_lens
from humandata.errors import DataError

Float = NDArray[np.float64]

CAMERAS = ("54138969", "55011271", "58860488", "60457274")
SUBJECTS = 11
W0_NUMBERS = 300
SEQUENCE_ROWS = 32
"""Rows of ``mapping`` between its header and the rows of actor names and of picture sizes."""
ALL_ACTIONS = 1
"""Number of the action that holds files named ``_ALL``: everything between the others."""

HINT = (
    "It is metadata.xml of the release's 'Visualisation and large scale prediction software' "
    "(Release-v1.1 or v1.2), kept in the folder that also holds S1, S5, ..."
)


@dataclass(frozen=True)
class Camera:
    """One camera as it looks at one subject.

    Attributes
    ----------
    extrinsics : (4, 4) float64
        World to camera, metres.
    intrinsics : (3, 3) float64
        Pixels.
    distortion : (5,) float64
        k1, k2, p1, p2, k3: OpenCV's order, but see :func:`project`.
    width, height : int
        Of this subject's videos by this camera.
    """

    extrinsics: Float
    intrinsics: Float
    distortion: Float
    width: int
    height: int


@dataclass(frozen=True)
class Take:
    """One sequence: what a subject did, once.

    Attributes
    ----------
    subject : str
        ``S1`` to ``S11``.
    prefix : str
        Of the files: ``Directions 1``. Only ``mapping`` knows it; the names of actions differ
        between subjects (``TakingPhoto`` and ``Photo``).
    action, subaction : int
        Numbers of the release, 2 to 16 and 1 or 2.
    action_name : str
        As ``actionnames`` spells it.
    poses : int
        Expected number of poses; 0 where ``frames`` does not say. It counts mocap samples at
        200 Hz, four to a pose. Videos are longer.
    """

    subject: str
    prefix: str
    action: int
    subaction: int
    action_name: str
    poses: int


@dataclass(frozen=True)
class Metadata:
    """What the converter needs of ``metadata.xml``.

    Attributes
    ----------
    takes : tuple of Take
        In the order of ``mapping``, subject by subject; without the ``_ALL`` files.
    cameras : mapping of (subject, camera) to Camera
    """

    takes: tuple[Take, ...]
    cameras: dict[tuple[str, str], Camera]


def read(file: Path) -> Metadata:
    """Read ``metadata.xml``.

    Raises
    ------
    DataError
        If it is missing or damaged, or lacks cameras, names or sizes.
    """
    if not file.is_file():
        raise DataError(file, expected="metadata.xml", found="no such file", hint=HINT)
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise DataError(
            file,
            expected="complete XML",
            found=str(error),
            hint="The file is cut off or damaged: unpack it again",
        ) from error
    rows = [[_text(cell) for cell in row] for row in _child(file, root, "mapping").iter("tr")]
    if len(rows) < SEQUENCE_ROWS + 3 or len(rows[0]) < 2 + SUBJECTS:
        raise DataError(
            file,
            "mapping",
            expected=f"a header, {SEQUENCE_ROWS} sequences, actors and sizes",
            found=f"{len(rows)} rows",
            hint=HINT,
        )
    subjects = rows[0][2 : 2 + SUBJECTS]
    sizes = {
        subject: _sizes(file, subject, text)
        for subject, text in zip(subjects, rows[SEQUENCE_ROWS + 2][2:], strict=False)
    }
    order = _camera_order(file, root)
    return Metadata(
        _takes(file, root, rows[1 : 1 + SEQUENCE_ROWS], subjects),
        _cameras(file, root, subjects, order, sizes),
    )


def _child(file: Path, root: ElementTree.Element, path: str) -> ElementTree.Element:
    found = root.find(path)
    if found is None:
        raise DataError(
            file, path, expected=f"the element {path}", found="no such element", hint=HINT
        )
    return found


def _text(element: ElementTree.Element) -> str:
    return "".join(element.itertext()).strip()


def _numbers(text: str) -> list[float]:
    """Numbers of a MATLAB text such as ``[1002 1000;1000 1000]``; empty if there is another word.

    >>> _numbers("[1002 1000;1e3 -2]")
    [1002.0, 1000.0, 1000.0, -2.0]
    """
    words = re.split(r"[\s;,]+", text.strip().strip("[]").strip())
    try:
        return [float(word) for word in words if word]
    except ValueError:
        return []


def _camera_order(file: Path, root: ElementTree.Element) -> list[str]:
    """Names of cameras 1 to 4, from ``dbcameras/index2id``."""
    words = re.findall(r"\d{6,}", " ".join(_child(file, root, "dbcameras/index2id").itertext()))
    if sorted(words) != sorted(CAMERAS):
        raise DataError(
            file,
            "dbcameras/index2id",
            expected=f"the cameras {', '.join(CAMERAS)}",
            found=", ".join(words) or "none",
        )
    return words


def _sizes(file: Path, subject: str, text: str) -> list[tuple[int, int]]:
    """(width, height) by camera; the text lists height before width."""
    values = _numbers(text)
    if len(values) != 2 * len(CAMERAS) or not all(v > 0 and v == int(v) for v in values):
        raise DataError(
            file,
            f"mapping, sizes of {subject}",
            expected="'[h w;h w;h w;h w]'",
            found=repr(text[:60]),
        )
    return [(int(values[i + 1]), int(values[i])) for i in range(0, len(values), 2)]


def _takes(
    file: Path, root: ElementTree.Element, rows: list[list[str]], subjects: list[str]
) -> tuple[Take, ...]:
    names = [_text(item) for item in _child(file, root, "actionnames")]
    counts = [[_text(cell) for cell in row] for row in root.findall("frames/tr")]
    takes: list[Take] = []
    seen: set[tuple[str, str]] = set()
    for column, subject in enumerate(subjects):
        for place, row in enumerate(rows):
            prefix = row[2 + column] if len(row) > 2 + column else ""
            if not prefix or prefix.startswith("_ALL"):
                continue
            number = _numbers(row[0]) + _numbers(row[1])
            if len(number) != 2:
                raise DataError(
                    file,
                    f"mapping, row {place + 1}",
                    expected="numbers of action and subaction",
                    found=f"{row[0]!r} and {row[1]!r}",
                )
            action, subaction = int(number[0]), int(number[1])
            if (subject, prefix) in seen:
                raise DataError(
                    file,
                    f"mapping, {subject}",
                    expected="a file prefix of its own for every sequence",
                    found=f"{prefix!r} twice",
                )
            seen.add((subject, prefix))
            name = names[action - 1] if 0 < action <= len(names) else prefix
            takes.append(
                Take(subject, prefix, action, subaction, name, _poses(counts, column, place))
            )
    return tuple(takes)


def _poses(counts: list[list[str]], subject: int, place: int) -> int:
    """Four mocap samples make a pose; the samples stand last in '[v1 v2 v3 v4 m]'."""
    try:
        values = _numbers(counts[subject][1 + place])
    except IndexError:
        return 0
    return int(values[-1]) // 4 if len(values) == 5 else 0


def _cameras(
    file: Path,
    root: ElementTree.Element,
    subjects: list[str],
    order: list[str],
    sizes: dict[str, list[tuple[int, int]]],
) -> dict[tuple[str, str], Camera]:
    numbers = _numbers(_text(_child(file, root, "w0")))
    if len(numbers) != W0_NUMBERS or not np.isfinite(numbers).all():
        raise DataError(
            file,
            "w0",
            expected=f"{W0_NUMBERS} numbers, the cameras of {SUBJECTS} subjects",
            found=f"{len(numbers)} numbers",
            hint=HINT,
        )
    outer = len(CAMERAS) * SUBJECTS * 6
    poses = np.array(numbers[:outer]).reshape(len(CAMERAS), SUBJECTS, 6)
    lenses = np.array(numbers[outer:]).reshape(len(CAMERAS), 9)
    cameras = {}
    for place, camera in enumerate(order):
        fx, fy, cx, cy, k1, k2, k3, p1, p2 = lenses[place]
        intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        distortion = np.array([k1, k2, p1, p2, k3])
        for column, subject in enumerate(subjects):
            if subject not in sizes or not fx > 0:
                raise DataError(
                    file,
                    f"{subject}, camera {camera}",
                    expected="a camera and a picture size",
                    found="none",
                    hint=HINT,
                )
            extrinsics = np.eye(4)
            extrinsics[:3, :3] = rotation(poses[place, column, :3])
            extrinsics[:3, 3] = -extrinsics[:3, :3] @ poses[place, column, 3:] / 1000
            cameras[subject, camera] = Camera(
                extrinsics, intrinsics, distortion, *sizes[subject][place]
            )
    return cameras


def rotation(angles: ArrayLike) -> Float:
    """``Rx(a) Ry(b) Rz(c)`` of three angles in radians, (3, 3)."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    turned: Float = about_x @ about_y @ about_z
    return turned


def project(points: ArrayLike, intrinsics: ArrayLike, distortion: ArrayLike) -> Float:
    """Project with the lens of the release's own code (`humandata.cameras.project_through_lens`).

    Parameters
    ----------
    points : array_like, shape (..., K, 3)
        Camera frame; NaN where a point is not in front of the camera.
    intrinsics : array_like, shape (3, 3)
    distortion : array_like, shape (5,)
        k1, k2, p1, p2, k3.

    Returns
    -------
    float64 ndarray, shape (..., K, 2)
        Pixels.
    """
    return project_through_lens(points, intrinsics, distortion, H36M_LENS)

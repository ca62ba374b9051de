"""MPI-INF-3DHP: the training and test sets of the official release, and SPIN's fits of the first.

Training rows are every tenth frame of every video of eight cameras, counted per video; cameras
outer, frames inner. All rows are kept, joints outside of the picture stay labelled, as released.
Test rows are those with ``valid_frame``. ``keypoints3d`` is ``annot3`` in metres, camera frame, not
root-centred, in both: it falls on the picture. ``univ_annot3``, scaled to one height, is
``keypoints3d_univ``, on which the usual test figures are defined.

``train_spin`` is SPIN's ``mpi_inf_3dhp_train.npz``: its rows, its 49 joints in 2D, its root-centred
24 in 3D, and SMPL fitted to several views, without a translation.

Where this differs from the peers:

* SPIN and mmhuman3d drop frames with a joint outside of the picture and keep every tenth of the
  rest over the whole run; ``--option filter=spin`` or ``mmhuman3d`` does the same. SPIN looks at 17
  joints, mmhuman3d at 28. mmhuman3d takes 2048 for the size of all test pictures, those of TS5 and
  TS6 (1920 x 1080) as well.
* SPIN and mmhuman3d train on ``annot3`` and test on ``univ_annot3``: two scales.
* SPIN pairs frames and annotations by their place in an unsorted listing of files; here the number
  in the file name says which row it is.
* In S4/Seq2, rows 3759 to 5852 have left and right exchanged, in 2D and 3D. Here they are put
  right, if a look at the joints before and after confirms it; ``--option sides=as_released`` leaves
  them. ``extra/sides_exchanged`` marks them either way.

Cameras: training from ``camera.calibration``; the test set has none in its annotations, so they
are fitted, scene by scene, to the joints whose 3D and 2D agree (to some thousandths of a pixel).
Hips and spine are adjusted differently in 2D and 3D, by up to 2 px: they are left out of the fit
and of ``reprojection_error``. That the extrinsics put the joints of all cameras in one place of the
world is checked, too.

Boxes hold all stored joints, enlarged 1.2 about their centre, not clipped; ``--option box=spin``
makes SPIN's, a square around the 17.

Sources: README and MATLAB helpers of the release; SPIN, mmhuman3d, MMPose for how others read them;
pose_refinement (vegesm) for the exchanged rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, keypoints, mpi_inf_3dhp_files, mpi_inf_3dhp_spin, videos
from humandata.columns import join, take
from humandata.converters.converter import Columns, DatasetInfo, Option, Reject, Unit
from humandata.errors import DataError, HumandataError
from humandata.mpi_inf_3dhp_files import FALLBACK, FRAMES, SCENES, VALID_ROWS
from humandata.schema import row_ids

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

RELEVANT = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)
"""The 17 joints of the test set among the 28 of the training set."""
LOOSE = (8, 11, 15)
"""Of the 17: hips and spine, whose 2D and 3D were adjusted apart."""
FIRM = tuple(joint for joint in range(17) if joint not in LOOSE)
SIZE, OUTDOORS = (2048, 2048), (1920, 1080)
EXCHANGED = ("S4", "Seq2", 3759, 5852)
"""Subject, sequence, first and last row whose sides are exchanged."""
ACTIVITIES = (
    "unknown", "stand or walk", "exercise", "sit on a chair", "reach or crouch", "on the floor",
    "sports", "other",
)  # fmt: skip
BOX_FACTOR = 1.2
GOOD_PX = 1.0

INFO = DatasetInfo(
    name="mpi_inf_3dhp",
    title="MPI-INF-3DHP",
    citation="Mehta et al., Monocular 3D Human Pose Estimation In The Wild Using Improved CNN "
    "Supervision, 3DV 2017",
    url="https://vcai.mpi-inf.mpg.de/3dhp-dataset",
    licence="research only, by the terms of the MPI-INF-3DHP page",
    splits=("train", "test", "train_spin"),
    expects=(
        "RAW/S1/Seq1/annot.mat, RAW/S1/Seq1/camera.calibration and "
        "RAW/S1/Seq1/imageSequence/video_0.avi or extracted frames; "
        "RAW/mpi_inf_3dhp_test_set/TS1/annot_data.mat and imageSequence/img_000001.jpg; "
        "RAW/mpi_inf_3dhp_train.npz for train_spin"
    ),
    yields="28 joints (test: 17) in 2D, in 3D and scaled to one height, cameras; SMPL of SPIN",
    keypoints2d="mpi_inf_3dhp",
    keypoints3d="mpi_inf_3dhp",
    options=(
        Option("stride", "training: keep every n-th frame of every video", (), "10"),
        Option("cameras", "training: a set, or numbers such as 0,1,8", (), "vnect"),
        Option(
            "filter",
            "'none' keeps all rows; or the rule of a peer, which also replaces the stride",
            ("none", "spin", "mmhuman3d"),
            "none",
        ),
        Option("box", "extent of the joints, or SPIN's square", ("joints", "spin"), "joints"),
        Option(
            "sides",
            "put right the rows of S4/Seq2 whose sides are exchanged, or leave them",
            ("corrected", "as_released"),
            "corrected",
        ),
    ),
)


def find_splits(raw: Path) -> list[str]:
    """Splits of which at least one sequence, scene or file is there."""
    found = []
    if mpi_inf_3dhp_files.find_sequences(raw):
        found.append("train")
    if mpi_inf_3dhp_files.find_scenes(raw):
        found.append("test")
    if mpi_inf_3dhp_spin.find(raw) is not None:
        found.append("train_spin")
    if not found:
        raise DataError(raw, expected=INFO.expects, found="none of these annotations")
    return found


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit per sequence or scene; a peer's training rule counts over all: one unit."""
    chosen = {option.name: option.default for option in INFO.options} | dict(options)
    missing = DataError(
        raw, f"split {split}", expected=INFO.expects, found="no annotations of this split"
    )
    if split == "train_spin":
        file = mpi_inf_3dhp_spin.find(raw)
        if file is None:
            raise missing
        return [Unit("train_spin", split, raw, (file,), chosen)]
    if split == "test":
        scenes = mpi_inf_3dhp_files.find_scenes(raw)
        if not scenes:
            raise missing
        return [
            Unit(
                scene,
                split,
                raw,
                (raw / folder / "annot_data.mat",),
                {**chosen, "scene": scene, "folder": folder, "absent": _absent(SCENES, scenes, i)},
            )
            for i, (scene, folder) in enumerate(scenes)
        ]
    sequences = mpi_inf_3dhp_files.find_sequences(raw)
    if not sequences:
        raise missing
    detail = {
        **chosen,
        "stride": _stride(chosen["stride"]),
        "cameras": mpi_inf_3dhp_files.cameras_of(chosen["cameras"]),
    }
    groups = [[s] for s in sequences] if chosen["filter"] == "none" else [sequences]
    every = [(subject, f"Seq{n}") for subject in FRAMES for n in (1, 2)]
    units = []
    for i, group in enumerate(groups):
        files = [
            raw / folder / name
            for _, _, folder in group
            for name in ("annot.mat", "camera.calibration")
            if (raw / folder / name).is_file()
        ]
        name = "/".join(group[0][:2]) if len(groups) == len(sequences) else "all sequences"
        absent = _absent(
            ["/".join(s) for s in every], [("/".join(s[:2]), s[2]) for s in sequences], i
        )
        units.append(
            Unit(name, split, raw, tuple(files), {**detail, "sequences": group, "absent": absent})
        )
    return units


def _absent(every: Sequence[str], found: Sequence[tuple[str, str]], unit: int) -> list[str]:
    """What is not on the disk, for the first unit's notes."""
    there = {name for name, _ in found}
    return [name for name in every if name not in there] if unit == 0 else []


def _stride(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise HumandataError(f"stride={text}: write a whole number from 1 on")
    return int(text)


def read(unit: Unit) -> Columns:
    """Read a sequence, a scene, or SPIN's file.

    Raises
    ------
    DataError
        If a file is missing or damaged, or a shape is not that of the release.
    """
    if unit.split == "train_spin":
        return mpi_inf_3dhp_spin.read(unit)
    columns = _test(unit) if unit.split == "test" else _train(unit)
    convention = "mpi_inf_3dhp_test" if unit.split == "test" else "mpi_inf_3dhp"
    box = unit.detail["box"]
    columns.field_attributes = {
        "keypoints2d": {"convention": convention},
        "keypoints3d": {"convention": convention, "root": "absolute"},
        "keypoints3d_univ": {"convention": convention, "root": "absolute"},
        "bbox_xywh": {
            "rule": "extent of the joints in 2D" if box == "joints" else "square around 17 joints",
            "factor": BOX_FACTOR,
        },
        "video": videos.RECORDED,
        "extra/activity": {"vocabulary": list(ACTIVITIES)},
    }
    if unit.split == "test":
        rule = "fitted per scene to the release's 3D and 2D joints, hips and spine left out"
        columns.field_attributes["intrinsics"] = {"rule": rule}
    if unit.detail["absent"]:
        columns.notes.append(f"not on the disk, left out: {', '.join(unit.detail['absent'])}")
    return columns


# Training --------------------------------------------------------------------------------------


def _train(unit: Unit) -> Columns:
    parts: list[Columns] = []
    counter = 0
    for subject, sequence, folder in unit.detail["sequences"]:
        made, counter = _sequence(unit, subject, sequence, folder, counter)
        parts += made
    return join(parts)


def _sequence(
    unit: Unit, subject: str, sequence: str, folder: str, counter: int
) -> tuple[list[Columns], int]:
    """Columns per camera, and how many frames a peer's counter has passed."""
    options = unit.detail
    file = unit.raw / folder / "annot.mat"
    calibration = mpi_inf_3dhp_files.read_calibration(unit.raw / folder / "camera.calibration")
    cameras: tuple[int, ...] = options["cameras"]
    lost = [str(camera) for camera in cameras if camera not in calibration]
    if lost:
        raise DataError(
            unit.raw / folder / "camera.calibration",
            expected=f"cameras {', '.join(map(str, cameras))}",
            found=f"no camera {', '.join(lost)}",
        )
    mpi_inf_3dhp_files.check_frames(file)
    all_pixels = mpi_inf_3dhp_files.read_cells(file, "annot2", cameras, 2)
    usable = FRAMES[subject][int(sequence[-1]) - 1]
    chosen: list[Int] = []
    filtered: list[dict[str, int]] = []
    for pixels in all_pixels:
        rows = np.arange(min(usable, len(pixels)), dtype=np.int64)
        left: dict[str, int] = {"beyond_official_frames": len(pixels) - len(rows)}
        if options["filter"] == "none":
            kept = rows[:: options["stride"]]
            left[f"stride_{options['stride']}"] = len(rows) - len(kept)
        else:
            looked_at = list(RELEVANT if options["filter"] == "spin" else range(28))
            inside = rows[_inside(pixels[rows][:, looked_at], SIZE)]
            number = counter + 1 + np.arange(len(inside))
            counter += len(inside)
            kept = inside[number % 10 == 1]
            left[f"{options['filter']}_joint_outside"] = len(rows) - len(inside)
            left[f"{options['filter']}_every_tenth"] = len(inside) - len(kept)
        chosen.append(kept)
        filtered.append({rule: count for rule, count in left.items() if count})
    swapped = _exchanged(subject, sequence, all_pixels)
    records = [len(pixels) for pixels in all_pixels]
    planes = [pixels[rows] for pixels, rows in zip(all_pixels, chosen, strict=True)]
    del all_pixels
    spaces = {}
    for name in ("annot3", "univ_annot3"):
        cells = mpi_inf_3dhp_files.read_cells(file, name, cameras, 3)
        for camera, values, count in zip(cameras, cells, records, strict=True):
            if len(values) != count:
                raise DataError(
                    file,
                    f"{name}, camera {camera}",
                    expected=f"{count} rows, as annot2 has",
                    found=f"{len(values)}",
                )
        if name == "annot3":
            views = [calibration[camera] for camera in cameras]
            disagree = mpi_inf_3dhp_files.compare_cameras(cells, views)
        spaces[name] = [v[rows] / 1000 for v, rows in zip(cells, chosen, strict=True)]
    parts = []
    for i, camera in enumerate(cameras):
        joints = [planes[i], spaces["annot3"][i], spaces["univ_annot3"][i]]
        mark = swapped & np.isin(chosen[i], np.arange(EXCHANGED[2], EXCHANGED[3] + 1))
        if options["sides"] == "corrected":
            flip = keypoints.flip_permutation("mpi_inf_3dhp")
            joints = [np.where(mark[:, None, None], j[:, flip], j) for j in joints]
        name = f"{subject}/{sequence}/video_{camera}"
        names = {"base": folder, "subject": subject, "sequence": sequence, "camera": camera}
        paths, films = mpi_inf_3dhp_files.find_pictures(
            unit.raw,
            mpi_inf_3dhp_files.TRAIN_FRAMES,
            f"{folder}/imageSequence/video_{camera}.avi",
            chosen[i],
            **names,
        )
        view = calibration[camera]
        columns = _columns(
            unit, name, chosen[i], joints, (view.width, view.height), view.intrinsics, 1
        )
        count = len(chosen[i])
        columns.images |= {
            "path": paths,
            "video": films,
            "extrinsics": np.tile(view.extrinsics, (count, 1, 1)).astype(np.float32),
        }
        columns.instances["extra/sides_exchanged"] = mark
        columns.sequences = {"name": [name], "subject": [subject], "camera": [str(camera)]}
        columns.filtered = filtered[i]
        columns.records = records[i]
        parts.append(_sound(columns, name))
    if disagree is not None:
        parts[0].notes.append(f"{subject}/{sequence}: {disagree}")
    return parts, counter


def _exchanged(subject: str, sequence: str, pixels: list[Float]) -> bool:
    """Whether the known rows of S4/Seq2 do have their sides exchanged in this copy.

    At the first of them every joint jumps onto the place of its partner.
    """
    if (subject, sequence) != EXCHANGED[:2]:
        return False
    first = EXCHANGED[2]
    flip = keypoints.flip_permutation("mpi_inf_3dhp")
    pairs = [values for values in pixels if len(values) > first]
    if not pairs:
        return False
    stays = sum(np.nansum(np.abs(v[first] - v[first - 1])) for v in pairs)
    jumps = sum(np.nansum(np.abs(v[first][flip] - v[first - 1])) for v in pairs)
    return bool(jumps < stays)


def _inside(pixels: Float, size: tuple[int, int]) -> Bool:
    inside = (pixels >= 0) & (pixels < np.array(size))
    return np.asarray(inside.all(axis=(1, 2)), bool)


# Test ------------------------------------------------------------------------------------------


def _test(unit: Unit) -> Columns:
    scene, folder = unit.detail["scene"], unit.detail["folder"]
    (file,) = unit.files
    wanted = ["annot2", "annot3", "univ_annot3", "valid_frame"]
    content = mpi_inf_3dhp_files.read_mat(file, wanted, ["activity_annotation"])
    pixels = mpi_inf_3dhp_files.frames_first(file, "annot2", content["annot2"], 2)
    spaces = [
        mpi_inf_3dhp_files.frames_first(file, name, content[name], 3) / 1000
        for name in ("annot3", "univ_annot3")
    ]
    valid = np.asarray(np.asarray(content["valid_frame"], np.float64).ravel() != 0, bool)
    activity = np.asarray(content.get("activity_annotation", np.zeros(len(valid)))).ravel()
    lengths = {len(pixels), len(valid), len(activity), *(len(space) for space in spaces)}
    if len(lengths) > 1:
        raise DataError(file, expected="as many rows in every variable", found=f"{sorted(lengths)}")
    size = OUTDOORS if scene in ("TS5", "TS6") else SIZE
    notes = []
    if valid.sum() != VALID_ROWS[scene]:
        notes.append(f"{scene}: {valid.sum()} valid rows, the release has {VALID_ROWS[scene]}")
    filtered = {"invalid_frame": int((~valid).sum())}
    if unit.detail["filter"] != "none":
        inside = _inside(pixels, size if unit.detail["filter"] == "spin" else SIZE)
        filtered[f"{unit.detail['filter']}_joint_outside"] = int((valid & ~inside).sum())
        valid = valid & inside
    rows = np.flatnonzero(valid)
    firm = list(FIRM)
    fitted = mpi_inf_3dhp_files.fit_intrinsics(
        spaces[0][rows][:, firm].reshape(-1, 3), pixels[rows][:, firm].reshape(-1, 2)
    )
    source = 1
    if fitted is None or fitted[1] > GOOD_PX:
        source = 2
        fx, fy, cx, cy = FALLBACK[scene]
        intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        why = "too few rows" if fitted is None else f"the best misses by {fitted[1]:.1f} px"
        notes.append(f"{scene}: no camera fits its 3D and 2D joints ({why}); MMPose's is assumed")
    else:
        intrinsics = fitted[0]
    columns = _columns(
        unit, scene, rows, [pixels[rows], *(s[rows] for s in spaces)], size, intrinsics, source
    )
    paths, films = mpi_inf_3dhp_files.find_pictures(
        unit.raw, mpi_inf_3dhp_files.TEST_FRAMES, "", rows, base=folder, scene=scene
    )
    columns.images |= {"path": paths, "video": films}
    known = (activity >= 1) & (activity < len(ACTIVITIES))
    columns.instances["extra/activity"] = np.where(known, activity, 0).astype(np.uint8)[rows]
    columns.sequences = {"name": [scene], "subject": [scene], "camera": [""]}
    columns.filtered = {rule: count for rule, count in filtered.items() if count}
    columns.records = len(valid)
    columns.notes = notes
    return _sound(columns, scene)


# Both ------------------------------------------------------------------------------------------


def _columns(
    unit: Unit,
    name: str,
    rows: Int,
    joints: Sequence[Float],
    size: tuple[int, int],
    intrinsics: Float,
    source: int,
) -> Columns:
    """What training and test rows have in common; ``joints``: 2D, 3D and universal 3D."""
    pixels, space, universal = joints
    count = len(rows)
    relevant = range(17) if pixels.shape[1] == 17 else RELEVANT
    firm = [relevant[joint] for joint in FIRM]
    everyone = np.ones((count, len(firm)), bool)
    error = geometry.residual_px(space[:, firm], pixels[:, firm], intrinsics, everyone)
    around = pixels if unit.detail["box"] == "joints" else pixels[:, list(relevant)]
    box = np.asarray(geometry.bbox_from_points(around, factor=BOX_FACTOR), np.float64)
    if unit.detail["box"] == "spin":
        centre, side = geometry.xywh_to_square(box)
        box = np.column_stack([centre - side[:, None] / 2, side, side])
    images = {
        "id": row_ids(f"mpi_inf_3dhp/{unit.split}/{name}/image", rows),
        "width": np.full(count, size[0], np.int32),
        "height": np.full(count, size[1], np.int32),
        "sequence": np.zeros(count, np.int32),
        "frame": rows.astype(np.int32),
        "intrinsics": np.tile(intrinsics, (count, 1, 1)).astype(np.float32),
        "intrinsics_source": np.full(count, source, np.uint8),
    }
    instances = {
        "id": row_ids(f"mpi_inf_3dhp/{unit.split}/{name}", rows),
        "image": np.arange(count, dtype=np.int32),
        "person": np.zeros(count, np.int32),
        "bbox_xywh": np.hstack([box, np.ones((count, 1))]).astype(np.float32),
        "keypoints2d": _confident(pixels),
        "keypoints3d": _confident(space),
        "keypoints3d_univ": _confident(universal),
        "reprojection_error": np.nan_to_num(error, nan=-1).astype(np.float32),
    }
    return Columns(images, instances)


def _confident(points: Float) -> NDArray[np.float32]:
    """Coordinates and a confidence of one."""
    ones = np.ones((*points.shape[:-1], 1))
    return np.concatenate([points, ones], axis=-1).astype(np.float32)


def _sound(columns: Columns, where: str) -> Columns:
    """Without rows whose numbers are not numbers, or whose person is behind the camera."""
    at = columns.instances
    finite = np.ones(len(at["id"]), bool)
    for name in ("keypoints2d", "keypoints3d", "keypoints3d_univ"):
        finite &= np.isfinite(at[name]).all(axis=(1, 2))
    pelvis = 14 if at["keypoints3d"].shape[1] == 17 else 4
    behind = finite & (at["keypoints3d"][:, pelvis, 2] <= 0)
    flat = finite & ~behind & ~(at["bbox_xywh"][:, 2:4] > 0).all(axis=1)
    frame = columns.images["frame"]
    columns.rejects += [
        Reject(where, f"frame {frame[row]}", reason, detail)
        for reason, bad, detail in (
            ("not_finite", ~finite, "2D or 3D joints hold NaN or infinity"),
            ("behind_camera", behind, "the pelvis lies behind the camera"),
            ("empty_box", flat, "the 2D joints span no box"),
        )
        for row in np.flatnonzero(bad)
    ]
    known = at["reprojection_error"][finite & (at["reprojection_error"] >= 0)]
    typical = float(np.median(known)) if len(known) else 0.0
    if typical > GOOD_PX:
        columns.notes.append(
            f"{where}: projected 3D joints miss the 2D joints by {typical:.1f} px (median): do "
            "annotations and calibration belong to one sequence?"
        )
    sound = finite & ~behind & ~flat
    return columns if sound.all() else take(columns, sound)

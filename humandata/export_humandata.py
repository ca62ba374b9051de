"""Write a store as a HumanData file of mmhuman3d; see :mod:`humandata.exporting`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import npz_writing, schema
from humandata.export_job import GENDER_LETTERS, Job

Array = NDArray[Any]

SMPL_SOURCES = {
    "release": "original", "mosh": "original", "eft": "eft", "cliff": "cliff_annot",
    "neuralannot": "nerual_annot",
}  # fmt: skip
"""Who made a fit, in the words (and the spelling) of ``misc``."""


def write(job: Job, file: Path) -> int:
    persons = len(job.store)
    data: dict[str, Any] = {
        "__key_strict__": False,
        "__data_len__": persons,
        "__keypoints_compressed__": True,
        "image_path": npz_writing.text(job.paths()),
        "config": job.store.dataset,
    }
    misc = _settings(job, data)
    boxes, factor = job.boxes()
    data["bbox_xywh"] = boxes.astype(np.float32)
    misc |= {"bbox_body_scale": factor, "bbox_source": str(job.says("bbox_xywh", "rule", ""))}
    for name in ("keypoints2d", "keypoints3d"):
        if job.has(name):
            _put_union(job, data, name, name)
    root = job.has("keypoints3d") and job.says("keypoints3d", "root")
    if root in ("pelvis", "absolute"):
        misc["kps3d_root_aligned"] = root == "pelvis"
    for model in ("smpl", "smplx"):
        _put_body(job, data, misc, model)
    meta: dict[str, Any] = {}
    _put_gender(job, meta)
    _put_pictures(job, data, meta)
    _put_extras(job, data)
    if meta:
        data["meta"] = meta
    data["misc"] = misc
    npz_writing.write_npz(file, data)
    return persons


def _settings(job: Job, data: dict[str, Any]) -> dict[str, Any]:
    """Settings of the file that a store was made from, given back."""
    kept = job.says("source_id", "file_level", {}) if job.has("source_id") else {}
    if isinstance(kept.get("config"), str):
        data["config"] = kept["config"]
    return {
        key.removeprefix("misc."): value for key, value in kept.items() if key.startswith("misc.")
    }


def _put_union(job: Job, data: dict[str, Any], name: str, key: str) -> None:
    """Joints of a field in the 190-joint union, of which only those in the mask are written."""
    points, mask = job.joints(name, "human_data")
    if job.store.convention(name) == "human_data":
        mask = np.atleast_1d((points[..., -1] > 0).any(axis=0))
    data[key] = points[:, mask].astype(np.float32)
    data[f"{key}_mask"] = mask.astype(np.uint8)
    data[f"{key}_convention"] = "human_data"


def _put_body(job: Job, data: dict[str, Any], misc: dict[str, Any], model: str) -> None:
    if not job.has(f"{model}/valid"):
        return
    valid = job.instances(f"{model}/valid")
    names = [n.partition("/")[2] for n in job.store.instances if n.startswith(f"{model}/")]
    body = {
        name: job.instances(f"{model}/{name}")
        for name in names
        if name not in ("valid", "transl_valid", "transl", "source", "fit_error")
    }
    if job.has(f"{model}/transl"):
        moved = job.instances(f"{model}/transl_valid")
        if moved.any():
            body["transl"] = job.instances(f"{model}/transl")
            if (moved != valid).any():
                data[f"has_{model}_transl"] = moved.astype(np.uint8)
        job.used.add(f"instances/{model}/transl")
    data[model] = body
    data[f"has_{model}"] = valid.astype(np.uint8)
    hand = f"{model}/left_hand_pose"
    if job.has(hand) and job.says(hand, "flat_hand_mean") is not None:
        misc["flat_hand_mean"] = bool(job.says(hand, "flat_hand_mean"))
    if job.has(f"{model}/source"):
        words = job.store.instances[f"{model}/source"].attributes.get("vocabulary") or list(
            schema.field("instances", f"{model}/source").vocabulary
        )
        made = {words[code] for code in np.unique(job.store.instances[f"{model}/source"][:][valid])}
        if len(made) == 1 and (word := made.pop()) in SMPL_SOURCES:
            misc[f"{model}_source"] = SMPL_SOURCES[word]
            if word == "mosh":
                job.notes.append("fits by MoSh are told as 'original', HumanData's word for them")
            job.used.add(f"instances/{model}/source")


def _put_gender(job: Job, meta: dict[str, Any]) -> None:
    """One gender per person: the body model's, or the actor's where there are no bodies."""
    # Readers take AGORA's genders for those of the scans, beside neutral fits.
    names = ("scan_gender", "gender", "actor_gender")
    name = next((name for name in names if job.has(name)), "gender")
    if job.has(name):
        meta["gender"] = [GENDER_LETTERS[code] for code in job.instances(name).tolist()]


def _put_pictures(job: Job, data: dict[str, Any], meta: dict[str, Any]) -> None:
    """Sizes, cameras, sequences and frames, once per person."""
    picture = job.picture()
    for side in ("height", "width"):
        values = np.asarray(job.images(side))
        if values.any():
            meta[side] = values[picture].tolist()
    images = job.store.images
    if "intrinsics" in images:
        cameras = _cameras(job)
        if any(cameras):
            data["cam_param"] = npz_writing.objects([cameras[row] for row in picture.tolist()])
    if "sequence" in images:
        sequence = np.asarray(images["sequence"][:])[picture]
        if len(sequence) and (sequence >= 0).all():
            job.used |= {"images/sequence", "sequences/name"}
            names = job.store.sequences["name"][:]
            data["video_path"] = npz_writing.text([names[row] for row in sequence.tolist()])
            if "frame" in images:
                data["frame_idx"] = np.asarray(job.images("frame"))[picture]
        elif (sequence >= 0).any():
            job.left_out["images/sequence"] = "not every picture has one"


def _cameras(job: Job) -> list[dict[str, Any]]:
    """One camera per picture in the spelling of mmhuman3d's CameraParameter, empty where unknown.

    Assumed cameras are left out: a reader of the file would take them for measured ones.
    """
    images = job.store.images
    intrinsics = np.asarray(job.images("intrinsics"))
    source = np.asarray(job.images("intrinsics_source")) if "intrinsics_source" in images else None
    known = np.atleast_1d(intrinsics.any(axis=(1, 2)) if source is None else source == 1)
    if source is not None and (source == 2).any():
        job.left_out["images/intrinsics"] = f"{int((source == 2).sum()):,} are only assumed"
    extrinsics = None
    if "extrinsics" in images:
        extrinsics = np.asarray(job.images("extrinsics"))
    height, width = (np.asarray(images[side][:]) for side in ("height", "width"))
    cameras: list[dict[str, Any]] = []
    for row in range(len(intrinsics)):
        camera: dict[str, Any] = {}
        if known[row]:
            camera |= {"in_mat": intrinsics[row].tolist()}
            camera |= {"H": int(height[row]), "W": int(width[row])}
        if extrinsics is not None and extrinsics[row].any():
            camera |= {
                "rotation_mat": extrinsics[row, :3, :3].tolist(),
                "translation": extrinsics[row, :3, 3].tolist(),
            }
        cameras.append(camera)
    return cameras


def _put_extras(job: Job, data: dict[str, Any]) -> None:
    """What an import kept aside, under its own name again; codes as words."""
    for name in [name for name in job.store.instances if name.startswith("extra/")]:
        key = name.removeprefix("extra/")
        if key in data:
            job.left_out[f"instances/{name}"] = f"the file has a {key} of its own"
        elif "keypoints" in key:
            # Readers expect every key of this name to be joints with a mask.
            if job.says(name, "convention") is None:
                job.left_out[f"instances/{name}"] = "joints of no known convention"
            else:
                _put_union(job, data, name, key)
        else:
            values, words = job.instances(name), job.says(name, "vocabulary")
            data[key] = values if words is None else np.array(words)[values]

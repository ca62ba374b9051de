"""VIBE databases with known truth, and a writer of joblib's form that needs no joblib."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np

WRAPPED = "joblib.numpy_pickle"


class NumpyArrayWrapper:
    """Pickles as joblib's class of this name does: by its attributes."""

    __module__ = WRAPPED


class _Writer(pickle._Pickler):
    """joblib's NumpyPickler: every array as a wrapper, its bytes directly behind it."""

    aligned = False

    def save(self, obj: Any, *args: Any, **kwargs: Any) -> None:
        if type(obj) is not np.ndarray:
            super().save(obj, *args, **kwargs)
            return
        wrapper = NumpyArrayWrapper()
        fortran = obj.flags.f_contiguous and not obj.flags.c_contiguous
        wrapper.__dict__ |= {
            "subclass": np.ndarray, "shape": obj.shape, "order": "F" if fortran else "C",
            "dtype": obj.dtype, "allow_mmap": not obj.dtype.hasobject,
        }  # fmt: skip
        if self.aligned:
            wrapper.__dict__["numpy_array_alignment_bytes"] = 16
        super().save(wrapper)
        if obj.dtype.hasobject:
            self.write(pickle.dumps(obj, protocol=2))
            return
        if self.aligned:
            self.write(bytes([3]) + b"\xff" * 3)
        self.write(obj.tobytes("F" if fortran else "C"))


def dump(file: Path, value: Any, *, aligned: bool = False, compress: bool = False) -> Path:
    """What joblib.dump writes (protocol 2): `aligned` as since 1.2, `compress` by zlib."""
    stream = io.BytesIO()
    module = types.ModuleType(WRAPPED)
    module.NumpyArrayWrapper = NumpyArrayWrapper  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in ("joblib", WRAPPED)}
    sys.modules |= {"joblib": types.ModuleType("joblib"), WRAPPED: module}
    try:
        writer = _Writer(stream, 2)
        writer.aligned = aligned
        writer.dump(value)
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
    data = stream.getvalue()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(zlib.compress(data) if compress else data)
    return file


def pw3d(rows: int = 4) -> dict[str, Any]:
    """3dpw_test_db.pt: 14 joints, joint j at (j, 2 j); two people over the same pictures."""
    rng = np.random.default_rng(2)
    joint = np.arange(14.0)
    points = np.tile(np.stack([joint, 2 * joint, 0 * joint + 0.8], 1), (rows, 1, 1))
    points[:, 12:, 2] = 0  # VIBE puts the nose there, without confidence
    person, frame = np.arange(rows) // (rows // 2), np.arange(rows) % (rows // 2)
    return {
        "vid_name": np.array([f"downtown_walking_00_{p}" for p in person]),
        "frame_id": frame + 3,
        "img_name": np.array(
            [f"/ps/project/3DPW/imageFiles/downtown_walking_00/image_{f:05d}.jpg" for f in frame]
        ),
        "joints3D": np.asfortranarray(rng.normal(size=(rows, 14, 3)).astype(np.float32)),
        "joints2D": points.astype(np.float32),
        "shape": rng.normal(size=(rows, 10)),
        "pose": rng.normal(0, 0.3, (rows, 72)),
        "bbox": np.tile([100.0, 200, 50, 60], (rows, 1)),
        "features": np.ones((rows, 2048), np.float32),
        "valid": np.array([1, 1, 1, 0] * (rows // 4)),
    }


def mpii3d(rows: int = 3) -> dict[str, Any]:
    """mpii3d_train_db.pt: 49 joints, 17 filled; the rest at minus the pelvis; names as strings."""
    rng = np.random.default_rng(3)
    filled = [25 + slot for slot in (*range(15), 16, 18)]
    solid = np.zeros((rows, 49, 3))
    solid[:, filled] = rng.normal(size=(rows, 17, 3))
    solid -= solid[:, 39:40].copy()
    points = np.zeros((rows, 49, 3))
    points[:, filled] = [5, 6, 1]
    return {
        "vid_name": np.array(["S1_Seq1_vid0"] * rows, dtype=object),
        "frame_id": np.array([f"{row + 1:06d}" for row in range(rows)]),
        "img_name": np.array(
            [f"/home/x/S1/Seq1/imageFrames/video_0/frame_{r + 1:06d}.jpg" for r in range(rows)]
        ),
        "joints3D": solid,
        "joints2D": points,
        "bbox": np.tile([100.0, 200, 50, 60], (rows, 1)),
        "features": np.ones((rows, 2048), np.float32),
    }

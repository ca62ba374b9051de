"""Predictions for rows of a store: made by a checkpoint, or read from a file anybody may write.

A predictions file is a ``.npz`` with these arrays, one row per person, in any order:

===================  ==================  ==========================================================
``id``               (N,) uint64         ids of the rows: ``store.instances["id"]``
``global_orient``    (N, 3) float        axis-angle in radians, in the camera frame of the picture
``body_pose``        (N, 23, 3) float    axis-angle, joints 1 to 23 (or (N, 69))
``betas``            (N, 10) float       shape of the protocol's body (neutral)
``camera``           (N, 3) float        weak perspective s, tx, ty of the crop; for pictures only
``joints``           (N, 17, 3) float    the 17 joints of the h36m regressor, metres; or (N, 14, 3)
                                         in LSP order with the pelvis subtracted already
``vertices``         (N, 6890, 3) float  the mesh, metres, before translation
``source``           text                who made them
===================  ==================  ==========================================================

Needed are ``id`` and one of: the three parameters, ``joints``, ``vertices``. Where joints or
vertices are given they are taken as they are. Keep ``vertices`` uncompressed (``numpy.savez``):
they are mapped, not read.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.errors import DataError, HumandataError, MissingExtra
from humandata.store import Store
from humandata.training.protocols import Protocol
from humandata.unpickle import load_npz

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]

PARAMETERS: dict[str, tuple[int, ...]] = {
    "global_orient": (3,),
    "body_pose": (23, 3),
    "betas": (10,),
}
_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "global_orient": ((3,),),
    "body_pose": ((23, 3), (69,)),
    "betas": ((10,),),
    "camera": ((3,),),
    "joints": ((17, 3), (14, 3)),
    "vertices": ((6890, 3),),
}


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says about N rows of a store; the arrays are those of a predictions file.

    Attributes
    ----------
    id : (N,) uint64
    global_orient, body_pose, betas : (N, 3), (N, 23, 3), (N, 10) or None
    camera : (N, 3) or None
    joints : (N, 17, 3) or (N, 14, 3) or None
    vertices : (N, 6890, 3) or None
    source : str
        Where they come from, for reports.
    """

    id: NDArray[np.uint64]
    global_orient: Array | None = None
    body_pose: Array | None = None
    betas: Array | None = None
    camera: Array | None = None
    joints: Array | None = None
    vertices: Array | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.id)

    @property
    def has_parameters(self) -> bool:
        """Whether there are SMPL parameters."""
        return self.global_orient is not None

    def take(self, place: Array) -> Predictions:
        """Some of the predictions, in the order of ``place``; meshes in a file stay there."""
        arrays = self.arrays()
        if isinstance(self.vertices, np.memmap):
            del arrays["vertices"]
        chosen = {name: values[place] for name, values in arrays.items()}
        return Predictions(id=self.id[place], source=self.source, **chosen)

    def arrays(self) -> dict[str, Array]:
        """The arrays that are there, by name, ``id`` left out."""
        found = {name: getattr(self, name) for name in _SHAPES}
        return {name: values for name, values in found.items() if values is not None}


def load_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Read and check a predictions file.

    Raises
    ------
    DataError
        If a key is missing, unknown, or of another shape or type; if an id occurs twice; if a
        number is not finite.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as content:
            names = list(content.files)
            arrays = {name: content[name] for name in names if name != "vertices"}
        if "vertices" in names:
            arrays["vertices"] = load_npz(path, mapped_from=1)["vertices"]
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        if "pickled" in found:  # what NumPy says of anything it does not know, with unsafe advice
            found = "another kind of file"
        raise DataError(path, expected="a predictions file (.npz)", found=found) from error
    source = str(arrays.pop("source", path))
    known = ("id", *_SHAPES)
    unknown = sorted(arrays.keys() - set(known))
    if unknown or "id" not in arrays:
        raise DataError(
            path,
            unknown[0] if unknown else None,
            expected=f"the keys {', '.join(known)}",
            found="an unknown key" if unknown else f"no id, only {', '.join(arrays) or 'nothing'}",
        )
    return _checked(path, arrays, source)


def _checked(path: Path, arrays: dict[str, Array], source: str) -> Predictions:
    ids = arrays.pop("id")
    if ids.ndim != 1 or ids.dtype.kind not in "ui":
        raise DataError(
            path,
            "id",
            expected="whole numbers (N,), best uint64",
            found=f"{ids.dtype} {ids.shape}",
            hint='They are store.instances["id"]; float64 cannot hold 64 bits.',
        )
    ids = ids.astype(np.uint64)
    kinds, counts = np.unique(ids, return_counts=True)
    if len(kinds) < len(ids):
        twice = kinds[counts > 1][0]
        raise DataError(
            path, f"id {twice}", expected="one row per id", found=f"{counts.max()} rows"
        )
    for name, values in arrays.items():
        allowed = [(len(ids), *shape) for shape in _SHAPES[name]]
        if values.shape not in allowed or values.dtype.kind != "f":
            expected = " or ".join(str(shape) for shape in allowed)
            raise DataError(
                path, name, expected=f"floats {expected}", found=f"{values.dtype} {values.shape}"
            )
        for start in range(0, len(ids), 1024):
            block = values[start : start + 1024]
            finite = np.isfinite(block.reshape(len(block), -1)).all(axis=1)
            if not finite.all():
                bad = ids[start + int(np.argmin(finite))]
                raise DataError(
                    path, f"{name} of id {bad}", expected="numbers", found="NaN or infinity"
                )
    given = [name for name in PARAMETERS if name in arrays]
    if len(given) not in (0, 3) or not (given or {"joints", "vertices"} & arrays.keys()):
        raise DataError(
            path,
            expected=f"all of {', '.join(PARAMETERS)}, or joints, or vertices",
            found=", ".join(arrays) or "none of them",
        )
    if "body_pose" in arrays:
        arrays["body_pose"] = arrays["body_pose"].reshape(-1, 23, 3)
    return Predictions(id=ids, source=source, **arrays)


def save_predictions(predictions: Predictions, path: str | os.PathLike[str]) -> Path:
    """Write a predictions file, whole or not at all.

    Returns
    -------
    Path
        The file; ``.npz`` is not added.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            arrays: dict[str, Any] = {"id": predictions.id, **predictions.arrays()}
            np.savez(file, **arrays, source=np.array(predictions.source))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise HumandataError(f"{path}: could not be written: {error.strerror or error}") from error
    return path


def crop_boxes(store: Store, rows: Array, protocol: Protocol) -> Array | None:
    """Boxes (n, 4) x, y, w, h that a protocol has crops cut by; None for the store's own.

    The store's box is taken back to the tight extent by the factor its attributes name, and
    enlarged by the protocol's.
    """
    if protocol.box_factor is None:
        return None
    column = store.instances[protocol.box]
    boxes = np.asarray(column[rows], np.float64)[:, :4]
    factor = column.attributes.get("factor")
    if not isinstance(factor, int | float) or not factor > 0:
        return boxes
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    size = boxes[:, 2:] * (protocol.box_factor / factor)
    return np.concatenate([centre - size / 2, size], axis=1)


def predict(
    checkpoint: str | os.PathLike[str],
    store: Store,
    rows: Array,
    protocol: Protocol,
    *,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 2,
    progress: Progress | None = None,
) -> Predictions:
    """Run a trained network over rows of a store. Needs torch.

    Parameters
    ----------
    checkpoint : path
        A run folder, one of its checkpoints, or a file of weights.
    store : Store
    rows : (n,) int
        Rows of ``instances``.
    protocol : Protocol
        Says how the crops are cut.
    device : str
        ``auto``, ``cpu``, ``cuda`` ...
    batch_size, workers : int
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    Predictions
        Parameters and cameras in float32. The network runs in float32 on every device.
    """
    torch = _torch()
    from humandata.rotations import matrix_to_axis_angle
    from humandata.training.augment import prepare
    from humandata.training.batches import evaluation_batches
    from humandata.training.checkpoints import load_network
    from humandata.training.engine import choose_device

    place = choose_device(device)
    network, recipe = load_network(Path(checkpoint), place)
    pose = np.empty((len(rows), 24, 3), np.float32)
    betas, camera = np.empty((len(rows), 10), np.float32), np.empty((len(rows), 3), np.float32)
    boxes = crop_boxes(store, rows, protocol)
    wanted = getattr(network, "crop_boxes", None)
    if wanted is not None:  # another part of the picture, as CLIFF does
        column, factor = store.instances[protocol.box], protocol.box_factor
        if boxes is None or not isinstance(column.attributes.get("factor"), int | float):
            boxes, factor = np.asarray(column[rows], np.float64), column.attributes.get("factor")
        boxes = wanted(boxes, factor)
    batches = evaluation_batches(store, rows, batch_size, recipe.image_size, workers, boxes)
    done = 0
    with torch.inference_mode():
        for batch in batches:
            prediction = network(prepare(batch.to(place)))
            at = slice(done, done + len(batch))
            matrices = prediction.pose.cpu().numpy().astype(np.float64)
            pose[at] = matrix_to_axis_angle(matrices)
            betas[at] = prediction.betas.cpu().numpy()
            camera[at] = prediction.camera.cpu().numpy()
            done += len(batch)
            if progress is not None:
                progress("predict", done, len(rows))
    return Predictions(
        id=np.asarray(store.instances["id"][rows], np.uint64),
        global_orient=pose[:, 0],
        body_pose=pose[:, 1:],
        betas=betas,
        camera=camera,
        source=f"checkpoint {checkpoint}",
    )


def _torch() -> Any:
    from importlib.util import find_spec

    for package in ("torch", "timm", "safetensors"):
        if find_spec(package) is None:
            raise MissingExtra(package, "train")
    import torch

    return torch

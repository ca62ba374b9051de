"""Score predictions against the SMPL ground truth of a store, by a protocol.

Everything here is NumPy; only a checkpoint needs torch (`humandata.training.predictions.predict`).

>>> from humandata.training import evaluate                                   # doctest: +SKIP
>>> result = evaluate("pw3d_test.zarr", predictions="preds.npz")              # doctest: +SKIP
>>> result.overall.figures["pa_mpjpe"].mean                                   # doctest: +SKIP
57.54
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import store as stores
from humandata.bodymodel import STANDIN_TITLE, body_model
from humandata.errors import DataError, HumandataError
from humandata.store import Store
from humandata.store_bodies import are_children
from humandata.training import protocols
from humandata.training.comparison import (
    MESH_METRICS,
    compare,
    ground_truth,
    mean_pose,
    poses_of,
    predicted_poses,
    stored_bodies,
)
from humandata.training.predictions import Predictions, Progress, load_predictions, predict
from humandata.training.protocols import Protocol
from humandata.training.results import DEFAULT_METRICS, FRAMES_PER_BLOCK, METRICS, Result, row_of

Array = NDArray[Any]

FEW_CLUSTERS = 10
"""Below this, bootstrap intervals come out too narrow to be taken at their word."""

STANDIN_NOTE = f"{STANDIN_TITLE}: numbers cannot be compared with published ones"


def evaluate(
    store: Store | str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    predictions: Predictions | str | os.PathLike[str] | None = None,
    protocol: Protocol | str | None = None,
    body_models: str | os.PathLike[str] | None = None,
    metrics: Sequence[str] | None = None,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 2,
    limit: int | None = None,
    partial: bool = False,
    any_store: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Evaluate a checkpoint, or predictions, on a store with SMPL ground truth.

    Parameters
    ----------
    store : Store or path
    checkpoint : path, optional
        A run folder or one of its checkpoints; needs torch.
    predictions : Predictions or path, optional
        Instead of a checkpoint.
    protocol : Protocol or str, optional
        Default: the one made for the store's dataset and split, else ``smpl-gendered``.
    body_models : path, optional
        Folder of the user's SMPL files; default as in `humandata.bodymodel.body_model`.
    metrics : sequence of str, optional
        Of `METRICS`; default: of MPJPE, PA-MPJPE and PVE those that the predictions allow.
    device, batch_size, workers
        Of the network; ``workers`` threads also pose the meshes.
    limit : int, optional
        Evaluate only so many rows, evenly spread over the store.
    partial : bool
        Accept rows without a prediction, and leave them out.
    any_store : bool
        Accept a store of another dataset or split than the protocol names.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    Result

    Raises
    ------
    HumandataError
        If store and protocol, or store and predictions, do not belong together.
    """
    if (checkpoint is None) == (predictions is None):
        raise HumandataError("evaluation needs either a checkpoint or predictions")
    opened = store if isinstance(store, Store) else stores.open(store)
    chosen = choose_protocol(opened, protocol)
    if predictions is None:
        rows, _ = select_rows(opened, chosen, limit=limit, any_store=any_store)
        predictions = predict(
            Path(str(checkpoint)),
            opened,
            rows,
            chosen,
            device=device,
            batch_size=batch_size,
            workers=workers,
            progress=progress,
        )
    elif not isinstance(predictions, Predictions):
        predictions = load_predictions(predictions)
    return score(
        predictions,
        opened,
        chosen,
        body_models=body_models,
        metrics=metrics,
        limit=limit,
        partial=partial,
        any_store=any_store,
        workers=workers,
        progress=progress,
    )


def choose_protocol(store: Store, protocol: Protocol | str | None = None) -> Protocol:
    """A protocol by name; where none is given, the one made for the store, else the generic one."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol is None:
        return protocols.default_for(store.dataset, store.split)
    return protocols.named(protocol)


def select_rows(
    store: Store, protocol: Protocol, *, limit: int | None = None, any_store: bool = False
) -> tuple[Array, list[str]]:
    """Rows of a store's instances that a protocol evaluates.

    Returns
    -------
    rows : (n,) int64
        In the store's order.
    notes : list of str
        What distinguishes them from the protocol's complete set.

    Raises
    ------
    HumandataError
        If the protocol is made for another dataset or split (unless ``any_store``).
    DataError
        If the store has not the ground truth of the protocol.
    """
    notes = []
    wanted, found = (protocol.dataset, protocol.split), (store.dataset, store.split)
    if protocol.dataset and wanted != found:
        if not any_store:
            raise HumandataError(
                f"protocol {protocol.name} is for {' '.join(wanted)}, and {store.path} holds "
                f"{' '.join(found)}. Pass --any-store to evaluate it nevertheless, or --protocol "
                f"{protocols.GENERIC.name}"
            )
        notes.append(f"the store holds {' '.join(found)}, the protocol is for {' '.join(wanted)}")
    valid = _with_ground_truth(store, protocol)
    if not valid.all():
        what = "body" if protocol.ground_truth == "smpl" else "set of joints"
        notes.append(f"{int((~valid).sum()):,} rows without a valid {what} are left out")
    rows = np.flatnonzero(valid)
    if protocol.expected_rows not in (None, len(rows)):
        notes.append(
            f"{len(rows):,} rows where the complete release has {protocol.expected_rows:,}: "
            "not the published benchmark"
        )
    rows = rows[:: protocol.stride]
    if limit is not None and limit < len(rows):
        notes.append(f"only {limit:,} of {len(rows):,} rows, evenly spread")
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
    return rows, notes


def _with_ground_truth(store: Store, protocol: Protocol) -> Array:
    """Which rows (N,) of the instances have what the protocol compares with."""
    fields = ["smpl/global_orient", "smpl/body_pose", "smpl/betas"]
    if protocol.ground_truth != "smpl":
        fields = [protocol.ground_truth]
    missing = [name for name in fields if name not in store.instances]
    valid: Array = np.ones(len(store), bool)
    if not missing and protocol.ground_truth != "smpl":
        confidence = np.asarray(store.instances[protocol.ground_truth])[..., 3]
        valid = np.asarray((confidence > 0).all(axis=1))
    elif not missing and "smpl/valid" in store.instances:
        valid = np.asarray(store.instances["smpl/valid"]).astype(bool)
        valid &= ~are_children(store, slice(None))
    if missing or not valid.any():
        smpl = protocol.ground_truth == "smpl"
        nobody = "no row with smpl/valid" if smpl else "nobody with every joint"
        raise DataError(
            store.path,
            "instances",
            expected="persons with SMPL ground truth" if smpl else "persons with 3D joints",
            found=f"no {missing[0]}" if missing else nobody,
        )
    return valid


def match(
    predictions: Predictions, ids: Array, partial: bool = False
) -> tuple[Array, Array, list[str]]:
    """Find the prediction of every id.

    Parameters
    ----------
    predictions : Predictions
        In any order.
    ids : (n,) uint64
        What is evaluated.
    partial : bool
        Accept ids without a prediction.

    Returns
    -------
    kept : (m,) int
        Positions in ``ids`` that have a prediction.
    place : (m,) int
        Where in ``predictions`` each of them is.
    notes : list of str

    Raises
    ------
    HumandataError
        If an id has no prediction (with ``partial``: if none has).
    """
    order = np.argsort(predictions.id)
    spot = np.searchsorted(predictions.id, ids, sorter=order)
    place = order[np.minimum(spot, len(order) - 1)] if len(order) else np.zeros(len(ids), np.int64)
    found = predictions.id[place] == ids if len(order) else np.zeros(len(ids), bool)
    missing = int((~found).sum())
    if missing and not (partial and found.any()):
        hint = (
            "Pass --partial to evaluate the others" if found.any() else "Are they for this store?"
        )
        raise HumandataError(
            f"{predictions.source or 'the predictions'}: {missing:,} of {len(ids):,} rows have no "
            f"prediction, the first is id {ids[np.argmin(found)]}. {hint}"
        )
    notes = [f"{missing:,} of {len(ids):,} rows have no prediction"] if missing else []
    others = len(predictions) - int(found.sum())
    if others:
        notes.append(f"{others:,} predictions for rows that are not evaluated are ignored")
    kept = np.flatnonzero(found)
    return kept, place[kept], notes


def score(
    predictions: Predictions,
    store: Store,
    protocol: Protocol,
    *,
    body_models: str | os.PathLike[str] | None = None,
    metrics: Sequence[str] | None = None,
    limit: int | None = None,
    partial: bool = False,
    any_store: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> Result:
    """Compare predictions with a store's ground truth; see `evaluate`."""
    folder = None if body_models is None else Path(body_models)
    rows, notes = select_rows(store, protocol, limit=limit, any_store=any_store)
    ids = np.asarray(store.instances["id"][rows], np.uint64)
    kept, place, more = match(predictions, ids, partial)
    rows, notes = rows[kept], notes + more
    chosen = _metrics(metrics, predictions, protocol)
    joints_only = protocol.ground_truth != "smpl"
    if metrics is None and "pve" not in chosen and not joints_only:
        notes.append("no PVE: the predictions hold neither vertices nor SMPL parameters")
    model = body_model(protocol.prediction_body, folder)
    if model.name == "standin":
        notes.insert(0, STANDIN_NOTE)

    truth = stored_bodies(store, rows, protocol, folder)
    reference = ground_truth(store, rows, protocol) if joints_only else poses_of(truth, protocol)
    sides = {
        "prediction": predicted_poses(predictions, place, protocol, truth),
        "mean pose": mean_pose(protocol, truth),
    }
    tracks = _tracks(store, rows) if "acceleration" in chosen else None
    found = compare(reference, sides, chosen, workers, progress, tracks)
    errors = {name: side.persons for name, side in found.items()}
    if "acceleration" in chosen:
        known = int(np.isfinite(errors["prediction"]["acceleration"]).sum())
        notes.append(
            f"the acceleration error is known of {known:,} of {len(rows):,} rows: those with the "
            "same person in the frames before and after"
        )
    sequence, names = _sequences(store, rows)
    blocks = _blocks(store, rows)
    clusters, kind = (sequence, "sequences") if len(names) > 1 else (blocks, "frame blocks")
    if (count := len(np.unique(clusters))) < FEW_CLUSTERS:
        rough = f"the intervals rest on {count} {kind} only: take them as rough"
        none = f"no intervals: they need more than one of the {kind}"
        notes.append(rough if count > 1 else none)
    sequences = [
        row_of(
            name,
            {m: e[sequence == i] for m, e in errors["prediction"].items()},
            blocks[sequence == i],
        )
        for i, name in enumerate(names)
    ]
    return Result(
        protocol=protocol,
        store={
            "path": str(store.path),
            "dataset": store.dataset,
            "split": store.split,
            "fingerprint": store.fingerprint,
            "rows": len(store),
        },
        source=predictions.source,
        body_model=model.name,
        metrics=chosen,
        overall=row_of("all", errors["prediction"], clusters),
        sequences=tuple(sequences),
        baseline=row_of("mean pose", errors["mean pose"], clusters),
        clusters=kind,
        notes=tuple(notes),
        rows=rows,
        errors=errors["prediction"],
        joints=found["prediction"].joints,
        predictions=predictions.take(place),
    )


def _metrics(
    asked: Sequence[str] | None, predictions: Predictions, protocol: Protocol
) -> tuple[str, ...]:
    meshes = predictions.has_parameters or predictions.vertices is not None
    if protocol.ground_truth != "smpl":
        if asked is not None and (needing := _of_meshes(asked)):
            raise HumandataError(f"protocol {protocol.name} compares joints: it has no {needing}")
        meshes = False
    if asked is None:
        return tuple(name for name in DEFAULT_METRICS if meshes or name != "pve")
    unknown = [name for name in asked if name not in METRICS]
    if unknown or not asked:
        raise HumandataError(f"no metric {''.join(unknown[:1])!r}; there are {', '.join(METRICS)}")
    if not meshes and (needing := _of_meshes(asked)):
        raise HumandataError(
            f"{needing} needs meshes, and {predictions.source or 'the predictions'} hold joints "
            "only: give vertices or SMPL parameters, or leave it out of --metrics"
        )
    return tuple(name for name in METRICS if name in asked)


def _of_meshes(asked: Sequence[str]) -> str:
    """Metrics among those asked for that need meshes, as they are printed; empty for none."""
    return ", ".join(METRICS[name] for name in MESH_METRICS if name in asked)


def _tracks(store: Store, rows: Array) -> tuple[Array, Array]:
    """Whose movement each row (n,) is part of, -1 for nobody's, and the number of its frame.

    Raises
    ------
    DataError
        The store does not know videos, frames or persons.
    """
    image = store.instances["image"][rows]
    needed = {"sequence": store.images, "frame": store.images, "person": store.instances}
    missing = [name for name, table in needed.items() if name not in table]
    if missing:
        raise DataError(
            store.path,
            missing[0],
            expected="frames of videos and persons in them, for acceleration errors",
            found="no such field",
            hint="Leave acceleration out of --metrics",
        )
    sequence = store.images["sequence"][image].astype(np.int64)
    frame = store.images["frame"][image].astype(np.int64)
    person = store.instances["person"][rows].astype(np.int64)
    key = np.stack([sequence, person])
    track = np.asarray(np.unique(key, axis=1, return_inverse=True)[1]).reshape(-1)
    return np.where((sequence >= 0) & (frame >= 0), track, -1), frame


def _sequences(store: Store, rows: Array) -> tuple[Array, list[str]]:
    """Number (n,) of each row's sequence and their names, in the store's order; -1 for none."""
    nothing = np.full(len(rows), -1)
    if "sequence" not in store.images or not store.sequences.rows:
        return nothing, []
    sequence = store.images["sequence"][store.instances["image"][rows]]
    kinds = np.unique(sequence[sequence >= 0])
    names = [str(name) for name in store.sequences["name"][kinds]]
    if (sequence < 0).any():
        # Their own line in the table, so that the lines recombine to the overall figure.
        names.append("(no sequence)")
    place = np.where(sequence >= 0, np.searchsorted(kinds, sequence), len(kinds))
    return place, names


def _blocks(store: Store, rows: Array) -> Array:
    """Number (n,) of each row's block of frames of one person; of its picture if no video."""
    image: Array = store.instances["image"][rows].astype(np.int64)
    if "sequence" not in store.images or "frame" not in store.images:
        return image
    sequence = store.images["sequence"][image].astype(np.int64)
    frame = store.images["frame"][image].astype(np.int64)
    person = store.instances["person"][rows] if "person" in store.instances else np.zeros(len(rows))
    video = (sequence >= 0) & (frame >= 0)
    key = np.stack(
        [
            np.where(video, sequence, -1),
            np.where(video, person, -1),
            np.where(video, frame // FRAMES_PER_BLOCK, image),
        ]
    )
    return np.asarray(np.unique(key, axis=1, return_inverse=True)[1]).reshape(-1)

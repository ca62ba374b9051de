"""What happens to the pixels of a whole batch on its device: augmentation, then normalisation.

Flip, scale, rotation and random crop change where a crop is cut; `humandata.training.batches` draws
them. Everything that changes pixels is here, on a CPU or a GPU alike: a sample's augmentation is a
function of its own ``noise_seed`` and nothing else, neither of its neighbours nor of the device.

Order (mmhuman3d, hmr-benchmarks): channel noise; photometric distortion, hard erasing, occlusion by
objects, which the reference does to the picture; then soft erasing, self-mix, coarse and grid
dropout, which it does to the crop; normalisation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from humandata.errors import HumandataError
from humandata.training import chance, colours, erasing, occluders, pasting, recipes
from humandata.training.batches import Batch
from humandata.training.colours import MEAN, STD, channel_noise, normalise
from humandata.training.occluders import Objects

__all__ = ["MEAN", "STD", "Augmentations", "augment", "channel_noise", "normalise", "prepare"]


@dataclass(frozen=True)
class Augmentations:
    """How often each augmentation is applied to a sample; 0 is never, and the default.

    Attributes
    ----------
    photometric_distortion : float
        Brightness, contrast, saturation, hue.
    hard_erasing : float
        Coloured noise over a part of the box.
    synthetic_occlusion, keypoint_occlusion : float
        Objects anywhere in the picture, or at the person's joints.
    soft_erasing, self_mix : float
        Noise, or another part of the crop, mixed into a part of it.
    coarse_dropout, grid_dropout : float
        Black holes, scattered or in a grid.
    stores : mapping of str to tuple of int
        Augmentations that are restricted to some stores of the mix, by number.
    objects : Objects, optional
        What occludes; needed for ``synthetic_occlusion`` and ``keypoint_occlusion``.
    """

    photometric_distortion: float = 0.0
    hard_erasing: float = 0.0
    synthetic_occlusion: float = 0.0
    keypoint_occlusion: float = 0.0
    soft_erasing: float = 0.0
    self_mix: float = 0.0
    coarse_dropout: float = 0.0
    grid_dropout: float = 0.0
    stores: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    objects: Objects | None = None

    @classmethod
    def named(
        cls, names: Iterable[str], datasets: Sequence[str] = (), occluder_file: str | None = None
    ) -> Augmentations:
        """The augmentations of a recipe.

        Parameters
        ----------
        names : iterable of str
            ``Recipe.augment``; see `humandata.training.recipes.parse_augmentation`.
        datasets : sequence of str
            Dataset of each store of the mix, in its order.
        occluder_file : str, optional
            ``Recipe.occluders``; without it, made-up shapes are put before people.

        Raises
        ------
        HumandataError
            When a name is unknown, or restricted to a dataset that is not in the mix.
        DataError
            When the occluder file cannot be used.
        """
        parsed = [recipes.parse_augmentation(name) for name in names]
        chances: dict[str, float] = {}
        stores: dict[str, tuple[int, ...]] = {}
        for part in parsed:
            chances[part.name] = part.probability
            absent = [name for name in part.datasets if name not in datasets]
            if absent:
                raise HumandataError(
                    f"{part.name} is to be applied to {', '.join(absent)}, but the mix holds "
                    f"{', '.join(dict.fromkeys(datasets)) or 'no dataset'}"
                )
            if part.datasets:
                stores[part.name] = tuple(
                    number for number, name in enumerate(datasets) if name in part.datasets
                )
        objects = None
        if "synthetic_occlusion" in chances or "keypoint_occlusion" in chances:
            pictures = occluders.read(occluder_file) if occluder_file else occluders.make()
            objects = occluders.pack(pictures)
        return cls(**chances, stores=stores, objects=objects)

    def to(self, device: torch.device | str) -> Augmentations:
        """The same with its objects on another device, so that no batch has to move them."""
        objects = None if self.objects is None else self.objects.to(device)
        return dataclasses.replace(self, objects=objects)

    @property
    def names(self) -> tuple[str, ...]:
        """What is on, in the order in which it is applied."""
        return tuple(name for name in _STEPS if getattr(self, name) > 0)


def prepare(batch: Batch, options: Augmentations | None = None) -> Batch:
    """Pixels as the network takes them: augmented and normalised float32 from uint8 crops.

    Parameters
    ----------
    batch : Batch
        Its images are not changed.
    options : Augmentations, optional
        What is done beside the batch's own channel noise; nothing by default.

    Returns
    -------
    Batch
        ``images`` float32 (B, 3, S, S); everything else as it was. Without colour noise and
        augmentations the pixels are exactly ``(x - mean) / std``.
    """
    if batch.images.device.type != "cpu":
        return dataclasses.replace(batch, images=normalise(_bytes(batch, options)))
    # Crops lie channels last, as they were cut. GPUs like that; PyTorch's CPU kernels crash on it
    # in some networks (repvgg_a0, torch 2.15), and are slower here.
    images = torch.empty(batch.images.shape)
    done = 0
    for part in _parts(batch, max(1, _CACHE_PIXELS // batch.size**2)):
        part = dataclasses.replace(part, images=part.images.contiguous())
        images[done : done + len(part)] = normalise(_bytes(part, options))
        done += len(part)
    return dataclasses.replace(batch, images=images)


_CACHE_PIXELS = 200_000
"""How many pixels a CPU works on at a time, so that what it computes stays in its cache."""


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """The batch in pieces of ``count`` samples; no sample's pixels depend on its neighbours."""
    if count >= len(batch):
        yield batch
        return
    columns = {f.name: getattr(batch, f.name).split(count) for f in dataclasses.fields(batch)}
    for values in zip(*columns.values(), strict=True):
        yield Batch(*values)


def _bytes(batch: Batch, options: Augmentations | None) -> Tensor:
    """Augmented pixels: whole numbers 0-255, of whatever type is at hand."""
    if options is not None and options.names:
        return augment(batch, options)
    return channel_noise(batch.images, batch.channel_gain)


def augment(batch: Batch, options: Augmentations) -> Tensor:
    """The batch's crops after channel noise and every augmentation that is on, uint8."""
    images = channel_noise(batch.images, batch.channel_gain).to(torch.uint8)
    for name in options.names:
        on = _chosen(batch, options, name)
        images = _STEPS[name](images, batch, on, options)
    return images


def _chosen(batch: Batch, options: Augmentations, name: str) -> Tensor:
    """Which samples an augmentation is applied to, (B,) bool."""
    probability: float = getattr(options, name)
    on = chance.uniform(batch.noise_seed, name, 1)[:, 0] < probability
    if name in options.stores:
        meant = torch.tensor(options.stores[name], device=batch.store.device)
        on &= torch.isin(batch.store, meant)
    return on


def _key(batch: Batch, stream: str) -> Tensor:
    """Random bits (B,) for the pixels of one augmentation."""
    return chance.bits(batch.noise_seed, stream, 1)[:, 0]


def _photometric(images: Tensor, batch: Batch, on: Tensor, options: Augmentations) -> Tensor:
    distortions = colours.draw_photometric_distortion(batch.noise_seed, on)
    return colours.photometric_distortion(images, distortions, batch.affine, batch.picture_size)


def _hard(images: Tensor, batch: Batch, on: Tensor, options: Augmentations) -> Tensor:
    rectangles = erasing.draw_hard_erasing(
        batch.noise_seed, on, batch.centre, batch.side, batch.picture_size
    )
    key = _key(batch, "hard noise")
    return erasing.hard_erasing(images, rectangles, batch.affine, key)


def _anywhere(images: Tensor, batch: Batch, on: Tensor, options: Augmentations) -> Tensor:
    objects = _objects(images, options)
    placed = pasting.draw_synthetic_occlusion(batch.noise_seed, on, batch.picture_size, objects)
    return pasting.paste(images, placed, batch.affine, batch.picture_size, objects)


def _at_joints(images: Tensor, batch: Batch, on: Tensor, options: Augmentations) -> Tensor:
    objects = _objects(images, options)
    placed = pasting.draw_keypoint_occlusion(
        batch.noise_seed,
        on,
        batch.keypoints2d,
        batch.affine,
        batch.side,
        batch.picture_size,
        objects,
    )
    return pasting.paste(images, placed, batch.affine, batch.picture_size, objects)


def _objects(images: Tensor, options: Augmentations) -> Objects:
    if options.objects is None:
        raise HumandataError("occlusion needs objects: make the options by Augmentations.named")
    return options.objects.to(images.device)


def _soft(images: Tensor, batch: Batch, on: Tensor, options: Augmentations) -> Tensor:
    patches = erasing.draw_patches(batch.noise_seed, on, "soft erasing", batch.size)
    return erasing.soft_erasing(images, patches, _key(batch, "soft noise"))


def _self(images: Tensor, batch: Batch, on: Tensor, options: Augmentations) -> Tensor:
    patches = erasing.draw_patches(batch.noise_seed, on, "self-mix", batch.size)
    return erasing.self_mix(images, patches)


def _coarse(images: Tensor, batch: Batch, on: Tensor, options: Augmentations) -> Tensor:
    holes = erasing.draw_coarse_dropout(batch.noise_seed, on, batch.size)
    return erasing.coarse_dropout(images, holes)


def _grid(images: Tensor, batch: Batch, on: Tensor, options: Augmentations) -> Tensor:
    grids = erasing.draw_grid_dropout(batch.noise_seed, on, batch.size)
    return erasing.grid_dropout(images, grids)


_Step = Callable[[Tensor, Batch, Tensor, Augmentations], Tensor]
_STEPS: Mapping[str, _Step] = {
    "photometric_distortion": _photometric,
    "hard_erasing": _hard,
    "synthetic_occlusion": _anywhere,
    "keypoint_occlusion": _at_joints,
    "soft_erasing": _soft,
    "self_mix": _self,
    "coarse_dropout": _coarse,
    "grid_dropout": _grid,
}
"""Every augmentation, in the order in which they are applied."""

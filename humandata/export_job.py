"""A store on its way into a file of another format: what was used, and what has to be said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import keypoints
from humandata.store import Store

Array = NDArray[Any]
Float = NDArray[np.float64]

GENDER_LETTERS = ("unknown", "n", "m", "f")
"""Spelling of the codes of the field ``gender`` that readers of both npz formats know."""


@dataclass
class Job:
    """A store on its way into a file: what was used, and what has to be said."""

    store: Store
    approximate: bool
    used: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lost: dict[str, list[str]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.store.instances

    def instances(self, name: str) -> Array:
        """A column of ``instances``, which is then used."""
        self.used.add(f"instances/{name}")
        return np.asarray(self.store.instances[name][:])

    def images(self, name: str) -> Any:
        """A column of ``images``, which is then used, one entry per picture."""
        self.used.add(f"images/{name}")
        return self.store.images[name][:]

    def picture(self) -> NDArray[np.int32]:
        """Row of the picture of every person."""
        return np.asarray(self.store.instances["image"][:])

    def paths(self) -> list[str]:
        """Path of the picture of every person."""
        names = self.images("path")
        return [names[row] for row in self.picture().tolist()]

    def says(self, name: str, attribute: str, default: Any = None) -> Any:
        return self.store.instances[name].attributes.get(attribute, default)

    def boxes(self) -> tuple[Float, float]:
        """Boxes (N, 5) in float64, and the factor that they hold."""
        return self.instances("bbox_xywh").astype(np.float64), self.box_factor()

    def box_factor(self) -> float:
        factor = self.says("bbox_xywh", "factor", 1.0)
        return float(factor) if isinstance(factor, int | float) and factor > 0 else 1.0

    def joints(self, name: str, target: str) -> tuple[Array, NDArray[np.bool_]]:
        """Joints of a field in another convention, and which joints of that one it supplies."""
        source = self.store.convention(name)
        points = self.instances(name)
        moved, supplied = keypoints.convert(points, source, target, self.approximate)
        taken = set(keypoints.mapping(source, target, self.approximate).tolist())
        labelled = np.atleast_1d((points[..., -1] > 0).any(axis=0))
        lost = [
            joint
            for at, joint in enumerate(keypoints.names(source))
            if labelled[at] and at not in taken
        ]
        # A field that is mapped twice loses only what neither mapping takes.
        self.lost[name] = [joint for joint in lost if joint in self.lost.get(name, lost)]
        return moved, supplied

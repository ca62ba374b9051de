"""The iterative regressor that HMR, SPIN and CLIFF share: features to body and camera.

Kanazawa et al., CVPR 2018, in the form of SPIN, mmhuman3d (``models/heads/hmr_head.py``,
``cliff_head.py``) and hmr-benchmarks: 6D rotations, no non-linearity between the fully connected
layers, three iterations of which the last is supervised.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from humandata.bodymodel import mean_parameters

POSE, SHAPE, CAMERA = 144, 10, 3

BOX = 3
"""Numbers about the box that CLIFF puts between the features and the pose."""

HEAD = (
    *("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"),
    *("decpose.weight", "decpose.bias", "decshape.weight", "decshape.bias"),
    *("deccam.weight", "deccam.bias", "init_pose", "init_shape", "init_cam"),
)
"""Names of the regressor's tensors in all published checkpoints."""


@dataclass(frozen=True)
class Defaults:
    """Sizes of the regressor; the published networks use these."""

    hidden: int = 1024
    iterations: int = 3
    dropout: float = 0.5


DEFAULTS = Defaults()


class HMRHead(nn.Module):
    """The regressor: features to body and camera in three corrections of the mean parameters.

    Names of parameters and buffers are those of published checkpoints (``head.fc1.weight`` ...).

    Parameters
    ----------
    channels : int
        Length of the feature vector.
    options : Defaults
    body_models : Path, optional
        Folder of the user's SMPL files, where ``smpl_mean_params.npz`` gives the initial
        parameters.
    box : int
        Numbers about the box that follow the features: 0 for HMR and SPIN, `BOX` for CLIFF.
    """

    init_pose: Tensor
    init_shape: Tensor
    init_cam: Tensor

    def __init__(
        self,
        channels: int,
        options: Defaults = DEFAULTS,
        body_models: Path | None = None,
        box: int = 0,
    ) -> None:
        super().__init__()
        self.iterations = options.iterations
        self.fc1 = nn.Linear(channels + box + POSE + SHAPE + CAMERA, options.hidden)
        self.drop1 = nn.Dropout(options.dropout)
        self.fc2 = nn.Linear(options.hidden, options.hidden)
        self.drop2 = nn.Dropout(options.dropout)
        self.decpose = nn.Linear(options.hidden, POSE)
        self.decshape = nn.Linear(options.hidden, SHAPE)
        self.deccam = nn.Linear(options.hidden, CAMERA)
        for decoder in (self.decpose, self.decshape, self.deccam):
            nn.init.xavier_uniform_(decoder.weight, gain=0.01)
        mean = mean_parameters(body_models)
        self.register_buffer("init_pose", _row(mean.pose6d))
        self.register_buffer("init_shape", _row(mean.betas))
        self.register_buffer("init_cam", _row(mean.camera))

    def forward(
        self, features: Tensor, box_info: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """6D pose (B, 144), betas (B, 10) and camera (B, 3).

        Parameters
        ----------
        features : (B, channels)
        box_info : (B, box), for a head that was built to take it.
        """
        known = features if box_info is None else torch.cat([features, box_info], dim=1)
        count = features.shape[0]
        pose = self.init_pose.expand(count, -1)
        shape = self.init_shape.expand(count, -1)
        camera = self.init_cam.expand(count, -1)
        for _ in range(self.iterations):
            state = torch.cat([known, pose, shape, camera], dim=1)
            hidden = self.drop2(self.fc2(self.drop1(self.fc1(state))))
            pose = pose + self.decpose(hidden)
            shape = shape + self.decshape(hidden)
            camera = camera + self.deccam(hidden)
        return pose, shape, camera


def _row(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32).reshape(1, -1))

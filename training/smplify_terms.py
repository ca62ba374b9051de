"""The terms that SMPLify minimises when it fits a body to 2D joints, without the fitting.

Bogo et al., "Keep it SMPL", ECCV 2016, in two forms that give different numbers: ``spin``, the code
of nkolot/SPIN (``smplify/losses.py``, the mixture from vchoutas/smplify-x), and ``mmhuman3d``
(``models/registrants/smplify.py`` with the configuration of SPIN):

==============  ==========================================  =====================================
term            spin                                        mmhuman3d
==============  ==========================================  =====================================
reprojection    pixels, confidence squared, `gmof`          2 x / 223 - 1, confidence, `gmof` of
                                                            the *squared* distance
angles          exp(+-a)^2 of elbows and knees              (exp(+-a) - 1)^2, three places off
pose mixture    4.78^2                                      4.78^2
shape           5^2                                         5^2
camera          torso, and 100^2 (tz - tz0)^2               none
==============  ==========================================  =====================================

Functions return one number per sample, or per joint where they say so; ``WEIGHTS`` multiply them.
Shape letters: B samples, J joints.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from humandata import unpickle
from humandata.errors import DataError
from humandata.training.cameras import perspective_projection

Form = Literal["spin", "mmhuman3d"]

SIGMA = 100.0
"""Of `gmof`: pixels in SPIN, squared halves of a crop in mmhuman3d."""

WEIGHTS: Mapping[str, float] = {
    "reprojection": 1.0, "pose": 4.78**2, "angles": 15.2**2, "shape": 5.0**2, "depth": 100.0**2,
}  # fmt: skip

IGNORED = (1, 9, 12, 27, 28)
"""Of the 49 joints: OpenPose's neck and hips and the annotated hips, which count for nothing."""

TORSO_OPENPOSE = (9, 12, 2, 5)
TORSO_ANNOTATED = (27, 28, 33, 34)
"""Right and left hip, right and left shoulder among the 49 joints, as OpenPose and as annotators
place them."""

ANGLES: Mapping[Form, tuple[int, ...]] = {"spin": (52, 55, 9, 12), "mmhuman3d": (55, 58, 12, 15)}
"""Places in the 69 numbers of the body pose. SPIN's are the left and right elbow about y and the
left and right knee about x; mmhuman3d forgot to subtract the 3 of the global orientation, so that
other joints are meant."""

SIGNS = (1.0, -1.0, -1.0, -1.0)


def gmof(distance: Tensor, sigma: float = SIGMA) -> Tensor:
    """Geman-McClure: ``sigma^2 d^2 / (sigma^2 + d^2)``, a square that levels off at sigma^2."""
    square = distance.square()
    return sigma**2 * square / (sigma**2 + square)


def angle_prior(body_pose: Tensor, form: Form = "spin") -> Tensor:
    """What keeps elbows and knees (B,) from bending the wrong way, of body poses (B, 69).

    ``exp(+-a)^2`` in SPIN, 1 for each straight joint; ``(exp(+-a) - 1)^2`` in mmhuman3d.
    """
    signs = torch.tensor(SIGNS, dtype=body_pose.dtype, device=body_pose.device)
    bent = torch.exp(body_pose[:, ANGLES[form]] * signs)
    return (bent if form == "spin" else bent - 1).square().sum(-1)


def shape_prior(betas: Tensor) -> Tensor:
    """Sum (B,) of squared shape coefficients (B, 10)."""
    return betas.square().sum(-1)


class PosePrior(nn.Module):
    """Negative log-likelihood of body poses under the nearest of SMPLify's eight Gaussians.

    ``min_m  1/2 d^T S_m^-1 d - log(w_m / ((2 pi)^(69/2) sqrt|S_m| / min_k sqrt|S_k|))``, d being
    the difference to mean m: the form ``merged_log_likelihood`` of SMPLify-X, which SPIN and
    mmhuman3d use.

    Parameters
    ----------
    means : (M, 69)
    covariances : (M, 69, 69)
        Symmetric and positive definite.
    weights : (M,)
    dtype : torch.dtype
    """

    means: Tensor
    precisions: Tensor
    constants: Tensor

    def __init__(
        self, means: Any, covariances: Any, weights: Any, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        mean, covariance, weight = (
            np.asarray(values, np.float64) for values in (means, covariances, weights)
        )
        # Logarithms of determinants: 69 small eigenvalues multiply to less than some can hold.
        half = 0.5 * np.linalg.slogdet(covariance)[1]
        constants = 0.5 * mean.shape[1] * np.log(2 * np.pi) + half - half.min() - np.log(weight)
        arrays = {"means": mean, "precisions": np.linalg.inv(covariance), "constants": constants}
        for name, values in arrays.items():
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    def forward(self, body_pose: Tensor) -> Tensor:
        """Negative log-likelihood (B,) of body poses (B, 69), axis-angle of joints 1 to 23."""
        off = body_pose[:, None] - self.means
        distance = torch.einsum("bmi,mij,bmj->bm", off, self.precisions, off)
        return (0.5 * distance + self.constants).amin(1)


def load_pose_prior(path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> PosePrior:
    """The mixture of SMPLify's ``gmm_08.pkl``, a file of the user's, read without running anything.

    Parameters
    ----------
    path : path
        A pickled dictionary with ``means``, ``covars`` and ``weights``, or scikit-learn's old GMM.
    dtype : torch.dtype

    Raises
    ------
    DataError
        The file is missing or damaged, or holds something else; UnsafePickle, which is one, if it
        names code.
    """
    content = unpickle.load(path)
    if isinstance(content, Mapping):
        found = {name.rstrip("_"): value for name, value in content.items()}
    else:
        found = {}
    names = ("means", "covars", "weights")
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            path,
            "mixture",
            expected="a dictionary with means, covars and weights",
            found=f"no {missing[0]}" if found else type(content).__name__,
            hint="SMPLify's pose prior is the file gmm_08.pkl",
        )
    means, covariances, weights = (np.asarray(found[name], np.float64) for name in names)
    count, size = means.shape if means.ndim == 2 else (0, 0)
    if size != 69 or covariances.shape != (count, 69, 69) or weights.shape != (count,):
        raise DataError(
            path,
            "mixture",
            expected="means (M, 69), covars (M, 69, 69) and weights (M,)",
            found=f"{means.shape}, {covariances.shape} and {weights.shape}",
            hint="SMPLify's pose prior is the file gmm_08.pkl",
        )
    values = (means, covariances, weights)
    good = all(np.isfinite(v).all() for v in values) and (weights > 0).all()
    if not good or (np.linalg.eigvalsh(covariances) <= 0).any():
        raise DataError(
            path,
            "mixture",
            expected="finite means, positive weights and positive definite covariances",
            found="others",
            hint="the file seems damaged: fetch it again",
        )
    return PosePrior(*values, dtype=dtype)


def without_ignored(confidence: Tensor) -> Tensor:
    """Confidences (B, 49) with zeros for the joints that SMPLify does not fit to."""
    kept = torch.ones_like(confidence)
    kept[:, list(IGNORED)] = 0
    return confidence * kept


def reprojection(
    projected: Tensor,
    keypoints: Tensor,
    confidence: Tensor,
    form: Form = "spin",
    image_size: int = 224,
) -> Tensor:
    """Robust distance (B, J) of projected joints to 2D joints.

    SPIN's loss of a fit, by which it decides between fits, is the mean of these over the 49 joints;
    mmhuman3d's is their sum.

    Parameters
    ----------
    projected, keypoints : (B, J, 2)
        Pixels of the crop.
    confidence : (B, J)
        Of the 2D joints; see `without_ignored`.
    form : {"spin", "mmhuman3d"}
        In mmhuman3d the squared distance is squared again inside `gmof`, so that in its units,
        halves of a crop, nothing is robust. Networks were trained with it, and it is kept.
    image_size : int
        Side of the crop, for mmhuman3d's units.
    """
    # Joints without confidence may hold anything, and must not reach the gradient.
    difference = projected - torch.where(confidence[..., None] > 0, keypoints, 0.0)
    if form == "spin":
        values, weight = gmof(difference), confidence.square()
    else:
        values, weight = gmof((2 / (image_size - 1) * difference).square()), confidence
    return weight * values.sum(-1)


def body_terms(
    body_pose: Tensor,
    betas: Tensor,
    joints: Tensor,
    translation: Tensor,
    keypoints: Tensor,
    prior: PosePrior,
    form: Form = "spin",
    image_size: int = 224,
) -> dict[str, Tensor]:
    """The weighted terms (B,) of a fit of the body; their sum is minimised.

    Parameters
    ----------
    body_pose : (B, 69)
    betas : (B, 10)
    joints : (B, 49, 3)
        Metres, before the translation.
    translation : (B, 3)
    keypoints : (B, 49, 3)
        Pixels of the crop and confidence. The joints that are to be ignored must have none.
    prior : PosePrior
    form : {"spin", "mmhuman3d"}
    image_size : int
        Side of the crop, whose middle is the principal point.

    Returns
    -------
    dict
        ``reprojection``, ``pose``, ``angles``, ``shape``.
    """
    projected = perspective_projection(joints, translation) + image_size / 2
    errors = reprojection(projected, keypoints[..., :2], keypoints[..., 2], form, image_size)
    terms = {
        "reprojection": errors.sum(-1),
        "pose": prior(body_pose),
        "angles": angle_prior(body_pose, form),
        "shape": shape_prior(betas),
    }
    return {name: WEIGHTS[name] * term for name, term in terms.items()}


def camera_terms(
    joints: Tensor,
    translation: Tensor,
    first_translation: Tensor,
    keypoints: Tensor,
    image_size: int = 224,
) -> dict[str, Tensor]:
    """The weighted terms (B,) by which SPIN fits the camera before the body.

    The torso's four joints, squared pixels without confidence: OpenPose's where it found all four
    of a sample, the annotated ones otherwise. And the depth, held near its start.

    Parameters
    ----------
    joints : (B, 49, 3)
    translation, first_translation : (B, 3)
    keypoints : (B, 49, 3)
        Pixels of the crop and confidence. In SPIN's training the confidence of OpenPose's hips has
        been set to zero before (`without_ignored`), so that the annotated torso is always taken.

    Returns
    -------
    dict
        ``torso``, ``depth``.
    """
    projected = perspective_projection(joints, translation) + image_size / 2
    square = (keypoints[..., :2] - projected).square().sum(-1)
    found = (keypoints[:, TORSO_OPENPOSE, 2] > 0).all(-1)
    torso = torch.where(
        found, square[:, TORSO_OPENPOSE].sum(-1), square[:, TORSO_ANNOTATED].sum(-1)
    )
    depth = (translation[:, 2] - first_translation[:, 2]).square()
    return {"torso": torso, "depth": WEIGHTS["depth"] * depth}

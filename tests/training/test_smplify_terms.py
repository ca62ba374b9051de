"""The terms of SMPLify equal those of SPIN and mmhuman3d; the mixture comes from files safely."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import py2pickle
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from torch import Tensor

from humandata import DataError
from humandata.training import cameras, smplify_terms
from humandata.training.smplify_terms import PosePrior, load_pose_prior
from humandata.unpickle import UnsafePickle

Array = NDArray[Any]

REFERENCE = Path(__file__).parent / "references" / "smplify.npz"


def mixture() -> dict[str, Array]:
    """Eight Gaussians that anybody can make again; SMPLify's own are licensed."""
    i = np.arange(69.0)
    rows = np.stack([0.4 * np.cos(i * 0.3 * (m + 1)) for m in range(8)])
    return {
        "means": np.stack([0.3 * np.sin(i * 0.7 + m) for m in range(8)]),
        "covars": np.stack(
            [np.eye(69) * (0.05 + 0.01 * m) + np.outer(rows[m], rows[m]) for m in range(8)]
        ),
        "weights": np.arange(1, 9) / 36,
    }


@pytest.fixture(scope="module")
def prior() -> PosePrior:
    return PosePrior(*mixture().values(), dtype=torch.float64)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(REFERENCE) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)


def in_crop(reference: dict[str, Tensor]) -> Tensor:
    return cameras.perspective_projection(reference["joints"], reference["translation"]) + 112


# Against the published codes


def test_priors_are_those_of_spin_and_mmhuman3d(
    reference: dict[str, Tensor], prior: PosePrior
) -> None:
    pose = reference["body_pose"]
    close(prior(pose), reference["gmm"])
    close(smplify_terms.angle_prior(pose), reference["angles_spin"])
    close(smplify_terms.angle_prior(pose, "mmhuman3d"), reference["angles_mm"])
    close(smplify_terms.shape_prior(reference["betas"]), reference["shape_mm"])


def test_the_terms_of_the_body_sum_to_spins(reference: dict[str, Tensor], prior: PosePrior) -> None:
    confidence = smplify_terms.without_ignored(reference["confidence"])
    errors = smplify_terms.reprojection(in_crop(reference), reference["keypoints"], confidence)
    close(errors, reference["reprojection"])
    terms = smplify_terms.body_terms(
        reference["body_pose"],
        reference["betas"],
        reference["joints"],
        reference["translation"],
        torch.cat([reference["keypoints"], confidence[..., None]], -1),
        prior,
    )
    assert list(terms) == ["reprojection", "pose", "angles", "shape"]
    close(torch.stack(list(terms.values())).sum(), reference["body_sum"])
    close(terms["reprojection"], reference["reprojection"].sum(-1))


def test_the_terms_of_the_camera_are_spins(reference: dict[str, Tensor]) -> None:
    """Some samples have all four joints of the torso from OpenPose, the others do not."""
    confidence = reference["confidence_openpose"]
    terms = smplify_terms.camera_terms(
        reference["joints"],
        reference["translation"],
        reference["first"],
        torch.cat([reference["keypoints"], confidence[..., None]], -1),
    )
    close(terms["torso"] + terms["depth"], reference["camera_each"])
    close(sum(terms.values(), torch.zeros(6)).sum(), reference["camera_sum"])


def test_mmhuman3ds_reprojection_squares_twice(reference: dict[str, Tensor]) -> None:
    errors = smplify_terms.reprojection(
        in_crop(reference), reference["keypoints"], reference["confidence"], "mmhuman3d"
    )
    close(errors, reference["reprojection_mm"].sum(-1))


# By themselves


def test_gmof_is_a_square_that_levels_off() -> None:
    distance = torch.tensor([0.0, 1.0, 100.0, 1e6], dtype=torch.float64)
    expected = [0, 1 / (1 + 1e-4), 5000, 1e4 / (1 + 1e-8)]
    np.testing.assert_allclose(smplify_terms.gmof(distance), expected)


def test_the_angle_prior_pushes_elbows_and_knees_the_right_way() -> None:
    """A left elbow bends to negative y, knees to positive x: that is what costs least."""
    straight = smplify_terms.angle_prior(torch.zeros(1, 69))
    assert straight.item() == 4  # one of every joint, not zero
    left_elbow, right_elbow, left_knee, right_knee = 17 * 3 + 1, 18 * 3 + 1, 3 * 3, 4 * 3
    assert smplify_terms.ANGLES["spin"] == (left_elbow, right_elbow, left_knee, right_knee)
    for place, sign in zip(smplify_terms.ANGLES["spin"], (-1, 1, 1, 1), strict=True):
        pose = torch.zeros(1, 69)
        pose[0, place] = sign * 1.0
        assert smplify_terms.angle_prior(pose) < straight
        assert smplify_terms.angle_prior(-pose) > straight + 1


def test_the_mixture_is_the_likelihood_of_the_nearest_gaussian(prior: PosePrior) -> None:
    """Up to the determinants' common factor, that of the largest component by scipy."""
    content = mixture()
    pose = content["means"][[0, 3, 7]] + 0.1 * np.random.default_rng(0).normal(size=(3, 69))
    parts = zip(*content.values(), strict=True)
    log = [np.log(w) + multivariate_normal(m, c).logpdf(pose) for m, c, w in parts]
    smallest = min(0.5 * np.linalg.slogdet(c)[1] for c in content["covars"])
    expected = -np.max(log, axis=0) - smallest
    np.testing.assert_allclose(prior(torch.from_numpy(pose)), expected, rtol=1e-10)


def test_joints_without_confidence_may_hold_anything() -> None:
    projected = torch.zeros(1, 3, 2, requires_grad=True)
    keypoints = torch.tensor([[[3.0, 4.0], [torch.nan, 0.0], [torch.inf, 1.0]]])
    confidence = torch.tensor([[1.0, 0.0, 0.0]])
    for form in ("spin", "mmhuman3d"):
        errors = smplify_terms.reprojection(
            projected,
            keypoints,
            confidence,
            form,  # type: ignore[arg-type]
        )
        assert errors[0, 1:].tolist() == [0, 0]
        (gradient,) = torch.autograd.grad(errors.sum(), projected)
        assert torch.isfinite(gradient).all()


def test_ignored_joints_lose_their_confidence_in_a_copy() -> None:
    confidence = torch.ones(2, 49)
    kept = smplify_terms.without_ignored(confidence)
    assert (kept == 0).nonzero()[:5, 1].tolist() == [1, 9, 12, 27, 28]
    assert kept.sum() == 2 * 44
    assert confidence.sum() == 2 * 49


# Files


def write(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content, 2))
    return path


def test_a_mixture_is_read_from_its_pickle(tmp_path: Path, prior: PosePrior) -> None:
    found = load_pose_prior(write(tmp_path / "gmm_08.pkl", mixture()), torch.float64)
    pose = torch.randn(4, 69, dtype=torch.float64)
    torch.testing.assert_close(found(pose), prior(pose))
    assert load_pose_prior(tmp_path / "gmm_08.pkl").means.dtype == torch.float32
    assert not found.state_dict()  # a licensed file does not enter checkpoints


def test_the_old_mixture_of_scikit_learn_is_read_too(tmp_path: Path, prior: PosePrior) -> None:
    attributes = {f"{name}_": values for name, values in mixture().items()}
    path = tmp_path / "gmm_08.pkl"
    gmm = py2pickle.Instance("sklearn.mixture.gmm", "GMM", {**attributes, "n_components": 8})
    path.write_bytes(py2pickle.dumps(gmm, 0))
    pose = torch.randn(4, 69, dtype=torch.float64)
    torch.testing.assert_close(load_pose_prior(path, torch.float64)(pose), prior(pose))


def test_a_mixture_of_single_precision_is_close(tmp_path: Path, prior: PosePrior) -> None:
    found = load_pose_prior(write(tmp_path / "gmm_08.pkl", mixture()))
    pose = 0.3 * torch.randn(4, 69, dtype=torch.float64)
    torch.testing.assert_close(found(pose.float()).double(), prior(pose), rtol=1e-4, atol=1e-3)


def test_nothing_in_the_file_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    with pytest.raises(UnsafePickle):
        load_pose_prior(write(tmp_path / "gmm_08.pkl", {**mixture(), "x": Trap()}))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": np.zeros((8, 63))}, r"expected means \(M, 69\).*found \(8, 63\)"),
        ({"weights": np.zeros(8)}, "positive weights"),
        ({"covars": np.zeros((8, 69, 69))}, "positive definite"),
        ({"means": np.full((8, 69), np.nan)}, "finite means"),
    ],
)
def test_a_damaged_mixture_is_named(tmp_path: Path, change: dict[str, Array], message: str) -> None:
    path = write(tmp_path / "gmm_08.pkl", {**mixture(), **change})
    with pytest.raises(DataError, match=f"gmm_08.pkl.*{message}"):
        load_pose_prior(path)


def test_another_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no covars.*gmm_08.pkl"):
        load_pose_prior(write(tmp_path / "a.pkl", {"means": np.zeros((8, 69))}))
    with pytest.raises(DataError, match="found list"):
        load_pose_prior(write(tmp_path / "b.pkl", [1, 2]))
    with pytest.raises(DataError):
        load_pose_prior(tmp_path / "missing.pkl")

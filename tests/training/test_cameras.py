"""Cameras on tensors: those of arrays, those of the published codes, and their gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from humandata import cameras as in_numpy
from humandata.training import cameras

REFERENCE = Path(__file__).parent / "references" / "geometry.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(REFERENCE) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def test_projection_and_weak_perspective_equal_spin_and_mmhuman3d(
    reference: dict[str, Tensor],
) -> None:
    centre = torch.full((6, 2), 112.0, dtype=torch.float64)
    pixels = cameras.perspective_projection(
        reference["joints"], reference["placed"], 5000.0, centre
    )
    torch.testing.assert_close(pixels, reference["projected"], rtol=1e-12, atol=0)
    shift = cameras.weak_perspective_to_translation(reference["camera"])
    pixels = cameras.perspective_projection(reference["joints"], shift)
    torch.testing.assert_close(pixels, reference["mm_projected"], rtol=1e-12, atol=1e-10)


def test_every_sample_may_have_a_focal_length_of_its_own(reference: dict[str, Tensor]) -> None:
    joints, shift = reference["joints"], reference["placed"]
    focal = torch.linspace(500, 5000, 6, dtype=torch.float64)
    together = cameras.perspective_projection(joints, shift, focal)
    for row in range(6):
        alone = cameras.perspective_projection(joints[row], shift[row], float(focal[row]))
        torch.testing.assert_close(together[row], alone)


def test_tensors_and_arrays_give_the_same_cameras(reference: dict[str, Tensor]) -> None:
    camera, focal = reference["camera"], reference["focal"]
    centre, b = reference["cliff_centre"], reference["cliff_b"]
    middle = torch.stack([reference["width"], reference["height"]], -1) / 2
    full = cameras.crop_camera_to_full_frame(camera, centre, b, focal, middle)
    torch.testing.assert_close(full, reference["cliff_full"], rtol=1e-12, atol=0)
    np.testing.assert_allclose(
        cameras.weak_perspective_to_translation(camera, 900.0, 256),
        in_numpy.weak_perspective_to_translation(camera.numpy(), 900.0, 256),
    )


def test_the_estimate_is_spins(reference: dict[str, Tensor]) -> None:
    joints, pixels, confidence = (
        reference[name][:, 25:] for name in ("joints", "keypoints", "confidence")
    )
    found = cameras.estimate_translation(joints, pixels, confidence)
    torch.testing.assert_close(found, reference["estimated"], rtol=1e-9, atol=0)
    single = cameras.estimate_translation(joints.float(), pixels.float(), confidence.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), reference["estimated"], rtol=1e-4, atol=1e-4)
    centre = torch.tensor([[90.0, 100.0]]).expand(6, 2)
    focal = torch.linspace(900, 5000, 6)
    np.testing.assert_allclose(
        cameras.estimate_translation(joints, pixels, confidence, focal, centre),
        in_numpy.estimate_translation(joints, pixels, confidence, focal.numpy(), centre.numpy()),
        rtol=1e-12,
    )


def test_too_few_places_leave_the_translation_unknown(reference: dict[str, Tensor]) -> None:
    confidence = torch.zeros(6, 49)
    confidence[1, 30] = 1
    confidence[2, [30, 40]] = 1
    found = cameras.estimate_translation(reference["joints"], reference["keypoints"], confidence)
    assert torch.isnan(found).all(1).tolist() == [True, True, False, True, True, True]


def test_a_scale_of_zero_is_far_away_but_has_a_gradient() -> None:
    camera = torch.tensor([[0.0, 0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    shift = cameras.weak_perspective_to_translation(camera)
    shift.sum().backward()
    assert torch.isfinite(shift).all()
    assert camera.grad is not None
    assert torch.isfinite(camera.grad).all()

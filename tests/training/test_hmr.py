"""HMR's regressor, camera and loss, against NumPy written from the formulas."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from humandata.bodymodel import body_model, mean_parameters
from humandata.errors import DataError, HumandataError
from humandata.geometry import project, weak_perspective_to_translation
from humandata.training import recipes
from humandata.training.algorithms import hmr
from humandata.training.backbone_weights import load_backbone_weights
from humandata.training.backbones import Backbone, pool
from humandata.training.batches import Batch
from humandata.training.engine import training_body
from humandata.training.smpl import SMPL, axis_angle_to_matrix, rotation6d_to_matrix

SMALL = dataclasses.replace(recipes.hmr(), backbone="test_resnet", init="none", image_size=64)


def make_batch(count: int = 3, size: int = 64, **changes: torch.Tensor) -> Batch:
    """A batch of noise with every label present."""
    torch.manual_seed(5)
    batch = Batch(
        images=torch.randn(count, 3, size, size),
        keypoints2d=torch.rand(count, 54, 3) * torch.tensor([size, size, 0]) + torch.eye(3)[2],
        keypoints3d=torch.randn(count, 54, 4).abs().clamp(0.1, 1),
        pose=torch.randn(count, 24, 3) * 0.3,
        betas=torch.randn(count, 10),
        has_smpl=torch.ones(count, dtype=torch.bool),
        gender=torch.ones(count, dtype=torch.uint8),
        centre=torch.zeros(count, 2),
        side=torch.ones(count),
        affine=torch.zeros(count, 2, 3),
        picture_size=torch.zeros(count, 2),
        intrinsics=torch.zeros(count, 3, 3),
        crop_intrinsics=torch.zeros(count, 3, 3),
        channel_gain=torch.ones(count, 3),
        noise_seed=torch.arange(count),
        store=torch.zeros(count, dtype=torch.int64),
        row=torch.arange(count),
    )
    return dataclasses.replace(batch, **changes)


def test_the_regressor_equals_three_corrections_written_out_in_numpy() -> None:
    torch.manual_seed(0)
    head = hmr.HMRHead(16).double().eval()
    features = np.random.default_rng(0).normal(size=(2, 16))
    weights = {name: tensor.numpy() for name, tensor in head.state_dict().items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    state = [np.repeat(weights[n], 2, axis=0) for n in ("init_pose", "init_shape", "init_cam")]
    for _ in range(3):
        hidden = linear(linear(np.hstack([features, *state]), "fc1"), "fc2")
        corrections = [linear(hidden, name) for name in ("decpose", "decshape", "deccam")]
        state = [old + new for old, new in zip(state, corrections, strict=True)]
    with torch.no_grad():
        result = head(torch.from_numpy(features))
    for ours, expected in zip(result, state, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_names_shapes_and_number_of_parameters_are_those_of_published_checkpoints() -> None:
    head = hmr.HMRHead(2048)
    shapes = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    assert shapes == {
        "init_pose": (1, 144),
        "init_shape": (1, 10),
        "init_cam": (1, 3),
        "fc1.weight": (1024, 2205),
        "fc1.bias": (1024,),
        "fc2.weight": (1024, 1024),
        "fc2.bias": (1024,),
        "decpose.weight": (144, 1024),
        "decpose.bias": (144,),
        "decshape.weight": (10, 1024),
        "decshape.bias": (10,),
        "deccam.weight": (3, 1024),
        "deccam.bias": (3,),
    }
    assert sum(parameter.numel() for parameter in head.parameters()) == 3_469_469


def test_hmr_on_resnet50_has_27_million_parameters() -> None:
    with torch.device("meta"):
        backbone = Backbone("resnet50")
    assert backbone.channels == 2048
    # 25,557,032 of the classifier of He et al., less its 2,049,000 for a thousand classes.
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 23_508_032


def test_a_new_head_starts_at_the_mean_parameters() -> None:
    head = hmr.HMRHead(8).eval()
    mean = mean_parameters()
    with torch.no_grad():
        pose, betas, camera = head(torch.zeros(4, 8))
    # The decoders start small, not at zero.
    np.testing.assert_allclose(pose[0].numpy(), mean.pose6d, atol=0.15)
    np.testing.assert_allclose(camera[0].numpy(), mean.camera, atol=0.15)
    assert torch.equal(betas[0], betas[3])


@pytest.mark.parametrize("scale", [0.4, 0.9, 2.5])
def test_the_camera_is_a_pinhole_of_5000_pixels_at_the_distance_of_the_scale(scale: float) -> None:
    joints = np.random.default_rng(1).normal(size=(1, 54, 3))
    camera = torch.tensor([[scale, 0.1, -0.2]], dtype=torch.float64)
    prediction = hmr.Prediction(torch.zeros(0), torch.zeros(0), camera)
    translation = prediction.translation(224)
    expected = weak_perspective_to_translation(camera.numpy(), 5000.0, 224)
    np.testing.assert_allclose(translation.numpy(), expected, rtol=1e-9)
    intrinsics = np.array([[5000.0, 0, 0], [0, 5000.0, 0], [0, 0, 1]])
    pixels = hmr.project(torch.from_numpy(joints), translation)
    np.testing.assert_allclose(pixels, project(joints + expected[:, None], intrinsics), rtol=1e-9)
    # Weak perspective in the limit: a metre sideways is half the crop times the scale.
    np.testing.assert_allclose(
        pixels.numpy(), 112 * scale * (joints[..., :2] + [0.1, -0.2]), rtol=0.3, atol=3
    )


def test_the_loss_is_the_weighted_sum_of_the_terms_for_the_posed_neutral_body() -> None:
    batch = make_batch()
    body = SMPL(body_model())
    network = hmr.build(SMALL).eval()
    with torch.no_grad():
        prediction = network(batch)
        terms = hmr.loss(batch, prediction, body, SMALL)
        target_pose = axis_angle_to_matrix(batch.pose)
        wanted, _ = body(target_pose, batch.betas)
        found, _ = body(prediction.pose, prediction.betas)
    assert set(terms) == {"keypoints3d", "keypoints2d", "vertices", "pose", "betas"}
    assert terms["vertices"].item() == pytest.approx(
        2 * (wanted - found).abs().mean().item(), rel=1e-5
    )
    squared = (prediction.pose - target_pose).square().mean().item()
    assert terms["pose"].item() == pytest.approx(3 * squared, rel=1e-5)
    betas = (prediction.betas - batch.betas).square().mean().item()
    assert terms["betas"].item() == pytest.approx(0.02 * betas, rel=1e-5)


def test_the_perfect_prediction_has_no_loss() -> None:
    body = SMPL(body_model()).double()
    batch = make_batch()
    pose = axis_angle_to_matrix(batch.pose.double())
    camera = torch.tensor([[0.9, 0.1, 0.2]] * 3, dtype=torch.float64)
    prediction = hmr.Prediction(pose, batch.betas.double(), camera)
    joints = body(pose, batch.betas.double()).joints
    pixels = hmr.project(joints, prediction.translation(64)) + 31.5
    one = torch.ones(3, 54, 1)
    exact = dataclasses.replace(
        batch,
        pose=batch.pose.double(),
        betas=batch.betas.double(),
        keypoints3d=torch.cat([joints + 7.0, one], dim=-1),
        keypoints2d=torch.cat([pixels, one], dim=-1),
    )
    for form in ("smooth_l1", "l1", "mse"):
        terms = hmr.loss(exact, prediction, body, dataclasses.replace(SMALL, loss=form))
        assert all(value.item() < 1e-10 for value in terms.values()), (form, terms)


def test_a_term_of_weight_zero_is_left_out_and_samples_without_a_body_do_not_count() -> None:
    batch = make_batch()
    network = hmr.build(SMALL).eval()
    body = training_body(SMALL)
    without = dataclasses.replace(SMALL, vertices_weight=0.0, betas_weight=0.0)
    with torch.no_grad():
        prediction = network(batch)
        assert set(hmr.loss(batch, prediction, body, without)) == {
            "keypoints3d",
            "keypoints2d",
            "pose",
        }
        nobody = dataclasses.replace(batch, has_smpl=torch.zeros(3, dtype=torch.bool))
        terms = hmr.loss(nobody, prediction, body, SMALL)
    assert terms["pose"] == terms["betas"] == terms["vertices"] == 0


def test_without_a_loss_on_vertices_the_body_has_none_and_the_same_joints() -> None:
    recipe = dataclasses.replace(SMALL, vertices_weight=0.0)
    body, small = training_body(SMALL), training_body(recipe)
    torch.manual_seed(2)
    rotations = rotation6d_to_matrix(torch.randn(3, 24, 6))
    betas = torch.randn(3, 10)
    assert len(small.v_template) == 0
    torch.testing.assert_close(small(rotations, betas).joints, body(rotations, betas).joints)


def test_gradients_reach_every_trained_parameter() -> None:
    network = hmr.build(SMALL).train()
    batch = make_batch(4)
    terms = hmr.loss(batch, network(batch), training_body(SMALL), SMALL)
    torch.stack(list(terms.values())).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    idle = [name for name, p in network.head.named_parameters() if not (p.grad != 0).any()]
    assert idle == []
    stem = next(network.backbone.parameters())
    assert stem.grad is not None
    assert stem.grad.any()


def test_pooling_knows_maps_and_tokens() -> None:
    class Network(torch.nn.Module):
        output_fmt = "NCHW"
        num_prefix_tokens = 1

    network = Network()
    channels_first = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(pool(channels_first, network), channels_first.mean(-1).mean(-1))
    tokens = torch.randn(2, 7, 5)
    torch.testing.assert_close(pool(tokens, network), tokens[:, 1:].mean(1))
    network.output_fmt = "NHWC"
    channels_last = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(pool(channels_last, network), channels_last.flatten(1, 2).mean(1))


def test_an_unknown_backbone_is_answered_with_near_names() -> None:
    with pytest.raises(HumandataError, match=r"no backbone named 'resnet50x'.*resnet50"):
        Backbone("resnet50x")


def test_backbone_weights_are_taken_from_a_file_whatever_their_prefix(tmp_path: Path) -> None:
    source = Backbone("test_resnet", image_size=64)
    state = {f"backbone.{key}": value for key, value in source.network.state_dict().items()}
    torch.save({"state_dict": {**state, "head.fc1.bias": torch.zeros(3)}}, tmp_path / "a.pth")
    recipe = dataclasses.replace(SMALL, init=str(tmp_path / "a.pth"))
    torch.manual_seed(9)
    network = hmr.build(recipe)
    for key, value in source.network.state_dict().items():
        torch.testing.assert_close(network.backbone.network.state_dict()[key], value)


def test_a_file_of_another_backbone_is_refused_by_the_first_tensor_that_differs(
    tmp_path: Path,
) -> None:
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(DataError, match="are missing"):
        load_backbone_weights(Backbone("test_resnet", image_size=64), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"b\.pth"):
        load_backbone_weights(Backbone("test_resnet", image_size=64), tmp_path / "b.pth")


def test_a_file_of_a_whole_network_initialises_the_regressor_too(tmp_path: Path) -> None:
    """What a fine-tuning starts from; a file of a backbone leaves the regressor at its start."""
    from safetensors.torch import save_file

    torch.manual_seed(8)
    whole = hmr.build(SMALL)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    trunk = {name: t for name, t in whole.state_dict().items() if name.startswith("backbone.")}
    save_file(trunk, tmp_path / "trunk.safetensors")
    started = {}
    for name in ("whole", "trunk"):
        recipe = dataclasses.replace(SMALL, init=str(tmp_path / f"{name}.safetensors"))
        started[name] = hmr.build(recipe).state_dict()
        assert all(torch.equal(started[name][key], tensor) for key, tensor in trunk.items())
    assert torch.equal(started["whole"]["head.fc2.weight"], whole.head.fc2.weight)
    assert not torch.equal(started["trunk"]["head.fc2.weight"], whole.head.fc2.weight)

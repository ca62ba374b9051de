"""CLIFF in both forms, against closed forms and against a body that is really there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_store import write_tiny_store

import humandata
from humandata import cameras, geometry
from humandata.bodymodel import body_model
from humandata.errors import HumandataError
from humandata.training import checkpoints, engine, predictions, recipes
from humandata.training.algorithms import cliff, cliff_original, hmr
from humandata.training.augment import prepare
from humandata.training.batches import Batch, evaluation_batches
from humandata.training.engine import training_body
from humandata.training.heads import BOX, HMRHead
from humandata.training.protocols import GENERIC
from humandata.training.recipes import Source
from humandata.training.smpl import SMPL, axis_angle_to_matrix

SMALL = dataclasses.replace(
    recipes.hmr(), algorithm="cliff", backbone="test_resnet", init="none", image_size=64
)
COUNT = 3
WIDTH, HEIGHT = np.array([640.0, 1920, 480]), np.array([480.0, 1080, 640])
CENTRE = np.array([[200.0, 300], [1500, 400], [240, 320]])
SIDE = np.array([300.0, 500, 120])
FORMS: list[tuple[Any, cameras.CliffForm, float]] = [
    # What b is of the side of the square: the width of what the network sees, or its height.
    (cliff, "mmhuman3d", 0.75),
    (cliff_original, "cliff", 1.0),
]


def batch_in_pictures(size: int = 64, flip: bool = False, rotation: float = 0.0) -> Batch:
    """Three crops of noise at known places."""
    torch.manual_seed(7)
    shapes = {
        "images": (3, size, size),
        "keypoints2d": (54, 3),
        "keypoints3d": (54, 4),
        "pose": (24, 3),
        "betas": (10,),
    }
    fields = {field.name: torch.zeros(COUNT) for field in dataclasses.fields(Batch)}
    fields |= {name: torch.rand(COUNT, *shape) for name, shape in shapes.items()}
    affine = geometry.crop_affine(CENTRE, SIDE, size, rotation, flip)
    known = {
        "centre": CENTRE,
        "side": SIDE,
        "affine": affine,
        "picture_size": np.stack([WIDTH, HEIGHT], axis=1),
    }
    fields |= {name: torch.from_numpy(value).float() for name, value in known.items()}
    fields["has_smpl"] = torch.ones(COUNT, dtype=torch.bool)
    return Batch(**fields)


@pytest.mark.parametrize(("module", "form", "share"), FORMS)
@pytest.mark.parametrize("flip", [False, True])
def test_the_network_is_told_where_its_box_lies(
    module: Any, form: cameras.CliffForm, share: float, flip: bool
) -> None:
    batch = batch_in_pictures(flip=flip, rotation=25.0)
    centre = CENTRE.copy()
    if flip:
        centre[:, 0] = WIDTH - 1 - centre[:, 0]
    expected = cameras.cliff_box_info(centre, SIDE * share, WIDTH, HEIGHT)
    found = cliff.place_of(batch, form).box_info()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("module", "form", "share"), FORMS)
def test_its_camera_is_that_of_the_whole_picture(
    module: Any, form: cameras.CliffForm, share: float
) -> None:
    network = module.build(SMALL).eval()
    with torch.no_grad():
        found = network(batch_in_pictures())
    focal = np.hypot(WIDTH, HEIGHT)
    expected = cameras.crop_camera_to_full_frame(
        found.camera.double().numpy(),
        CENTRE,
        SIDE * share,
        focal,
        np.stack([WIDTH, HEIGHT], axis=1) / 2,
    )
    np.testing.assert_allclose(found.full_translation.numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(found.focal.numpy(), focal, rtol=1e-6)


def test_the_regressor_gets_the_box_between_features_and_pose() -> None:
    torch.manual_seed(0)
    head = HMRHead(16, box=BOX).double().eval()
    rng = np.random.default_rng(0)
    features, box = rng.normal(size=(2, 16)), rng.normal(size=(2, 3))
    weights = {name: tensor.numpy() for name, tensor in head.state_dict().items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    state = [np.repeat(weights[n], 2, axis=0) for n in ("init_pose", "init_shape", "init_cam")]
    for _ in range(3):
        hidden = linear(linear(np.hstack([features, box, *state]), "fc1"), "fc2")
        corrections = [linear(hidden, name) for name in ("decpose", "decshape", "deccam")]
        state = [old + new for old, new in zip(state, corrections, strict=True)]
    with torch.no_grad():
        result = head(torch.from_numpy(features), torch.from_numpy(box))
    for ours, expected in zip(result, state, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("module", "form", "share"), FORMS)
def test_it_starts_from_a_whole_cliff_but_takes_only_the_backbone_of_an_hmr(
    module: Any, form: cameras.CliffForm, share: float, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    whole, other = module.build(SMALL), hmr.build(SMALL)
    for network in (whole, other):
        torch.save({"state_dict": network.state_dict()}, tmp_path / "a.pth")
        started = module.build(dataclasses.replace(SMALL, init=str(tmp_path / "a.pth")))
        for name, tensor in network.backbone.state_dict().items():
            assert torch.equal(started.backbone.state_dict()[name], tensor), name
        same = torch.equal(started.head.decpose.weight, network.head.decpose.weight)
        assert same == (network is whole)
    assert torch.equal(module.build(SMALL).head.init_pose, whole.head.init_pose)


def test_it_sees_the_middle_columns_of_a_square() -> None:
    square = torch.arange(256.0).expand(1, 3, 256, 256)
    seen = cliff.middle_columns(square)
    assert seen.shape == (1, 3, 256, 192)
    assert seen[0, 0, 0, [0, -1]].tolist() == [32.0, 223.0]
    with pytest.raises(HumandataError, match="multiple of 8"):
        cliff.middle_columns(torch.zeros(1, 3, 100, 100))


@pytest.mark.parametrize(("module", "form", "share"), FORMS)
@pytest.mark.parametrize("factor", [None, 1.0, 1.25])
def test_squares_show_what_the_published_crops_show(
    module: Any, form: cameras.CliffForm, share: float, factor: float | None
) -> None:
    """The middle columns of the square are the crop of 192 x 256 of `cliff_crop_affine`."""
    tight = np.array([[100.0, 50, 80, 200], [300, 20, 250, 90]])
    known = factor or 1.2
    stored = tight.copy()
    stored[:, :2] -= tight[:, 2:] * (known - 1) / 2
    stored[:, 2:] *= known
    boxes = module.build(SMALL).crop_boxes(stored, factor)
    # mmhuman3d's boxes are enlarged by 1.2 beforehand, the original's are the detector's.
    enlarged = tight.copy()
    if form == "mmhuman3d":
        enlarged[:, :2] -= tight[:, 2:] * 0.1
        enlarged[:, 2:] *= 1.2
    centre, b = cameras.cliff_box(enlarged, form)
    np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:] / 2, centre)
    np.testing.assert_allclose(boxes[:, 2] * share, b)
    published = cameras.cliff_crop_affine(centre, b, form)
    ours = geometry.crop_affine(centre, boxes[:, 2], 256)
    ours[:, 0, 2] -= 32
    np.testing.assert_allclose(ours, published, atol=1e-9)


@pytest.mark.parametrize(("module", "form", "share"), FORMS)
@pytest.mark.parametrize("flip", [False, True])
def test_the_body_that_is_in_the_picture_has_no_loss(
    module: Any, form: cameras.CliffForm, share: float, flip: bool
) -> None:
    """A body stands before the (flipped) picture's camera; the crop shows its projection."""
    batch = batch_in_pictures(flip=flip)
    body = SMPL(body_model()).double()
    pose, betas = axis_angle_to_matrix(batch.pose.double()), batch.betas.double()
    joints = body(pose, betas).joints.numpy()
    middle, focal = np.stack([WIDTH, HEIGHT], axis=1) / 2, np.hypot(WIDTH, HEIGHT)
    standing = np.array([[-0.5, 0.2, 6.0], [1.0, -0.3, 9.0], [0.0, 0.0, 12.0]])
    placed = joints + standing[:, None]
    pixels = focal[:, None, None] * placed[..., :2] / placed[..., 2:] + middle[:, None]
    centre = CENTRE.copy()
    if flip:  # the affine takes pixels of the picture as it is stored
        pixels[..., 0] = (WIDTH - 1)[:, None] - pixels[..., 0]
        centre[:, 0] = WIDTH - 1 - centre[:, 0]
    cropped = geometry.apply_affine(geometry.crop_affine(CENTRE, SIDE, 64, 0, flip), pixels)
    camera = cameras.full_frame_to_crop_camera(standing, centre, SIDE * share, focal, middle)
    prediction = cliff.Prediction(
        pose, betas, torch.from_numpy(camera), torch.from_numpy(standing), torch.from_numpy(focal)
    )
    one = torch.ones(COUNT, 54, 1, dtype=torch.float64)
    double = {f.name: getattr(batch, f.name).double() for f in dataclasses.fields(Batch)}
    exact = dataclasses.replace(
        Batch(**double),
        has_smpl=batch.has_smpl,
        keypoints3d=torch.cat([torch.from_numpy(joints) + 3.0, one], dim=-1),
        keypoints2d=torch.cat([torch.from_numpy(cropped), one], dim=-1),
    )
    terms = module.loss(exact, prediction, body, SMALL)
    assert set(terms) == {"keypoints3d", "keypoints2d", "vertices", "pose", "betas"}
    assert all(value.item() < 1e-9 for value in terms.values()), terms
    # Pixels of a crop 256 high are divided by 223, as in mmhuman3d, and of any other in proportion.
    moved = dataclasses.replace(exact, keypoints2d=exact.keypoints2d + torch.tensor([1.0, 1.0, 0]))
    size = round(64 * 224 / 256) - 1
    squared = 0.5 * (2 / size) ** 2
    found = module.loss(moved, prediction, body, SMALL)["keypoints2d"].item()
    assert found == pytest.approx(10 * squared, rel=1e-6)


@pytest.mark.parametrize(("module", "form", "share"), FORMS)
def test_gradients_reach_every_trained_parameter(
    module: Any, form: cameras.CliffForm, share: float
) -> None:
    network = module.build(SMALL).train()
    batch = batch_in_pictures()
    terms = module.loss(batch, network(batch), training_body(SMALL), SMALL)
    torch.stack(list(terms.values())).sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert idle == []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_store(tmp_path_factory.mktemp("stores") / "tiny", 6)


def test_training_cuts_what_mmhuman3d_cuts(store: Path) -> None:
    """Its crop is as wide as the box and 4/3 of that high; the square is as high."""
    opened = humandata.open(store)
    boxes = np.asarray(opened.instances["bbox_xywh"])[:, 2:4].max(axis=1)
    mixed = dataclasses.replace(SMALL, mix=(Source(str(store)),), batch_size=6)
    for algorithm, factor in (("cliff", 4 / 3), ("cliff_original", 1.0), ("hmr", 1.0)):
        mix = engine.make_mix(dataclasses.replace(mixed, algorithm=algorithm), [(opened, 1.0)])
        _, side = mix.annotations[0].squares(np.arange(6))
        np.testing.assert_allclose(side, boxes * factor, rtol=1e-5)


def test_a_run_is_trained_and_its_checkpoint_predicts_from_its_own_squares(
    store: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(
        SMALL, mix=(Source(str(store)),), batch_size=4, steps=2, vertices_weight=0.0, workers=0
    )
    run = engine.train(recipe, tmp_path / "run", quiet=True)
    opened, rows = humandata.open(store), np.arange(6)
    found = predictions.predict(run, opened, rows, GENERIC, device="cpu")
    network, _ = checkpoints.load_network(run)
    boxes = np.asarray(opened.instances["bbox_xywh"], np.float64)
    side = boxes[:, 2:4].max(axis=1, keepdims=True) * 4 / 3
    squares = np.hstack([boxes[:, :2] + boxes[:, 2:4] / 2 - side / 2, side, side])
    batch = next(iter(evaluation_batches(opened, rows, 6, 64, 0, squares)))
    with torch.no_grad():
        expected = network(prepare(batch))
    assert found.camera is not None
    np.testing.assert_allclose(found.camera, expected.camera.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.betas, expected.betas.numpy(), atol=1e-5)

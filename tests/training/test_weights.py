"""Published checkpoints: recognised by names and shapes, every key accounted for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_weights import KNOWN, Layout, empty, look, read_layouts, shapes_only
from torch import Tensor

from humandata.errors import DataError, HumandataError
from humandata.training import backbone_weights, checkpoints, recipes, weights
from humandata.training.algorithms import hmr
from humandata.training.backbone_weights import load_backbone_weights, to_timm
from humandata.training.backbones import Backbone
from humandata.training.weight_files import File
from humandata.training.weights import recognise, recognise_tensors, write

OTHERS = {
    "graphcmr": ("GraphCMR", "resnet50"),
    "pare_original": ("PARE", "hrnet_w32_hmrbench"),
    "pare_mmhuman3d": ("PARE", "hrnet_w32_hmrbench"),
    "graphormer_body_hrnet_w64": ("Mesh Graphormer", "hrnet_w64"),
    "nbf_resnet50": ("3DNBF", "resnet50"),
    "metahmr_cliff_meta_hrnet": ("Meta-HMR", ""),
    "metahmr_cliff_meta_resnet": ("Meta-HMR", "resnet50"),
}
META_HMR = {  # main and auxiliary network of a file, and the backbone that may be taken
    "hmr_resnet": ("metahmr_hmr_meta_resnet", "metahmr_hmr_aux_resnet", "resnet50"),
    "cliff_resnet": ("metahmr_cliff_meta_resnet", "metahmr_cliff_aux_resnet", "resnet50"),
    "cliff_hrnet": ("metahmr_cliff_meta_hrnet", "metahmr_cliff_aux_hrnet", ""),
}


def large_are_slow(names: Iterable[str]) -> list[Any]:
    """The names as parameters; networks that take a second or more to make are slow tests."""
    large = ("hr48", "hrnet", "resnet101", "resnet152", "resnext")
    return [
        pytest.param(name, marks=[pytest.mark.slow] if any(n in name for n in large) else [])
        for name in names
    ]


@pytest.fixture(scope="session")
def layouts() -> dict[str, Layout]:
    return read_layouts()


@pytest.mark.parametrize("model", large_are_slow(KNOWN))
def test_every_published_checkpoint_is_recognised_and_every_key_accounted_for(
    layouts: dict[str, Layout], model: str
) -> None:
    found = look(shapes_only(layouts[model]))
    assert (found.algorithm, found.backbone) == KNOWN[model]
    assert found.complete, [row for row in found.rows if row.wrong]
    assert found.image_size == (256 if found.algorithm.startswith("cliff") else 224)
    of_file = [name for row in found.rows if row.status != "missing" for name in row.names]
    assert sorted(of_file) == sorted(key for key, _, _ in layouts[model])
    left = {name for row in found.rows if row.status == "left out" for name in row.names}
    assert all(
        name.endswith("relative_position_index") or name.startswith("backbone.final_layer.")
        for name in left
    )
    network = of_timm(found.backbone)
    taken = {name.removeprefix("backbone.network.") for name in found.tensors}
    assert {name for name in taken if not name.startswith("head.")} == set(network)


def all_names(found: weights.Recognised) -> list[str]:
    return sorted(
        name.split(":")[0] for row in found.rows if row.status != "missing" for name in row.names
    )


@pytest.mark.parametrize("model", large_are_slow(OTHERS))
def test_networks_that_are_not_here_are_named_and_refused_with_all_their_keys(
    layouts: dict[str, Layout], tmp_path: Path, model: str
) -> None:
    state: dict[str, object] = {}
    for key, tensor in empty(layouts[model]).items():
        part, slash, name = key.partition("/")
        if slash:  # a state dict for each part
            state.setdefault(part, {})[name] = tensor  # type: ignore[index]
        else:
            state[key] = tensor
    torch.save(state if model == "graphcmr" else {"state_dict": state}, tmp_path / "a.pth")
    found = recognise(tmp_path / "a.pth")
    assert found.other is not None
    assert (found.other.name, found.trunk, found.algorithm) == (*OTHERS[model], None)
    assert not found.complete
    bare = {key.removeprefix("model.").replace("/", ".") for key, _, _ in layouts[model]}
    assert all_names(found) == sorted(bare)
    with pytest.raises(HumandataError, match="does not hold all"):
        write(found, tmp_path / "a.safetensors")
    if found.trunk:
        trunk = recognise(tmp_path / "a.pth", found.trunk)
        assert (trunk.complete, trunk.algorithm, trunk.other) == (True, None, None)
        assert all_names(trunk) == sorted(bare)


@pytest.mark.parametrize("file", large_are_slow(META_HMR))
def test_files_of_meta_hmr_are_not_taken_for_spin_or_cliff(
    layouts: dict[str, Layout], tmp_path: Path, file: str
) -> None:
    """On ResNet-50 names and shapes are the same, but the regressor runs ten times, not three."""
    main, auxiliary, trunk = META_HMR[file]
    content = {
        "model": empty(layouts[main]),
        "model_aux": empty(layouts[auxiliary]),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
        "epoch": 3,
        "dataset_perm": [2, 0, 1],
    }
    torch.save(content, tmp_path / "a.pt")
    found = recognise(tmp_path / "a.pt")
    assert found.other is not None
    assert (found.other.name, found.trunk, found.complete) == ("Meta-HMR", trunk, False)
    assert "ten times" in found.other.why
    beside = [row for row in found.rows if row.part == "model_aux"]
    assert [(row.status, row.count) for row in beside] == [("left out", len(layouts[auxiliary]))]
    assert all_names(found) == sorted([*(key for key, _, _ in layouts[main]), "model_aux"])
    # The user may know better: a start for training.
    if file == "hmr_resnet":
        assert recognise(tmp_path / "a.pt", "spin:resnet50").complete


def test_hmr_2_is_named_though_its_backbone_is_not_known() -> None:
    shapes = {
        "backbone.pos_embed": (1, 193, 1280),
        "backbone.patch_embed.proj.weight": (1280, 3, 16, 16),
        "smpl_head.transformer.to_token_embedding.weight": (1024, 1),
        "smpl_head.decpose.weight": (144, 1024),
        "smpl.v_template": (6890, 3),
        "initialized": (),
    }
    found = look({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert found.other is not None
    assert (found.other.name, found.trunk) == ("HMR 2.0 (4D-Humans)", "")
    assert all_names(found) == sorted(shapes)


@pytest.mark.parametrize("model", ["mmhuman3d_disc", "mmhuman3d_smpl"])
def test_what_is_no_network_is_refused_with_all_its_keys(
    layouts: dict[str, Layout], model: str
) -> None:
    found = look(shapes_only(layouts[model]))
    assert (found.backbone, found.other, found.complete) == (None, None, False)
    assert all_names(found) == sorted(key for key, _, _ in layouts[model])


def test_a_partial_file_is_told_by_what_is_missing_and_what_differs(
    layouts: dict[str, Layout],
) -> None:
    state = shapes_only(layouts["hmrbench_twins_svt"])
    del state["backbone.stages.2.4.attn.proj.weight"], state["head.deccam.bias"]
    state["backbone.norm_after_stage3.weight"] = torch.empty(7, device="meta")
    state["backbone.surprise.weight"] = torch.empty(7, device="meta")
    found = look(state)
    assert not found.complete
    wrong = {row.status: row for row in found.rows if row.wrong}
    assert wrong["shape differs"].names == ("backbone.norm_after_stage3.weight: 7, expected 768",)
    assert wrong["not known"].names == ("backbone.surprise.weight",)
    missing = {n for row in found.rows if row.status == "missing" for n in row.names}
    assert missing == {"blocks.2.4.attn.proj.weight", "head.deccam.bias"}
    with pytest.raises(HumandataError, match="does not hold all"):
        write(found, Path("a.safetensors"))


def test_the_rest_of_a_network_is_left_out_with_a_reason(layouts: dict[str, Layout]) -> None:
    layout = [*layouts["hmrbench_resnet50"], *layouts["mmhuman3d_disc"], *layouts["mmhuman3d_smpl"]]
    found = look(shapes_only(layout))
    assert found.complete
    reasons = {row.why: row.count for row in found.rows if row.status == "left out"}
    assert {word: count for why, count in reasons.items() for word in why.split(":")[:1]} == {
        "the discriminator of HMR's prior": 60,
        "a body model": 26,
    }


def test_a_file_is_read_as_what_the_user_says(layouts: dict[str, Layout]) -> None:
    with pytest.raises(HumandataError, match=r"no algorithm 'hrm'.*hmr, spin"):
        look(shapes_only(layouts["spin_hmr"]), "hrm:resnet50")
    spin = look(shapes_only(layouts["hmrbench_resnet50"]), "spin:resnet50")
    assert (spin.algorithm, spin.complete) == ("spin", True)


@pytest.mark.slow
def test_pose_networks_leave_random_what_they_do_not_have(
    layouts: dict[str, Layout], tmp_path: Path
) -> None:
    """mmpose and the original HRNet fuse to one scale at the end, and make 17 heatmaps."""
    layout = [
        (key.removeprefix("backbone."), shape, dtype)
        for key, shape, dtype in layouts["hmrbench_hrnet"]
        if not key.startswith(("head.", "backbone.upsample", "backbone.final_layer"))
        and not key.startswith(tuple(f"backbone.stage4.2.fuse_layers.{n}" for n in (1, 2, 3)))
    ]
    layout.append(("final_layer.weight", (17, 32, 1, 1), "float32"))
    found = look(shapes_only(layout))
    assert (found.algorithm, found.backbone) == (None, "hrnet_w32_hmrbench")
    assert found.complete
    random = [row for row in found.rows if "stays random" in row.why]
    assert {name.split(".")[0] for name in random[0].names} == {
        "stage4", "upsample_stage_2", "upsample_stage_3", "upsample_stage_4",
    }  # fmt: skip
    # The same holds where the file is given as it is.
    torch.save(empty(layout), tmp_path / "pose.pth")
    backbone = Backbone("hrnet_w32_hmrbench")
    before = backbone.network.upsample_stage_3[5].weight.clone()
    load_backbone_weights(backbone, tmp_path / "pose.pth")
    assert not backbone.network.stage3[0].branches[0][0].conv1.weight.any()
    assert torch.equal(backbone.network.upsample_stage_3[5].weight, before)
    with torch.device("meta"):
        plain = Backbone("hrnet_w32")
    with pytest.raises(DataError, match=r"incre_modules.*are missing"):
        load_backbone_weights(plain, tmp_path / "pose.pth")


def of_timm(name: str) -> dict[str, Tensor]:
    """Shapes of a backbone's tensors; built once for all tests."""
    return dict(weights._fresh(name)[0])


def of_hmrbench(layouts: dict[str, Layout], model: str) -> dict[str, Tensor]:
    """A backbone in mmcls' names, without what hmr-benchmarks adds to it."""
    return {
        key.removeprefix("backbone."): tensor
        for key, tensor in shapes_only(layouts[f"hmrbench_{model}"]).items()
        if key.startswith("backbone.")
        and not key.startswith(
            tuple(f"backbone.{n}" for n in ("upsample", "norm0", "norm1", "norm2"))
        )
    }


def shapes(**known: tuple[int, ...]) -> dict[str, Tensor]:
    return {
        key.replace("__", "."): torch.empty(shape, device="meta") for key, shape in known.items()
    }


CLASSIFIER = shapes(head__fc__weight=(1000, 2048), head__fc__bias=(1000,))
POSE_HEADS = {
    "mmpose 0": shapes(
        keypoint_head__deconv_layers__0__weight=(2048, 256, 4, 4),
        keypoint_head__final_layer__weight=(17, 256, 1, 1),
    ),
    "mmpose 1": shapes(
        head__deconv_layers__0__weight=(2048, 256, 4, 4), head__final_layer__weight=(17, 256, 1, 1)
    ),
    "flat": shapes(deconv_layers__0__weight=(2048, 256, 4, 4), final_layer__weight=(16, 256, 1, 1)),
}


def initial_files(layouts: dict[str, Layout]) -> dict[str, tuple[dict[str, Tensor], str, str]]:
    """The files that hmr-benchmarks and mmhuman3d start from: tensors, network, network to fill."""

    def inside(tensors: dict[str, Tensor], prefix: str = "backbone.") -> dict[str, Tensor]:
        return {prefix + key: tensor for key, tensor in tensors.items()}

    classifier = shapes(fc__weight=(1000, 2048), fc__bias=(1000,))
    files = {
        f"torchvision {name}": (of_timm(name) | classifier, name, variant)
        for name, variant in (
            ("resnet50", "resnet50"), ("resnet101", "resnet101"), ("resnet152", "resnet152"),
            ("resnext101_32x8d", "resnext101_32x8d_hmrbench"),
        )
    }  # fmt: skip
    for model, variant in (
        ("efficientnet", "tf_efficientnet_b5_hmrbench"),
        ("swin", "swin_tiny_patch4_window7_224_hmrbench"),
        ("twins_pcpvt", "twins_pcpvt_base_hmrbench"),
        ("twins_svt", "twins_svt_base_hmrbench"),
    ):
        trunk = of_hmrbench(layouts, model)
        files[f"mmcls {model}"] = inside(trunk) | CLASSIFIER, variant, variant
    vit = inside(of_hmrbench(layouts, "vit")) | shapes(
        backbone__ln1__weight=(768,), backbone__ln1__bias=(768,),
        head__layers__head__weight=(1000, 768),
    )  # fmt: skip
    name = "vit_base_patch16_224"
    files["mmcls vit"] = vit, f"{name}_hmrbench", f"{name}_hmrbench"
    norms = shapes(head__weight=(1000, 768), head__bias=(1000,))
    files["jx vit"] = of_timm(name) | norms, name, f"{name}_hmrbench"
    hrnet = of_timm("hrnet_w32") | shapes(classifier__weight=(1000, 2048), classifier__bias=(1000,))
    files["HRNet ImageNet"] = hrnet, "hrnet_w32", "hrnet_w32_hmrbench"
    pose = {
        key: tensor
        for key, tensor in of_hmrbench(layouts, "hrnet").items()
        if not key.startswith((*(f"stage4.2.fuse_layers.{n}" for n in (1, 2, 3)), "final_layer"))
    }
    hrnets = ("HRNet MPII", 16), ("HRNet COCO", 17)
    for title, joints in hrnets:
        heatmaps = shapes(final_layer__weight=(joints, 32, 1, 1), final_layer__bias=(joints,))
        files[title] = pose | heatmaps, "hrnet_w32_hmrbench", "hrnet_w32_hmrbench"
    resnet, svt = of_timm("resnet50"), of_hmrbench(layouts, "twins_svt")
    for title, head in POSE_HEADS.items():
        prefix = "" if title == "flat" else "backbone."
        files[f"ResNet pose, {title}"] = inside(resnet, prefix) | head, "resnet50", "resnet50"
        if prefix:
            name = "twins_svt_base_hmrbench"
            files[f"Twins pose, {title}"] = inside(svt) | head, name, name
            name = "hrnet_w32_hmrbench"
            files[f"HRNet pose, {title}"] = inside(pose) | head, name, name
    return files


@pytest.mark.slow
def test_what_the_published_runs_start_from_fills_their_backbones(
    layouts: dict[str, Layout],
) -> None:
    """ImageNet, MPII and COCO, by torchvision, timm, mmcls, mmpose, HRNet: all keys accounted."""
    for title, (tensors, backbone, filled) in initial_files(layouts).items():
        found = look(tensors)
        assert (found.backbone, found.algorithm, found.complete) == (backbone, None, True), title
        found = look(tensors, filled)
        assert found.complete, (title, found.rows)
        assert all_names(found) == sorted(tensors), title
        missing = {n for row in found.rows if row.status == "missing" for n in row.names}
        assert missing == {n for n in missing if backbone_weights.STAYS_RANDOM.match(n)} | {
            n for n in missing if n.endswith(("num_batches_tracked", "relative_position_index"))
        }, title
        assert set(found.tensors) | missing == set(of_timm(filled)), title


def test_torchvisions_resnet_gives_its_own_features(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    found = recognise(tmp_path / "resnet18.pth")
    assert (found.backbone, found.complete) == ("resnet18", True)
    write(found, tmp_path / "w.safetensors")
    backbone = Backbone("resnet18", image_size=64).eval()
    load_backbone_weights(backbone, tmp_path / "w.safetensors")
    theirs.fc = torch.nn.Identity()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(pixels), theirs(pixels))


@pytest.mark.parametrize(
    "model", ["spin_hmr", "noah_cliff_hr48", *(f"hmrbench_{name}" for name in
              ("twins_svt", "swin", "vit", "efficientnet"))],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_tensors_of_no_sensible_shape_end_in_the_table(
    layouts: dict[str, Layout], model: str, shape: tuple[int, ...]
) -> None:
    found = look({key: torch.empty(shape, device="meta") for key, _, _ in layouts[model]})
    assert not found.complete
    assert all_names(found) == sorted(key for key, _, _ in layouts[model])


def test_names_that_occur_under_two_prefixes_are_both_in_the_table(
    layouts: dict[str, Layout],
) -> None:
    state = shapes_only(layouts["hmrbench_resnet50"])
    twice = {"fc2.bias": torch.empty(1024), "encoder.conv1.weight": torch.empty(64, 3, 7, 7)}
    found = look(state | twice)
    assert not found.complete
    assert {n for row in found.rows if row.wrong for n in row.names} == set(twice)


def test_a_recipe_that_is_none_is_refused_with_a_sentence(tmp_path: Path) -> None:
    for text in ("{", "[1]", '{"recipe": {"backbone": 3, "surprise": 1}}'):
        file = File({"a": torch.zeros(1)}, "test", "", {"humandata": text})
        with pytest.raises(HumandataError):
            recognise_tensors(file, Path("a.safetensors"))


@pytest.mark.slow
def test_swin_as_microsoft_publishes_it_has_its_merging_at_the_end_of_a_stage() -> None:
    from timm.models.swin_transformer import checkpoint_filter_fn

    with torch.device("meta"):
        network = Backbone("swin_tiny_patch4_window7_224").network
    official = {
        key.replace("layers.1.down", "layers.0.down")
        .replace("layers.2.down", "layers.1.down")
        .replace("layers.3.down", "layers.2.down"): tensor
        for key, tensor in network.state_dict().items()
    }
    official["head.weight"] = torch.empty(1000, 768, device="meta")
    mapped, origin = to_timm(official)
    theirs = checkpoint_filter_fn(dict(official), network)
    assert set(mapped) - {"head.weight"} == {k for k in theirs if not k.startswith("head")}
    assert origin["layers.1.downsample.reduction.weight"] == "layers.0.downsample.reduction.weight"
    found = look(official)
    assert (found.backbone, found.complete) == ("swin_tiny_patch4_window7_224", True)


def test_patch_merging_is_reordered_from_unfolding_to_joining() -> None:
    """mmcls unfolds 2 x 2 patches, timm joins four maps: both applied to the same maps."""
    torch.manual_seed(1)
    maps, weight = torch.randn(1, 5, 4, 6), torch.randn(7, 20)
    unfolded = torch.nn.functional.unfold(maps, 2, stride=2)
    expected = weight @ unfolded[0]
    x = maps.permute(0, 2, 3, 1)
    joined = torch.cat(
        [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1
    )
    found = backbone_weights._reorder_merging(weight) @ joined.reshape(-1, 20).T
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_timms_own_files_are_known_by_their_names() -> None:
    for name in ("vit_base_patch16_224", "tf_efficientnet_b5", "twins_svt_base",
                 "twins_pcpvt_base", "resnet34"):  # fmt: skip
        found = look({**of_timm(name), "head.weight": torch.empty(1000, 768, device="meta")})
        assert (found.backbone, found.complete) == (name, True)


def test_an_imported_network_goes_through_init_and_is_recognised_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = dataclasses.replace(recipes.hmr(), backbone="resnet18", init="none")
    network = hmr.build(recipe, pretrained=False)
    published = {
        key.replace("backbone.network.", "backbone."): value
        for key, value in network.state_dict().items()
    }
    torch.save({"state_dict": published}, tmp_path / "a.pth")
    found = recognise(tmp_path / "a.pth")
    note = write(found, tmp_path / "w.safetensors")
    assert json.loads(note.read_text())["imported"]["sha256"] == found.sha256
    loaded, kept = checkpoints.load_network(tmp_path / "w.safetensors")
    assert (kept.algorithm, kept.backbone, kept.image_size) == ("hmr", "resnet18", 224)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    again = recognise(tmp_path / "w.safetensors")
    assert (again.algorithm, again.backbone, again.complete) == ("hmr", "resnet18", True)
    started = hmr.build(dataclasses.replace(recipe, init=str(tmp_path / "w.safetensors")))
    assert torch.equal(
        started.backbone.network.layer4[1].conv2.weight,
        network.backbone.network.layer4[1].conv2.weight,
    )

"""The named recipes against the published configurations, and the published results beside them."""

from __future__ import annotations

import csv
import json
import lzma
import re
from pathlib import Path
from typing import Any

import pytest
import timm
from click.testing import CliRunner
from tiny_store import write_tiny_store

from humandata.cli.main import cli
from humandata.errors import HumandataError
from humandata.training import engine, mixes, recipes
from humandata.training.backbone_variants import variant_of
from humandata.training.recipes import parse_augmentation

REFERENCES = Path(__file__).parent / "references"
with lzma.open(REFERENCES / "recipes.json.xz", "rt", encoding="utf-8") as _file:
    CONFIGS: dict[str, Any] = json.load(_file)

FORMS = {
    "smooth_l1": ("SmoothL1Loss", "L1Loss", "MSELoss"),
    "l1": ("L1Loss", "L1Loss", "L1Loss"),
    "mse": ("MSELoss", "MSELoss", "MSELoss"),
}
"""Keypoints, vertices, pose and betas of the three published forms of the losses."""

STEPS = {
    "MixingErasing": {"normal": "soft_erasing", "self": "self_mix"},
    "RandomOcclusion": "hard_erasing",
    "HardErasing": "hard_erasing",
    "SyntheticOcclusion": "synthetic_occlusion",
    "SyntheticOcclusionKp": "keypoint_occlusion",
    "PhotometricDistortion": "photometric_distortion",
    "CoarseDropout": "coarse_dropout",
    "GridDropout": "grid_dropout",
}
"""The references' augmentations and ours."""


@pytest.mark.parametrize("name", [n for n in CONFIGS["recipes"] if n != "cliff-stage2"])
def test_a_recipe_says_what_the_configuration_it_names_says(name: str) -> None:
    published, named = CONFIGS["recipes"][name], mixes.named_recipe(name)
    recipe = named.recipe
    assert recipe.optimizer == published["optimizer"].lower()
    assert (recipe.head_optimizer or recipe.optimizer) == published["head_optimizer"].lower()
    assert recipe.lr == published["lr"]
    assert (recipe.head_lr or recipe.lr) == published["head_lr"]
    assert recipe.weight_decay == published["weight_decay"]
    assert recipe.decay_all == bool(published["weight_decay"])
    assert recipe.momentum == (published["momentum"] or 0.9)
    policy, epochs, factor = published["schedule"]
    assert recipe.schedule == {"Fixed": "constant", "step": "step"}[policy]
    assert list(recipe.decay_epochs) == (epochs or [])
    assert recipe.decay_factor == factor
    assert recipe.warmup_steps == 0
    assert recipe.clip_gradient == 0, "clipping in the configurations has no effect"
    assert (recipe.epochs, recipe.batch_size) == (published["epochs"], published["batch"])
    assert recipe.epoch_length == published["num_data"]
    assert recipe.precision == "float32"
    assert recipe.sync_norm == (published["norm"] == "SyncBN")

    assert named.prior == published["disc"]
    if named.prior:
        assert (recipe.prior_weight, recipe.prior_lr) == (
            published["adv_weight"],
            published["disc_lr"],
        )
    keypoints, vertices, body = FORMS[recipe.loss]
    assert {key: value for key, value in published["losses"].items() if key != "adv"} == {
        "keypoints3d": [keypoints, recipe.keypoints3d_weight],
        "keypoints2d": [keypoints, recipe.keypoints2d_weight],
        "vertex": [vertices, recipe.vertices_weight],
        "smpl_pose": [body, recipe.pose_weight],
        "smpl_betas": [body, recipe.betas_weight],
    } | ({"camera": ["CameraPriorLoss", 60]} if recipe.algorithm == "spin" else {})

    assert [recipe.channel_noise] == published["noise"]
    assert [recipe.flip] == published["flip"]
    assert [[recipe.scale, recipe.rotation]] == published["scale_rotation"]
    extra = published["extra"]
    if name in ("hmr-l1", "hmr-mse"):  # RandomOcclusion on data that lack what it reads
        assert extra.pop()["type"] == "RandomOcclusion"
    _check_augmentations(recipe, extra)
    shares = {part.store: part.weight for part in mixes.find(named.mix).parts}
    assert shares == dict(zip(published["files"], published["partition"] or [1], strict=True))
    assert recipe.backbone.startswith(
        {
            "ResNet": f"resnet{published['backbone'][1]}.",
            "ResNeXt": "resnext101_32x8d_hmrbench.",
            "EfficientNet": "tf_efficientnet_b5_hmrbench.",
            "PoseHighResolutionNet": "hrnet_w32_hmrbench.",
            "VisionTransformer": "vit_base_patch16_224_hmrbench.",
            "SwinTransformer": "swin_tiny_patch4_window7_224_hmrbench.",
            "PCPVT": "twins_pcpvt_base_hmrbench.",
            "SVT": "twins_svt_base_hmrbench.",
        }[published["backbone"][0]]
    )


def _check_augmentations(recipe: recipes.Recipe, extra: list[dict[str, Any]]) -> None:
    found = [parse_augmentation(text) for text in recipe.augment]
    expected = []
    for step in extra:
        step = step["transforms"][0] if step["type"] == "Albumentation" else step
        if step["type"] == "RandomCrop":
            assert (recipe.random_crop, recipe.random_crop_factor) == (
                step["crop_prob"],
                step["crop_factor"],
            )
            continue
        ours = STEPS[step["type"]]
        ours = ours[step.get("ntype", "normal")] if isinstance(ours, dict) else ours
        share = step.get("occlusion_prob", step.get("p", recipes.AUGMENTATIONS[ours]))
        expected.append((ours, share, tuple(step.get("mlist", ()))))
    assert [(one.name, one.probability, one.datasets) for one in found] == expected
    if not any(step["type"] == "RandomCrop" for step in extra):
        assert recipe.random_crop == 0


def test_the_second_stage_of_cliff_is_what_the_last_epochs_of_its_configuration_are() -> None:
    published = CONFIGS["recipes"]["cliff-stage2"]
    recipe = mixes.named_recipe("cliff-stage2").recipe
    assert published["schedule"][1] == [100], "gone on from about epoch 150 up to 160"
    assert recipe.lr == pytest.approx(0.1 * published["lr"])
    assert (recipe.schedule, recipe.epochs) == ("constant", published["epochs"] - 150)
    assert recipe.augment == ("synthetic_occlusion",)
    assert published["extra"] == [{"type": "SyntheticOcclusion"}]
    shares = {part.store: part.weight for part in mixes.find("cliff-stage2").parts}
    assert shares == dict(zip(published["files"], published["partition"], strict=True))


@pytest.mark.parametrize("config", CONFIGS["mixes"])
def test_the_mixes_are_those_of_the_configurations(config: str) -> None:
    published = CONFIGS["mixes"][config]
    name = config.split("_")[2].removesuffix(".py")
    shares = {part.store: part.weight for part in mixes.find(name).parts}
    assert shares == dict(zip(published["files"], published["partition"], strict=True))
    # What the notes of mix 7 and mix 11 say.
    said = "SmoothL1Loss" if config.startswith("mixed/") else "L1Loss"
    odd = config.endswith("_mse.py") or published["loss"] == said
    assert odd == (name not in ("mix7", "mix11"))
    assert ("may be swapped" in mixes.find(name).note) == (name in ("mix7", "mix11"))


def test_every_published_result_of_these_algorithms_stands_beside_a_recipe() -> None:
    with lzma.open(REFERENCES / "published_results.csv.xz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    every = [mixes.named_recipe(name) for name in mixes.recipe_names()]
    shown = {
        (one.recipe.algorithm.upper(), _family(one.recipe.backbone), metric, value)
        for one in every
        for row in one.results
        for metric, value in (("PA-MPJPE", row.pa_mpjpe), ("MPJPE", row.mpjpe))
    }
    trained = [row for row in rows if row["table"] != "checkpoint names"]
    assert len(trained) == 197
    for row in trained:
        family = _family(row["backbone"])
        assert (row["algorithm"], family, row["metric"], float(row["value_mm"])) in shown, row
    # Of the networks of CLIFF's authors only weights are published, no training.
    left = {row["algorithm"] for row in rows if row["table"] == "checkpoint names"}
    assert left == {"CLIFF"}


def _family(backbone: str) -> str:
    """``Twins-SVT`` and ``twins_svt_base_hmrbench.in1k`` alike."""
    plain = backbone.lower().removeprefix("tf_").replace("-", "").replace("_", "")
    names = ("resnext101", "resnet101", "resnet152", "resnet50", "efficientnetb5", "hrnetw32")
    names += ("vit", "swin", "twinspcpvt", "twinssvt")
    return next(name for name in names if plain.startswith(name))


@pytest.mark.parametrize("name", mixes.recipe_names())
def test_a_recipe_is_complete(name: str) -> None:
    named = mixes.named_recipe(name)
    plain, _ = variant_of(named.recipe.backbone)
    assert timm.get_pretrained_cfg(plain) is not None, "timm has weights of that tag"
    assert mixes.is_mix(named.mix)
    assert all(mixes.is_mix(row.mix) for row in named.results)
    assert engine.load_algorithm(named.recipe.algorithm)
    assert named.prior == (named.recipe.algorithm == "hmr"), "only HMR has the prior"
    if any(row.suspect for row in named.results) or not named.config:
        assert named.note, "a doubt says why"


def test_an_unknown_recipe_is_refused_with_near_names() -> None:
    with pytest.raises(HumandataError, match="near names are .*hmr-hrnet"):
        mixes.named_recipe("hmr-hrnett")


def test_one_store_of_the_mixes_is_a_mix_by_itself(tmp_path: Path) -> None:
    (tmp_path / "eft_coco_train.zarr").mkdir()
    (source,) = mixes.sources("eft_coco_train", tmp_path)
    assert source.store == str(tmp_path / "eft_coco_train.zarr")
    assert mixes.published_on("eft_coco_train")[0][1].pa_mpjpe == 60.82


def test_the_page_about_recipes_names_recipes_that_are_there() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    known = mixes.recipe_names()
    assert f"{len(known)} configurations" in page
    named = set(re.findall(r"`((?:hmr|spin|cliff)[a-z0-9-]*)`", page))
    assert len(named) > 25
    assert named <= set(known)


def invoke(*words: object) -> Any:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_a_dry_run_shows_settings_results_and_doubts(tmp_path: Path) -> None:
    words = ["train", "--recipe", "hmr-efficientnet", "--stores", tmp_path, "--dry-run"]
    text = invoke(*words).output
    for part in (
        'optimizer = "sgd"', "lr = 0.1", 'prior = "cmu_mosh.npz"', "PA-MPJPE 67.53 mm", "doubtful",
        "slip of copying", "lacks 6 stores", "--prior none",
    ):  # fmt: skip
        assert part in text, part
    document = json.loads(invoke(*words, "--json").output)
    assert document["config"].endswith("efficientnet_hmr_pw3d.py")
    assert document["published"][0]["mpjpe"] == 112.34
    (tmp_path / "cmu_mosh.npz").touch()
    assert "--prior" not in invoke(*words).output, "it lies beside the stores"
    changed = invoke(*words, "--prior", "none", "--lr", "0.2", "--set", "seed=3").output
    assert "lr = 0.2\n" in changed
    assert "seed = 3\n" in changed
    assert "cmu_mosh" not in changed
    wrong = invoke(*words, "--set", "sead=3")
    assert "near names: seed" in str(wrong.exception)


def test_all_recipes_are_listed_or_those_of_a_mix() -> None:
    text = invoke("mix", "--recipes").output
    assert all(name in text for name in mixes.recipe_names())
    one = invoke("mix", "mix6", "--recipes").output
    assert "hmr-hrnet-l1-coco-aug-mix6" in one
    assert "47.68" in one
    assert "hmr-only-coco" not in one
    listed = json.loads(invoke("mix", "--recipes", "--json").output)
    assert {entry["name"] for entry in listed} == set(mixes.recipe_names())
    assert "hmr-twins-svt: PA-MPJPE 60.11 mm, MPJPE 105.42 mm" in invoke("mix", "mix5").output


def test_a_recipe_with_the_prior_asks_for_real_bodies_or_takes_those_of_a_store(
    tmp_path: Path,
) -> None:
    store = write_tiny_store(tmp_path / "eft_coco_train.zarr", count=2)
    words = ["train", "--recipe", "hmr-only-eft-coco", "--stores", tmp_path, "--out", "run"]
    refused = invoke(*words)
    assert refused.exit_code == 2
    assert "cmu_mosh.npz of mmhuman3d" in " ".join(refused.output.split())
    assert "--prior none" in " ".join(refused.output.split())
    dry = [*words, "--device", "cpu", "--dry-run", "--json"]
    plan = json.loads(invoke(*dry, "--prior", store).output)
    assert plan["recipe"]["prior"] == str(store)
    assert plan["prior"] == "bodies of eft_coco_train train (2)"
    assert plan["published"][0]["pa_mpjpe"] == 60.82
    text = invoke(*dry[:-1], "--prior", "none").output
    assert "prior =" not in text
    assert "PA-MPJPE 60.82 mm" in text

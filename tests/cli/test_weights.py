"""``humandata weights import``: a table, a file, an exit status."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny_store import write_tiny_store

from humandata.cli.main import cli
from humandata.errors import DataError
from humandata.training import checkpoints, recipes
from humandata.training.algorithms import hmr


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HMR on the smallest network that is known, with names as mmhuman3d saves them."""
    recipe = recipes.from_dict({"backbone": "resnet18", "init": "none"})
    state = hmr.build(recipe, pretrained=False).state_dict()
    names = {key.replace("backbone.network.", "backbone."): value for key, value in state.items()}
    names["body_model_train.v_template"] = torch.zeros(1).expand(6890, 3)
    path = tmp_path_factory.mktemp("weights") / "resnet18_hmr.pth"
    torch.save({"meta": {}, "state_dict": names}, path)
    return path


def test_a_published_file_is_described_and_written(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "hmr.safetensors"
    result = CliRunner().invoke(cli, ["weights", "import", str(published), "--out", str(out)])
    assert result.exit_code == 0, result.output
    for words in ("HMR on resnet18", "read by torch.load, weights only", "inside of state_dict",
                  "licensed data", "regressor"):  # fmt: skip
        assert words in result.output
    assert out.is_file()
    note = json.loads(out.with_suffix(".json").read_text())
    assert note["recipe"]["algorithm"] == "hmr"
    assert note["imported"]["file"] == "resnet18_hmr.pth"
    assert "/" not in note["imported"]["file"]


def test_what_was_written_is_evaluated(published: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "hmr.safetensors", write_tiny_store(tmp_path / "tiny.zarr", 3)
    CliRunner().invoke(cli, ["weights", "import", str(published), "--out", str(out)])
    arguments = ["eval", str(store), "--checkpoint", str(out), "--device", "cpu", "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "hmr.safetensors" in result.output
    assert "mpjpe" in result.output


def test_what_was_written_starts_a_training(published: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "hmr.safetensors", write_tiny_store(tmp_path / "tiny.zarr", 3)
    CliRunner().invoke(cli, ["weights", "import", str(published), "--out", str(out)])
    arguments = [
        *("train", "--mix", str(store), "--out", str(tmp_path / "run"), "--init", str(out)),
        *("--backbone", "resnet18", "--image-size", "64", "--batch-size", "2", "--steps", "1"),
        *("--set", "lr=1e-30", "--set", "vertices_weight=0", "--workers", "0", "--device", "cpu"),
    ]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    # At a learning rate of next to nothing the weights are still those of the file.
    trained, _ = checkpoints.load_network(tmp_path / "run")
    imported, _ = checkpoints.load_network(out)
    for name, value in imported.backbone.named_parameters():
        found = trained.backbone.get_parameter(name)
        torch.testing.assert_close(found, value, rtol=0, atol=1e-25, msg=name)


def test_a_file_that_would_run_a_command_does_not(tmp_path: Path) -> None:
    mark = tmp_path / "was_here"
    torch.save({"model": {"conv1.weight": torch.zeros(1)}, "x": Command(mark)}, tmp_path / "a.pth")
    result = CliRunner().invoke(cli, ["weights", "import", str(tmp_path / "a.pth")])
    assert result.exit_code == 1
    assert "read by the reader that makes tensors" in result.output
    assert "conv1.weight: 1" in result.output
    # Nor as a plain pickle, which is no PyTorch file.
    (tmp_path / "b.pth").write_bytes(pickle.dumps({"model": Command(mark)}))
    result = CliRunner().invoke(cli, ["weights", "import", str(tmp_path / "b.pth")])
    assert isinstance(result.exception, DataError)
    assert "b.pth" in str(result.exception)
    arguments = ["train", "--mix", str(tmp_path), "--init", str(tmp_path / "a.pth")]
    CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "run")])
    assert not mark.exists()
    pickle.loads(pickle.dumps(Command(mark)))
    assert mark.exists()


class Command:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_network_that_is_not_here_is_named_and_status_1(tmp_path: Path) -> None:
    parts = {"keypoint_deconv_layers.0.weight": 4, "smpl_deconv_layers.0.weight": 4, "pose_mlp": 2}
    names = {f"model.head.{name}": torch.zeros(size) for name, size in parts.items()}
    torch.save({"state_dict": names}, tmp_path / "pare.ckpt")
    result = CliRunner().invoke(cli, ["weights", "import", str(tmp_path / "pare.ckpt")])
    assert result.exit_code == 1
    assert "PARE is not among the algorithms here, hmr, spin, cliff" in result.output
    document = json.loads(
        CliRunner().invoke(cli, ["weights", "import", str(tmp_path / "pare.ckpt"), "--json"]).output
    )
    assert (document["other"], document["complete"]) == ("PARE", False)
    assert sum(row["tensors"] for row in document["rows"]) == 3


def test_json_says_the_same(published: Path) -> None:
    result = CliRunner().invoke(cli, ["weights", "import", str(published), "--json"])
    document = json.loads(result.output)
    assert (document["algorithm"], document["backbone"], document["complete"]) == (
        "hmr",
        "resnet18",
        True,
    )
    assert document["written"] is None
    left = next(row for row in document["rows"] if row["status"] == "left out")
    assert left["names"] == ["body_model_train.v_template"]


def test_a_partial_file_gives_a_table_of_differences_and_status_1(
    published: Path, tmp_path: Path
) -> None:
    content = torch.load(published, weights_only=True)
    del content["state_dict"]["backbone.layer3.1.conv2.weight"]
    content["state_dict"]["head.extra.weight"] = torch.zeros(3)
    torch.save(content, tmp_path / "partial.pth")
    out = tmp_path / "w.safetensors"
    arguments = ["weights", "import", str(tmp_path / "partial.pth"), "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "layer3.1.conv2.weight" in result.output
    assert "head.extra.weight" in result.output
    assert "not imported" in result.output
    assert not out.exists()


def test_an_unknown_file_is_listed_and_status_1(tmp_path: Path) -> None:
    torch.save({"generator.weight": torch.zeros(4, 5)}, tmp_path / "gan.pth")
    result = CliRunner().invoke(cli, ["weights", "import", str(tmp_path / "gan.pth")])
    assert result.exit_code == 1
    assert "generator.weight: 4 x 5" in result.output
    assert "no network that is known here" in result.output


def test_the_backbone_of_a_network_can_be_taken_alone(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "trunk.safetensors"
    arguments = ["weights", "import", str(published), "--as", "resnet18", "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "--backbone resnet18 --init" in result.output
    assert "only the backbone was asked for" in result.output
    from safetensors import safe_open

    with safe_open(out, framework="pt") as file:
        assert "layer1.0.conv1.weight" in set(file.keys())

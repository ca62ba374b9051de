"""Files of weights: what is around the tensors is taken off, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from published_weights import Layout, empty, read_layouts

from humandata.errors import DataError
from humandata.training.weight_files import read
from humandata.training.weights import recognise


@pytest.fixture(scope="session")
def layouts() -> dict[str, Layout]:
    return read_layouts()


def test_wrappers_and_prefixes_are_taken_off(layouts: dict[str, Layout], tmp_path: Path) -> None:
    state = empty(layouts["spin_hmr"])
    wrapped = {
        "plain": state,
        "ddp": {"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        "compiled": {"net": {f"_orig_mod.{k}": v for k, v in state.items()}},
        "lightning": {
            "state_dict": {
                **{f"model.{k}": v for k, v in state.items()},
                "smpl.v_template": torch.zeros(1).expand(6890, 3),
            }
        },
        "parameters": {"state_dict": {k: torch.nn.Parameter(v) for k, v in state.items()}},
    }
    for name, content in wrapped.items():
        torch.save(content, tmp_path / name)
        found = recognise(tmp_path / name)
        assert (found.algorithm, found.complete, found.reader) == ("spin", True, "weights_only")
    assert found.wrapper == "state_dict"
    assert recognise(tmp_path / "ddp").wrapper == "model / module."


class Hostile:
    """Runs a command when a file is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


class Configuration(dict):  # type: ignore[type-arg]
    """What training code likes to keep beside the weights."""


@pytest.mark.parametrize("old", [False, True])
def test_no_code_of_a_file_is_run(tmp_path: Path, old: bool) -> None:
    mark = tmp_path / "was_here"
    values = torch.arange(6.0).reshape(2, 3)
    content = {
        "hostile": Hostile(f"touch {mark}"),
        "config": Configuration(lr=1),
        "args": [pickle, OrderedDict(a=np.float64(3))][1:],
        "state_dict": {"conv1.weight": values, "half": values[1].half(), "n": torch.tensor(4)},
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
    file = read(tmp_path / "a.pth")
    assert file.reader == "restricted"
    assert not mark.exists()
    torch.testing.assert_close(file.tensors["conv1.weight"], values)
    assert file.tensors["half"].dtype == torch.float16
    assert set(file.tensors) == {"conv1.weight", "half", "n"}
    # The file is as dangerous as it looks.
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert mark.exists()


def test_files_of_python_2_are_read(tmp_path: Path) -> None:
    """SPIN's checkpoint is one: arrays beside the weights are text of arbitrary bytes there."""
    values = torch.arange(4.0)
    content = {"model": {"conv1.weight": values}, "perm": Hostile("PLACEHOLDER")}
    torch.save(content, tmp_path / "new.pth", _use_new_zipfile_serialization=False)
    text, other = b"X\x0b\x00\x00\x00PLACEHOLDER", b"T\x0b\x00\x00\x00\xff\xfe\x80LDER1234"
    raw = (tmp_path / "new.pth").read_bytes()
    assert text in raw
    (tmp_path / "old.pth").write_bytes(raw.replace(text, other))
    file = read(tmp_path / "old.pth")
    assert file.reader == "restricted"
    torch.testing.assert_close(file.tensors["conv1.weight"], values)


def test_what_holds_no_tensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not weights")
    torch.save({"epoch": 3, "name": "x"}, tmp_path / "empty.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    for name, hint in (("text.pth", ""), ("empty.pth", "epoch"), ("cut.safetensors", ""),
                       ("absent.pth", "no such file")):  # fmt: skip
        with pytest.raises(DataError, match=name) as error:
            recognise(tmp_path / name)
        assert hint in str(error.value)


def test_a_lightning_file_as_4d_humans_saves_them_gives_its_network(
    layouts: dict[str, Layout], tmp_path: Path
) -> None:
    state = empty(layouts["hmrbench_resnet50"]) | {
        "discriminator.D_conv1.weight": torch.zeros(32, 9, 1, 1),
        "smpl.v_template": torch.zeros(1).expand(6890, 3),
        "initialized": torch.tensor(True),
    }
    content = {
        "epoch": 35,
        "global_step": 1_000_000,
        "pytorch-lightning_version": "1.8.1",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": None}},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "hyper_parameters": Configuration(lr=1e-5),
        "best_score": torch.tensor(51.0),
    }
    torch.save(content, tmp_path / "epoch=35.ckpt")
    found = recognise(tmp_path / "epoch=35.ckpt")
    assert (found.algorithm, found.backbone, found.complete) == ("hmr", "resnet50", True)
    assert (found.reader, found.wrapper) == ("restricted", "state_dict")
    left = {row.part: row.why for row in found.rows if row.status == "left out"}
    assert set(left) == {"discriminator", "smpl", "initialized", "best_score"}
    assert left["best_score"] == "lies beside state_dict"

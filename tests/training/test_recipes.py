"""The configuration of a run: JSON and back, ``--set``, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humandata.errors import DataError, HumandataError
from humandata.training import recipes
from humandata.training.recipes import Recipe, Source

SCHEMA: dict[str, Any] = json.loads(
    resources.files("humandata.schemas").joinpath("run.json").read_text(encoding="utf-8")
)


def test_a_recipe_survives_json_and_satisfies_the_schema(tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        recipes.hmr(),
        mix=(Source("a.store", 0.3), Source("b.store")),
        schedule="step",
        decay_at=(0.5, 0.75),
        head_lr=1e-3,
    )
    recipes.write(recipe, tmp_path / "recipe.json")
    assert recipes.read(tmp_path / "recipe.json") == recipe
    jsonschema.validate(json.loads((tmp_path / "recipe.json").read_text()), SCHEMA)


def test_what_was_left_out_of_a_file_is_written_with_its_default() -> None:
    recipe = recipes.from_dict({"lr": 0.1, "mix": [{"store": "a.store"}]})
    values = json.loads(json.dumps(recipes.to_dict(recipe)))
    assert list(values) == [field.name for field in dataclasses.fields(Recipe)]
    assert values["mix"] == [{"store": "a.store", "weight": 1.0}]
    assert (values["lr"], values["batch_size"], values["decay_at"]) == (0.1, 64, [0.8])


def test_the_schema_describes_exactly_the_fields_types_and_defaults_of_the_recipe() -> None:
    generated = json.loads(json.dumps(msgspec.json.schema(Recipe)))["$defs"]
    for name in ("Recipe", "Source"):
        described = SCHEMA["$defs"][name]["properties"]
        assert all(field.pop("description") for field in described.values())
        assert described == generated[name]["properties"]


def test_settings_reach_every_kind_of_field() -> None:
    recipe = recipes.with_settings(
        recipes.hmr(),
        ["lr=1e-3", "loss=l1", "approximate_joints=true", "decay_at=[0.5]", "head_lr=null"],
    )
    assert recipe.lr == 0.001
    assert recipe.loss == "l1"
    assert recipe.approximate_joints is True
    assert recipe.decay_at == (0.5,)
    assert recipe.head_lr is None
    assert recipes.with_settings(recipe, ["body_models=/smpl"]).body_models == "/smpl"
    assert recipes.with_settings(recipe, ["backbone=123"]).backbone == "123"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("lr=fast", "lr.*got `str`"),
        ("lr=0", "lr.*> 0"),
        ("loss=l3", "loss.*one of smooth_l1, l1, mse.*'l3'"),
        ("flip=1.5", "flip.*<= 1"),
        ("batch_sise=8", "batch_sise.*near names: batch_size"),
        ("batch_size=8.5", "batch_size"),
        ("seed", "expected field=value"),
        ('mix=[{"store": "a", "weight": -1}]', r"mix\[0\].weight"),
    ],
)
def test_a_wrong_setting_is_refused_by_field_and_reason(setting: str, reason: str) -> None:
    with pytest.raises(HumandataError, match=reason):
        recipes.with_settings(recipes.hmr(), [setting])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.store", Source("a.store", 1.0)),
        ("a.store=0.35", Source("a.store", 0.35)),
        ("odd=name/a.store", Source("odd=name/a.store", 1.0)),
        ("odd=name/a.store=2", Source("odd=name/a.store", 2.0)),
    ],
)
def test_a_store_of_a_mix_may_carry_a_weight(text: str, expected: Source) -> None:
    assert recipes.parse_source(text) == expected


@pytest.mark.parametrize("text", ["a.store=0", "a.store=-1", "a.store=nan", "a.store=inf"])
def test_a_weight_must_be_a_positive_number(text: str) -> None:
    with pytest.raises(HumandataError, match="above zero"):
        recipes.parse_source(text)


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        recipes.read(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"lr": 0.')
    with pytest.raises(DataError, match=r"cut\.json"):
        recipes.read(tmp_path / "cut.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="found list"):
        recipes.read(tmp_path / "list.json")


@given(steps=st.integers(0, 50), epochs=st.integers(0, 9), length=st.integers(1, 9))
def test_steps_go_before_epochs(steps: int, epochs: int, length: int) -> None:
    recipe = Recipe(steps=steps, epochs=epochs)
    assert recipe.total_steps(length) == (steps if steps else epochs * length)

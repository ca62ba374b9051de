"""The named mixes: their shares, what of them is at hand, and how to make the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pw3d_store import write_pw3d_store

from humandata.cli.main import cli
from humandata.converters import converter
from humandata.errors import HumandataError
from humandata.training import mixes


def test_there_are_eleven_mixes_and_their_shares_are_those_of_hmr_benchmarks() -> None:
    assert mixes.names()[:11] == [f"mix{number}" for number in range(1, 12)]
    mix = mixes.find("mix6")
    assert {part.store: part.weight for part in mix.parts} == {
        "h36m_mosh_train": 0.5,
        "eft_coco_train": 0.233,
        "eft_lspet_train": 0.046,
        "eft_mpii_train": 0.021,
        "spin_mpi_inf_3dhp_train": 0.2,
    }
    assert mix.published == {"base": 55.47, "l1": 53.62}


@pytest.mark.parametrize("name", mixes.names())
def test_shares_sum_to_one_but_for_those_with_a_dataset_added(name: str) -> None:
    total = sum(part.weight for part in mixes.find(name).parts)
    assert total == pytest.approx(2 if name.endswith("-gta") else 1)


@pytest.mark.parametrize("name", mixes.store_names())
def test_the_command_of_a_store_names_a_converter_and_a_split_of_it(name: str) -> None:
    installed = converter.datasets()
    for part in mixes.find(name).parts:
        if part.command:
            assert part.split in installed[part.dataset].INFO.splits, part
        else:
            assert part.dataset not in installed, part


def test_stores_are_found_by_name_and_what_is_missing_is_said_with_how_to_make_it(
    tmp_path: Path,
) -> None:
    write_pw3d_store(tmp_path / "h36m_mosh_train.zarr", pictures=False)
    mix = mixes.find("mix2", tmp_path)
    assert [part.store for part in mix.missing] == ["mpi_inf_3dhp_train", "eft_coco_train"]
    with pytest.raises(HumandataError, match="lacks 2 of 3 stores") as caught:
        mixes.sources("mix2", tmp_path)
    assert "humandata convert mpi_inf_3dhp RAW" in str(caught.value)


def test_a_mix_at_hand_becomes_the_sources_of_a_recipe(tmp_path: Path) -> None:
    for part in mixes.find("mix2").parts:
        write_pw3d_store(tmp_path / f"{part.store}.zarr", pictures=False)
    sources = mixes.sources("mix2", tmp_path)
    assert [source.weight for source in sources] == [0.5, 0.3, 0.2]
    assert Path(sources[0].store) == tmp_path / "h36m_mosh_train.zarr"


def test_the_folder_of_stores_may_stand_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUMANDATA_STORES", str(tmp_path))
    assert mixes.stores_folder() == tmp_path
    assert mixes.stores_folder(Path("elsewhere")) == Path("elsewhere")


def test_an_unknown_mix_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(HumandataError, match="mix11"):
        mixes.find("mix12")


def test_the_command_shows_all_mixes_or_one_or_json(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert "mix11" in run(cli, ["mix"]).output
    one = run(cli, ["mix", "mix7", "--stores", str(tmp_path)]).output
    assert "53.44 mm" in one
    assert "may be swapped" in one
    assert "48.65 mm" in run(cli, ["mix", "cliff-stage1", "--stores", str(tmp_path)]).output
    assert "hmr-l1: PA-MPJPE 52.93 mm" in one
    document = json.loads(run(cli, ["mix", "mix1", "--json"]).output)
    assert document[0]["parts"][0]["store"] == "h36m_mosh_train"


def test_a_dry_run_says_what_a_recipe_lacks_and_what_it_is_published_with(tmp_path: Path) -> None:
    arguments = ["train", "--recipe", "hmr-l1", "--stores", str(tmp_path), "--dry-run"]
    text = CliRunner().invoke(cli, arguments).output
    assert "58.20 mm" in text
    assert "lacks 6 stores" in text
    document = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert document["mix"] == "mix5"
    assert "coco_2014_train" in document["missing"]


def test_a_mix_at_hand_is_trained_from_by_name(tmp_path: Path) -> None:
    for part in mixes.find("mix2").parts:
        write_pw3d_store(tmp_path / f"{part.store}.zarr", pictures=True)
    arguments = ["train", "--recipe", "hmr-l1", "--mix", "mix2", "--stores", str(tmp_path)]
    arguments += ["--prior", "none", "--out", str(tmp_path / "run"), "--dry-run", "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    plan = json.loads(result.output)
    assert [store["share"] for store in plan["stores"]] == pytest.approx([0.5, 0.3, 0.2], abs=0.01)
    assert plan["recipe"]["loss"] == "l1"


def test_a_recipe_that_starts_from_a_file_asks_for_it(tmp_path: Path) -> None:
    for part in mixes.find("mix5").parts:
        write_pw3d_store(tmp_path / f"{part.store}.zarr", pictures=False)
    arguments = ["train", "--recipe", "hmr-l1-coco", "--stores", str(tmp_path), "--out", "run"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "--init FILE" in result.output

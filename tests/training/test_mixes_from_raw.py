"""The mixes train from raw releases: convert as `humandata mix` says, then train by the name."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import coco_release
import eft_release
import h36m_release
import lsp_release
import lspet_release
import mpi_inf_3dhp_release
import mpii_release
import muco_release
import pytest
from click.testing import CliRunner, Result

import humandata
from humandata.cli.main import cli
from humandata.training import mixes

SMALL = shlex.split("--backbone test_resnet --init none --image-size 32 --batch-size 4 --steps 2")
SMALL += ["--set", "epoch_length=200"]  # so that the smallest share gets samples


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def h36m(raw: Path) -> None:
    takes = {"S1": h36m_release.DIRECTIONS}
    one = h36m_release.CAMERAS[:1]
    h36m_release.write_h36m(raw, takes, videos=True, mosh=True, cameras=one)


def mpi_inf_3dhp(raw: Path) -> None:
    mpi_inf_3dhp_release.write_train(raw, frames=11, videos={0: 11})
    names = mpi_inf_3dhp_release.write_spin(raw, frames=1)["imgname"].tolist()
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(mpi_inf_3dhp_release.picture())


def mpii(raw: Path) -> None:
    mpii_release.write_h5(raw, mpii_release.release())
    mpii_release.write_pictures(raw, mpii_release.release())


def lsp(raw: Path) -> None:
    lsp_release.write_joints(raw / "joints.mat", lsp_release.people(4), extended=False)
    lsp_release.write_pictures(raw / "images", [f"im{n:04d}.jpg" for n in range(1, 5)])


def eft(raw: Path) -> None:
    eft_release.write_coco(raw)
    for name, source, picture, place in (
        ("MPII_ver01.json", "mpii", "000000101.jpg", "mpii/images/"),
        ("LSPet_train_ver10.json", "lspet", "im00001.png", "hr-lspet/"),
        ("PoseTrack_ver01.json", "posetrack", "a_train/000054.jpg", "posetrack/images/train/"),
        ("OCHuman_train_ver10.json", "ochuman", "000001.jpg", "ochuman/images/"),
    ):
        eft_release.write(raw / name, [eft_release.fit(picture, 1)], source)
        eft_release.write_picture(raw / place / picture)


def muco(raw: Path) -> None:
    muco_release.write_json(raw)
    muco_release.write_pictures(raw)


RELEASES: dict[str, Callable[[Path], object]] = {
    "h36m": h36m,
    "mpi_inf_3dhp": mpi_inf_3dhp,
    "coco": lambda raw: coco_release.write_coco(raw, "train2014"),
    "mpii": mpii,
    "lsp": lsp,
    "lspet": lambda raw: lspet_release.write_original(raw, lspet_release.original()),
    "eft": eft,
    "muco": muco,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every store of the mixes whose release is written here, made by the command for it."""
    folder = tmp_path_factory.mktemp("mixes")
    for dataset, write in RELEASES.items():
        write(folder / "raw" / dataset)
    every = [part for name in mixes.names() for part in mixes.find(name, folder).parts]
    for part in {part.store: part for part in every}.values():
        if part.dataset in RELEASES:
            raw = folder / "raw" / part.dataset
            words = shlex.split(part.command.replace("FOLDER", str(raw / "h36m_mosh")))
            made = run(*(raw if word == "RAW" else word for word in words[1:]), "--workers", 1)
            assert made.exit_code == 0, f"{part.command}\n{made.output}"
            assert len(humandata.open(folder / f"{part.store}.zarr")) > 0, part.store
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"mix{number}" for number in (1, 2, 3, 4, 5, 6, 8, 9, 11)])
def test_a_mix_can_start_from_what_the_converters_wrote(stores: Path, name: str) -> None:
    said = run("train", "--mix", name, "--stores", stores, *SMALL, "--dry-run", "--out", "x")
    assert said.exit_code == 0, said.output
    for part in mixes.find(name, stores).parts:
        assert f"{part.store}.zarr" in said.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mix5", "mix9", "mix11"])
def test_a_mix_trains(stores: Path, tmp_path: Path, name: str) -> None:
    """Two steps over people from every one of its releases."""
    steps = [*SMALL, "--set", "vertices_weight=0", "--device", "cpu", "--json"]
    done = run("train", "--mix", name, "--stores", stores, *steps, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert '"step": 2' in done.stdout.splitlines()[-1]

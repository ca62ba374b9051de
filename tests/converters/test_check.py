"""``humandata convert X --check RAW`` says what is there before any work, and what it looked at."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cliff_release
import cv2
import fourdhumans_release
import humandata_release
import numpy as np
import pytest
import spin_release
from click.testing import CliRunner, Result
from coco_release import write_coco
from h36m_release import write_h36m
from mpi_inf_3dhp_release import write_train
from pw3d_release import write_pw3d

from humandata import HumandataError
from humandata.cli.convert import convert as command
from humandata.converters import converter
from humandata.release_check import FILMS, SAMPLE, check_release, describe

SMALL = (108, 192)


def release(root: Path, sequences: int = 3, frames: int = 4) -> Path:
    for i in range(sequences):
        write_pw3d(root, name=f"walk_{i:02d}", frames=frames, size=SMALL, seed=i)
    return root


def run(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def everything(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_both_ways_of_asking_give_one_answer_and_write_nothing(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw")
    before = everything(tmp_path)
    first, second = run("pw3d", "--check", raw), run("pw3d", raw, "--check")
    third = run("pw3d", raw, tmp_path / "s.zarr", "--check")
    assert [r.exit_code for r in (first, second, third)] == [0, 0, 0]
    told = [[line for line in r.output.splitlines() if "free" not in line] for r in (first, second)]
    assert told[0] == told[1]
    for part in (converter.find("pw3d").INFO.expects, "test: 3 units, 3 annotation files",
                 "unit walk_00 was read (not the other 2): 8 records, 6 persons, 4 pictures",
                 "looked at: 4 of that unit's 4: 4 usable", "could start: yes"):  # fmt: skip
        assert part in first.output
    assert "free space is that of the current folder" in first.output
    assert "current folder" not in third.output
    assert everything(tmp_path) == before


def test_json_says_the_same(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw")
    content = json.loads(run("pw3d", raw, "--check", "--json").output)
    assert content["could_start"] is True
    (split,) = content["splits"]
    file = raw / "sequenceFiles/test/walk_01.pkl"
    assert split["files"][str(file)] == file.stat().st_size
    assert (split["units"], split["records"], split["pictures"]["there"]) == (3, 8, 4)


@pytest.mark.parametrize("name", sorted(converter.datasets()))
def test_every_converter_says_of_an_empty_folder_what_it_expects(name: str, tmp_path: Path) -> None:
    result = run(name, "--check", tmp_path)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert f"expects  {converter.find(name).INFO.expects}" in result.output
    assert f"missing or wrong: {tmp_path}" in result.output
    assert "could start: no" in result.output
    assert "0 units" not in result.output
    assert "no such file or folder" in run(name, "--check", tmp_path / "nowhere").output


def test_only_a_sample_of_the_first_unit_is_looked_at(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_pw3d(raw, name="walk_00", frames=45, size=SMALL, pictures=False)
    (raw / "imageFiles/walk_00").mkdir(parents=True)
    for i in range(45):
        cv2.imwrite(str(raw / f"imageFiles/walk_00/image_{i:05d}.jpg"), np.zeros(SMALL[::-1]))
    write_pw3d(raw, name="walk_01", frames=4, size=SMALL)
    later = raw / "sequenceFiles/test/walk_01.pkl"
    later.write_bytes(later.read_bytes()[:500])  # found out by the conversion only
    for file in (raw / "imageFiles/walk_01").iterdir():
        file.unlink()
    (split,) = check_release("pw3d", raw).splits
    seen = split.pictures
    assert (seen.of, seen.looked_at, seen.there) == (45, SAMPLE, SAMPLE)
    assert split.problems == []
    assert "was read (not the other 1)" in "\n".join(describe(check_release("pw3d", raw)))


def test_missing_pictures_are_named_and_judged_by_what_is_wanted(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=1)
    folder = raw / "imageFiles/walk_00"
    (folder / "image_00000.jpg").unlink()
    (folder / "image_00002.jpg").write_bytes(b"\xff\xd8 rubbish")
    some = check_release("pw3d", raw)
    assert some.could_start
    (split,) = some.splits
    (missing,), (damaged,) = split.pictures.missing, split.pictures.damaged
    assert missing.startswith(f"{folder / 'image_00000.jpg'}: ")
    assert damaged.startswith(f"{folder / 'image_00002.jpg'}: ")
    assert "2 of the 4 pictures looked at cannot be used" in split.notes[-1]
    assert not check_release("pw3d", raw, strict=True).could_start
    for file in folder.iterdir():
        file.unlink()
    gone = check_release("pw3d", raw)
    assert not gone.could_start
    assert "4 of the 4 pictures looked at cannot be used" in gone.splits[0].problems[0]
    assert check_release("pw3d", raw, pictures="none").could_start
    assert not check_release("pw3d", raw, crop=64).could_start


def test_a_damaged_annotation_file_is_a_line_with_its_hint(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=1)
    file = raw / "sequenceFiles/test/walk_00.pkl"
    file.write_bytes(file.read_bytes()[:90])
    result = run("pw3d", raw, "--check")
    assert result.exit_code == 1
    assert f"missing or wrong: test: {file}, byte 85: expected a complete pickle" in result.output
    assert "fetch it again" in result.output
    file.write_bytes(b"")
    assert f"{file}: an empty file" in run("pw3d", raw, "--check").output


def test_every_split_is_looked_at_unless_one_is_chosen(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        write_coco(tmp_path / "raw", split)
    both = check_release("coco", tmp_path / "raw")
    assert [s.split for s in both.splits] == ["train2017", "val2017"]
    assert any("choose with --split" in note for note in both.notes)
    one = check_release("coco", tmp_path / "raw", split="val2017")
    assert [s.split for s in one.splits] == ["val2017"]
    (val,) = one.splits
    assert val.records == val.instances + sum(val.filtered.values())
    assert "also there: train2017" in one.notes
    absent = check_release("coco", tmp_path / "raw", split="val2014")
    assert "person_keypoints_val2014.json: expected" in absent.splits[0].problems[0]
    with pytest.raises(HumandataError, match="no split 'test'"):
        check_release("coco", tmp_path / "raw", split="test")
    with pytest.raises(HumandataError, match="no option 'filtre'"):
        check_release("coco", tmp_path / "raw", options={"filtre": "none"})


def test_one_frame_each_of_a_few_videos_is_decoded(tmp_path: Path) -> None:
    write_h36m(tmp_path / "raw", {"S1": [(2, 1, "Directions 1")]}, frames=4, videos=True)
    (split, *_) = check_release("h36m", tmp_path / "raw").splits
    assert split.pictures.frames_of_videos
    assert 1 <= split.pictures.looked_at <= FILMS <= split.pictures.of
    assert split.pictures.there == split.pictures.looked_at


def test_a_video_with_fewer_frames_than_poses_is_told(tmp_path: Path) -> None:
    write_train(tmp_path / "raw", frames=21, videos={0: 11})
    (split,) = check_release("mpi_inf_3dhp", tmp_path / "raw", options={"cameras": "0"}).splits
    film = tmp_path / "raw/S1/Seq1/imageSequence/video_0.avi"
    told = f"{film} has 11 frames, 21 are asked for; poses without a frame would be counted"
    assert any(note.startswith(told) for note in split.notes)
    assert check_release(
        "mpi_inf_3dhp", tmp_path / "raw", pictures="none", options={"cameras": "0"}
    ).splits[0].pictures.short == [told.partition(";")[0]]  # fmt: skip
    whole = check_release(
        "mpi_inf_3dhp", tmp_path / "raw", options={"cameras": "0", "stride": "11"}
    )
    assert whole.splits[0].pictures.short  # frame 11 is the twelfth
    strict = check_release("mpi_inf_3dhp", tmp_path / "raw", strict=True, options={"cameras": "0"})
    assert not strict.could_start


def test_the_estimate_of_the_disk_is_near_what_the_store_takes(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw")
    dice = np.random.default_rng(0)
    for file in (raw / "imageFiles").rglob("*.jpg"):
        noise = dice.integers(0, 256, (*reversed(SMALL), 3), np.uint8)
        cv2.imwrite(str(file), noise, [cv2.IMWRITE_JPEG_QUALITY, 100])
    (split,) = check_release("pw3d", raw, pictures="original").splits
    converter.convert("pw3d", raw, tmp_path / "s.zarr", pictures="original", workers=1)
    size = sum(p.stat().st_size for p in (tmp_path / "s.zarr").rglob("c/*") if p.is_file())
    assert size <= split.needs_bytes <= 1.5 * size


def test_a_disk_too_small_and_a_store_that_is_there_are_reasons(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=1)
    assert "bytes are needed" in check_release("pw3d", raw, crop=10**9).problems[0]
    store = tmp_path / "s.zarr"
    converter.convert("pw3d", raw, store, workers=1)
    assert "there already" in check_release("pw3d", raw, store).problems[0]
    assert check_release("pw3d", raw, store, overwrite=True).could_start
    (tmp_path / "t.zarr.partial").mkdir()
    assert "interrupted run" in check_release("pw3d", raw, tmp_path / "t.zarr").notes[0]


def test_the_list_says_of_every_dataset_what_goes_in_and_out_and_under_which_licence() -> None:
    told = " ".join(run("--list").output.split())
    for name, module in converter.datasets().items():
        info = module.INFO
        for part in (f"{info.name} {info.title} see {info.url}", f"expects {info.expects}",
                     f"yields {info.yields}", f"licence {info.licence}"):  # fmt: skip
            assert " ".join(part.split()) in told, name
        for option in info.options:
            assert f"--option {option.name}={'|'.join(option.choices)}" in told, name
    assert all(len(line) <= 100 for line in run("--list").output.splitlines())


def test_the_list_of_one_dataset_is_its_own() -> None:
    (info,) = json.loads(run("--list", "lsp", "--json").output)
    assert info == json.loads(json.dumps(asdict(converter.find("lsp").INFO)))
    assert run("--list", "lsp").output.splitlines()[0].startswith("lsp ")


def test_a_file_of_another_kind_is_told_by_the_command_for_it(tmp_path: Path) -> None:
    files = {
        "humandata": humandata_release.write_npz(tmp_path / "a.npz", humandata_release.values(2)),
        "spin": spin_release.write(tmp_path / "b.npz", spin_release.coco_values()),
        "cliff": cliff_release.write(tmp_path / "c.npz", cliff_release.make().values),
        "fourdhumans": fourdhumans_release.write_npz(
            tmp_path / "d.npz", fourdhumans_release.evaluation()
        ),
    }
    for kind, file in files.items():
        for asked in files:
            said = run(asked, "--check", file, "--pictures", "none").output
            other = f"{file.name} is a file for 'humandata convert {kind}'"
            told = other in said and "found another kind of file" in said
            assert told is (asked != kind), f"{asked} of {kind}: {said}"


def test_of_folders_one_level_up_the_ones_below_are_named(tmp_path: Path) -> None:
    for name in ("coco-val", "mpii-train"):
        shard = fourdhumans_release.shard()
        fourdhumans_release.write_tar(tmp_path / "tars" / name / "000000.tar", shard)
    said = run("fourdhumans", "--check", tmp_path / "tars").output
    assert "folders of tars: coco-val, mpii-train. Each is a data set of its own" in said
    spin_release.write(tmp_path / "extras/spin/coco_2014_train.npz", spin_release.coco_values())
    said = run("spin", "--check", tmp_path / "extras").output
    assert "Is it in a folder below (spin)?" in said


def test_where_the_pictures_are_not_the_ways_out_are_named(tmp_path: Path) -> None:
    file = spin_release.write(tmp_path / "coco_2014_train.npz", data := spin_release.coco_values())
    said = run("spin", "--check", file)
    assert said.exit_code == 1
    assert "--option pictures_root=FOLDER, if they lie elsewhere" in said.output
    assert "or --pictures none" in said.output
    spin_release.write_pictures(tmp_path / "else", data)
    there = run("spin", "--check", file, "--option", f"pictures_root={tmp_path / 'else'}")
    assert there.exit_code == 0

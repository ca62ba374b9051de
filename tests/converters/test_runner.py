"""The runner gives one result, whatever the number of workers and however often it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from coco_release import write_coco
from pw3d_release import write_pw3d

import humandata
from humandata import DataError, HumandataError
from humandata.converters import converter
from humandata.converters.converter import convert
from humandata.workers import Pool

SMALL = (108, 192)


def release(root: Path, sequences: int = 5) -> Path:
    for i in range(sequences):
        write_pw3d(root, name=f"walk_{i:02d}", frames=4, size=SMALL, seed=i)
    return root


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "humandata.cli.main", *map(str, arguments)]


def same_files(a: Path, b: Path) -> bool:
    """Equal but for the root attributes' provenance of paths."""
    names = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in names)


def test_one_and_two_workers_write_the_same_files(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw")
    one = convert("pw3d", raw, tmp_path / "one.zarr", workers=1)
    two = convert("pw3d", raw, tmp_path / "two.zarr", workers=2)
    assert one.fingerprint == two.fingerprint
    assert same_files(tmp_path / "one.zarr", tmp_path / "two.zarr")


@pytest.mark.slow
def test_killed_ten_times_and_resumed_gives_the_same_fingerprint(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=12)
    reference = convert("pw3d", raw, tmp_path / "whole.zarr", workers=1)
    store = tmp_path / "killed.zarr"
    words = command("convert", "pw3d", raw, store, "--workers", 2, "--json")
    dice = random.Random(0)
    interrupted = 0

    def files() -> int:
        return sum(len(found) for _, _, found in os.walk(store.with_name("killed.zarr.partial")))

    for _ in range(10):
        before, steps = files(), dice.randrange(1, 20)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and abs(files() - before) < steps:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.01))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not store.exists():
            interrupted += 1
            with pytest.raises(DataError):
                humandata.open(store)
    assert interrupted > 1
    if not store.exists():
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    assert humandata.open(store).fingerprint == reference.fingerprint
    assert same_files(tmp_path / "whole.zarr", store)
    assert not store.with_name("killed.zarr.partial").exists()


def test_an_interrupted_run_continues_and_does_not_redo_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = release(tmp_path / "raw")
    from humandata.converters import pw3d

    read, seen = pw3d.read, []

    def stops_at_the_third(unit: converter.Unit) -> converter.Columns:
        seen.append(unit.name)
        if unit.name == "walk_02" and seen.count("walk_02") == 1:
            raise KeyboardInterrupt
        return read(unit)

    monkeypatch.setattr(pw3d, "read", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        convert("pw3d", raw, tmp_path / "s.zarr", workers=1)
    report = convert("pw3d", raw, tmp_path / "s.zarr", workers=1)
    assert report.resumed
    assert seen == ["walk_00", "walk_01", "walk_02", "walk_02", "walk_03", "walk_04"]
    whole = convert("pw3d", raw, tmp_path / "whole.zarr", workers=1)
    assert report.fingerprint == whole.fingerprint


def test_other_options_do_not_continue_an_interrupted_run(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw")
    file = tmp_path / "raw/annotations/person_keypoints_train2017.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:500])
    store = tmp_path / "s.zarr"
    with pytest.raises(DataError):
        convert("coco", tmp_path / "raw", store, workers=1)
    file.write_bytes(whole)
    other = {"filter": "mmhuman3d"}
    with pytest.raises(DataError, match="--restart"):
        convert("coco", tmp_path / "raw", store, workers=1, options=other)
    report = convert("coco", tmp_path / "raw", store, workers=1, options=other, restart=True)
    assert report.instances == 2


def test_an_input_that_changed_since_the_interruption_is_read_again(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_pw3d(raw, name="a_00", frames=4, size=SMALL, seed=0)
    write_pw3d(raw, name="b_00", frames=4, size=SMALL, seed=1)
    second = raw / "sequenceFiles/test/b_00.pkl"
    whole = second.read_bytes()
    second.write_bytes(whole[:100])
    with pytest.raises(DataError):
        convert("pw3d", raw, tmp_path / "s.zarr", workers=1)
    second.write_bytes(whole)
    truth = write_pw3d(raw, name="a_00", frames=4, size=SMALL, seed=7, pictures=False)
    convert("pw3d", raw, tmp_path / "s.zarr", workers=1)
    store = humandata.open(tmp_path / "s.zarr")
    np.testing.assert_allclose(
        store.instances["keypoints3d"][0][:, :3], truth.joints[0, 0], atol=1e-5
    )


def test_packs_of_an_input_that_changed_are_not_taken_up_after_a_second_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    raw, store = tmp_path / "raw", tmp_path / "s.zarr"
    for i in range(2):
        write_pw3d(raw, name=f"{i}_00", frames=6, size=SMALL, seed=i)
    with monkeypatch.context() as patch:  # everything is read and packed, but not committed
        patch.setattr("humandata.writer.StoreWriter.commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert("pw3d", raw, store, workers=1)
    write_pw3d(raw, name="0_00", frames=3, size=SMALL, seed=9, pictures=False)
    with monkeypatch.context() as patch:  # the changed sequence is read, its pictures are not
        patch.setattr(converter, "_write_packs", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert("pw3d", raw, store, workers=1)
    convert("pw3d", raw, store, workers=1)
    convert("pw3d", raw, tmp_path / "fresh.zarr", workers=1)
    assert same_files(tmp_path / "fresh.zarr", store)


def test_a_store_being_replaced_survives_a_kill_between_the_two_renames(tmp_path: Path) -> None:
    raw, path = release(tmp_path / "raw", 1), tmp_path / "s.zarr"
    old = convert("pw3d", raw, path, workers=1, limit=2)
    # What the kill leaves: the old store moved away, the new one not yet in its place.
    (tmp_path / "s.zarr.partial").mkdir()
    path.rename(tmp_path / "s.zarr.partial" / "replaced")
    with pytest.raises(DataError, match="something there already"):
        convert("pw3d", raw, path, workers=1, restart=True)
    assert humandata.open(path).fingerprint == old.fingerprint
    new = convert("pw3d", raw, path, workers=1, overwrite=True, restart=True)
    assert new.instances > old.instances


def test_the_work_of_a_worker_that_dies_is_done_anew_and_nothing_twice(tmp_path: Path) -> None:
    # One job kills its worker when it runs for the first time.
    deadly = f"import os; os.mkdir({str(tmp_path / 'died')!r}); os._exit(1)"
    once = f"import os\nif not os.path.exists({str(tmp_path / 'died')!r}): {deadly}"
    jobs = [(number, (once if number == 2 else "pass",)) for number in range(6)]
    with Pool(2, len(jobs)) as pool:
        assert sorted(pool.map(exec, jobs)) == [(number, None) for number in range(6)]


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=12)
    whole = convert("pw3d", raw, tmp_path / "whole.zarr", workers=1)
    store = tmp_path / "s.zarr"
    words = command("convert", "pw3d", raw, store, "--workers", 2, "--json")
    run = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    journal = tmp_path / "s.zarr.partial" / "journal.jsonl"
    while not journal.exists() or len(journal.read_text().splitlines()) < 3:
        assert run.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    workers = [
        pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(int(workers[0]), signal.SIGKILL)
    report = json.loads(run.communicate()[0])
    assert run.returncode == 0
    assert (report["resumed"], report["fingerprint"]) == (False, whole.fingerprint)
    assert same_files(store, tmp_path / "whole.zarr")


def test_workers_that_keep_dying_end_in_a_message() -> None:
    with (
        pytest.raises(HumandataError, match="worker processes die, most likely for want of memory"),
        Pool(2, 2) as pool,
    ):
        list(pool.map(os._exit, [(0, (1,)), (1, (1,))]))


def test_limit_keeps_the_first_instances_and_counts_the_rest(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=3)
    whole = humandata.open(convert("pw3d", raw, tmp_path / "w.zarr", workers=1).store)
    for limit in (1, 5, 8, 1000):
        report = convert("pw3d", raw, tmp_path / f"{limit}.zarr", workers=1, limit=limit)
        store = humandata.open(report.store)
        kept = min(limit, len(whole))
        assert len(store) == kept
        np.testing.assert_array_equal(store.instances["id"][:], whole.instances["id"][:kept])
        assert report.records == kept + sum(report.filtered.values())


def test_two_conversions_into_one_path_end_with_one_store_and_one_message(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=4)
    words = command("convert", "pw3d", raw, tmp_path / "s.zarr", "--workers", 1, "--json")
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
            for _ in range(2)]  # fmt: skip
    errors = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 1]
    (message,) = [error for error in errors if error]
    assert "at work on it" in message or "something there already" in message
    assert len(humandata.open(tmp_path / "s.zarr")) > 0


def test_a_full_disk_ends_in_a_message_and_the_same_command_resumes(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=6)
    # The kernel refuses to let any file grow beyond this size, as a full disk would.
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2);"
        "from humandata.cli.main import main; main(sys.argv[2:])"
    )
    arguments = command("convert", "pw3d", raw, tmp_path / "s.zarr", "--workers", 1, "--json")[3:]
    for size, finished in (("3000", 0), ("12000", 6)):  # no unit has room; the pictures have none
        failed = subprocess.run(
            [sys.executable, "-c", script, size, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert failed.returncode == 1
        assert "File too large" in failed.stderr
        assert "run the same command again" in failed.stderr
        assert "Traceback" not in failed.stderr
        journal = (tmp_path / "s.zarr.partial/journal.jsonl").read_text()
        assert journal.count('"piece": "unit') == finished
        with pytest.raises(DataError, match="not finished"):
            humandata.open(tmp_path / "s.zarr")
    report = convert("pw3d", raw, tmp_path / "s.zarr", workers=1)
    assert report.resumed
    assert report.fingerprint == convert("pw3d", raw, tmp_path / "w.zarr", workers=1).fingerprint


def test_what_another_version_laid_out_otherwise_is_not_continued(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=2)
    bad = raw / "sequenceFiles/test/walk_01.pkl"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:90])
    with pytest.raises(DataError):
        convert("pw3d", raw, tmp_path / "s.zarr", workers=1)
    bad.write_bytes(whole)
    # Once a unit was a folder of many files, and the journal said nothing of a layout.
    journal = tmp_path / "s.zarr.partial/journal.jsonl"
    making, *lines = journal.read_text().splitlines(keepends=True)
    former = {key: value for key, value in json.loads(making).items() if key != "layout"}
    journal.write_text(json.dumps(former) + "\n" + "".join(lines))
    unit = tmp_path / "s.zarr.partial/units/00000"
    unit.unlink()
    unit.mkdir()
    with pytest.raises(DataError, match="another version of humandata.*--restart"):
        convert("pw3d", raw, tmp_path / "s.zarr", workers=1)
    report = convert("pw3d", raw, tmp_path / "s.zarr", workers=1, restart=True)
    assert report.fingerprint == convert("pw3d", raw, tmp_path / "w.zarr", workers=1).fingerprint


def test_a_journal_cut_off_by_a_crash_is_read_up_to_the_last_whole_line(tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=2)
    bad = raw / "sequenceFiles/test/walk_01.pkl"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:90])
    with pytest.raises(DataError):
        convert("pw3d", raw, tmp_path / "s.zarr", workers=1)
    journal = tmp_path / "s.zarr.partial" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"piece": "unit 1", "rec')
    bad.write_bytes(whole)
    report = convert("pw3d", raw, tmp_path / "s.zarr", workers=1)
    assert report.fingerprint == convert("pw3d", raw, tmp_path / "w.zarr", workers=1).fingerprint


def test_a_converter_that_loses_count_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humandata.converters import pw3d

    def forgets(unit: converter.Unit) -> converter.Columns:
        columns = read(unit)
        columns.records += 1
        return columns

    read = pw3d.read
    monkeypatch.setattr(pw3d, "read", forgets)
    with pytest.raises(HumandataError, match="lost count in unit walk_00"):
        convert("pw3d", release(tmp_path / "raw", 1), tmp_path / "s.zarr", workers=1)


@pytest.mark.parametrize("table", ["images", "instances"])
def test_an_id_of_two_units_is_named_with_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    from humandata.converters import pw3d

    def repeats(unit: converter.Unit) -> converter.Columns:
        columns = read(unit)
        getattr(columns, table)["id"][2] = 7
        return columns

    read = pw3d.read
    monkeypatch.setattr(pw3d, "read", repeats)
    with pytest.raises(DataError, match=f"{table} id 7: expected each .* once") as caught:
        convert("pw3d", release(tmp_path / "raw", 2), tmp_path / "s.zarr", workers=1)
    assert "walk_00.pkl, imageFiles/walk_00/image_0000" in str(caught.value)
    assert "again as" in str(caught.value)
    assert "walk_01.pkl, imageFiles/walk_01/image_0000" in str(caught.value)
    assert not (tmp_path / "s.zarr").exists()


def test_provenance_names_files_digests_and_options(tmp_path: Path) -> None:
    import hashlib

    write_coco(tmp_path / "raw")
    store = humandata.open(convert("coco", tmp_path / "raw", tmp_path / "s.zarr", workers=1).store)
    (source,) = store.attributes["provenance"]["sources"]
    file = tmp_path / "raw" / source["file"]
    assert source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert source["bytes"] == file.stat().st_size
    assert store.attributes["provenance"]["options"] == {"filter": "none"}
    assert "CC BY" in store.attributes["licence"]


@pytest.mark.parametrize("name", sorted(converter.datasets()))
def test_every_converter_fulfils_the_contract(name: str, tmp_path: Path) -> None:
    """Run over all converters by listing: a new one is covered without writing a test."""
    module = converter.find(name)
    info = module.INFO
    assert info.name == name
    assert all([info.title, info.citation, info.licence, info.splits, info.expects, info.yields])
    for convention in (info.keypoints2d, info.keypoints3d):
        if convention is not None:
            assert humandata.keypoints.names(convention)  # type: ignore[attr-defined]
    with pytest.raises(HumandataError) as caught:  # a wrong folder
        module.find_splits(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(HumandataError):
        module.plan(tmp_path, info.splits[0], {})
    json.dumps([option.name for option in info.options])

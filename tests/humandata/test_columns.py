"""The columns of a unit come back from its one file as they were, or the file is not there."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from humandata import HumandataError
from humandata.columns import Columns, Part, Reject, write_part


def unit(rows: int) -> Columns:
    """Strings, small and large arrays, none of them laid out as the file has them."""
    dice = np.random.default_rng(rows)
    return Columns(
        {"path": [f"Bühne/{i}.jpg" for i in range(rows)], "frame": np.arange(rows, dtype=">i8")},
        {
            "image": np.arange(rows),
            "keypoints3d": dice.normal(size=(4, 24, rows)).T.astype(np.float32),
            "bbox_xywh": np.asfortranarray(dice.normal(size=(rows, 4))),
            "extra/seen": dice.random((rows, 3)) > 0.5,
        },
        {"name": ["", "走る", "ab"]},
        {"keypoints3d": {"convention": "smpl_24"}},
        [Reject("a.json", "7", "no_person", 'It says "none".\nNothing else.', whole_file=True)],
        {"crowd": 2},
        rows + 3,
        ["Two lines,\nof which one is the second."],
    )


@pytest.mark.parametrize("rows", [0, 1, 5, 4000])  # 4000 rows of joints are mapped, not read
def test_a_unit_is_read_back_as_it_was(rows: int, tmp_path: Path) -> None:
    given = unit(rows)
    write_part(tmp_path / "units/00000", given)
    assert [file.name for file in (tmp_path / "units").iterdir()] == ["00000"]
    part = Part(tmp_path / "units/00000")
    assert part.rows == {"images": rows, "instances": rows, "sequences": 3}
    assert part.array("images", "path") is part.array("images", "width") is None
    assert part.strings("images", "video") == [""] * rows
    found = part.columns()
    for table in ("images", "instances", "sequences"):
        assert part.names(table) == sorted(getattr(given, table))
        for name, values in getattr(given, table).items():
            read = getattr(found, table)[name]
            if isinstance(values, list):
                assert read == values
            else:
                np.testing.assert_array_equal(read, values.astype(read.dtype))
                assert read.dtype.isnative
    for name in ("rejects", "filtered", "records", "notes", "field_attributes"):
        assert getattr(found, name) == getattr(given, name)


def test_a_unit_written_anew_is_the_former_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "00000"
    write_part(file, unit(5))
    before = file.read_bytes()
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # the kernel lets no file grow beyond this, as on a full disk
        for size in (0, 100, len(before) // 2):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, allowed[1]))
            with pytest.raises(OSError, match="File too large"):
                write_part(file, unit(6))
            resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
            assert file.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
        signal.signal(signal.SIGXFSZ, ignored)
    write_part(file, unit(6))
    assert Part(file).rows["instances"] == 6


def test_a_column_that_its_field_cannot_hold_is_named_and_nothing_written(tmp_path: Path) -> None:
    for name, values, message in (
        ("person", np.array([0.5]), "instances/person must be int32; float64 values do not fit"),
        ("pose", np.zeros(1), "the table 'instances' has no field 'pose'; it has id, image"),
    ):
        with pytest.raises(HumandataError, match=message):
            write_part(tmp_path / "00000", Columns({}, {name: values}))
    assert not list(tmp_path.iterdir())

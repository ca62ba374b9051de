"""JSON as Python writes it is read, NaN and all, without holding a large file in memory."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest

from humandata import DataError, json_numbers


@pytest.mark.parametrize("block", range(1, 40))
def test_nan_becomes_null_wherever_the_blocks_of_the_file_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(json_numbers, "_BLOCK", block)
    values = {"a": [1.5, math.nan, 2], "b": [math.inf, -math.inf], "c": {"x": [[math.nan], []]}}
    (tmp_path / "a.json").write_text(json.dumps(values))
    found = json_numbers.decode_file(tmp_path / "a.json", dict[str, Any], "anything")
    assert found == {"a": [1.5, None, 2], "b": [None, None], "c": {"x": [[None], []]}}


@pytest.mark.parametrize("number", ["1.5", "NaN"])
def test_a_large_file_is_never_in_memory_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setattr(json_numbers, "_BLOCK", 2**16)
    file = tmp_path / "a.json"
    many = json.dumps({str(i): "x" * 100_000 for i in range(40)})
    file.write_text(f'{many[:-1]}, "n": {number}}}')
    tracemalloc.start()
    found = json_numbers.decode_file(file, dict[str, msgspec.Raw], "anything")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < file.stat().st_size / 8
    assert bytes(found["n"]) == (b"null" if number == "NaN" else b"1.5")
    assert len(bytes(found["39"])) == 100_002


@pytest.mark.parametrize("content", ["", '{"a": [1, Na', '{"a": [1, NaN'])
def test_what_is_cut_off_is_said_with_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=r"a.json: expected complete JSON"):
        json_numbers.decode_file(tmp_path / "a.json", dict[str, Any], "anything")
    with pytest.raises(DataError, match=r"a.json: expected complete JSON"):
        json_numbers.decode(content.encode(), dict[str, Any], tmp_path / "a.json", "anything")

"""Sizes of pictures come from their headers, and are those a decoder finds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from humandata.picture_sizes import picture_sizes

WIDTH, HEIGHT = 75, 41


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp", "tiff"])
def test_the_size_is_that_of_the_decoded_picture(tmp_path: Path, ending: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    cv2.imwrite(str(tmp_path / f"a.{ending}"), pixels)
    assert picture_sizes(tmp_path, [f"a.{ending}"]).tolist() == [[WIDTH, HEIGHT]]


def test_exif_rotation_and_long_headers_do_not_matter(tmp_path: Path) -> None:
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010E] = "x" * 60_000
    picture.save(tmp_path / "a.jpg", exif=exif, progressive=True)
    assert picture_sizes(tmp_path, ["a.jpg"]).tolist() == [[WIDTH, HEIGHT]]


def test_missing_and_unreadable_files_have_no_size_and_truncated_ones_have_theirs(
    tmp_path: Path,
) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-30])
    (tmp_path / "start.jpg").write_bytes(whole[:10])
    (tmp_path / "text.png").write_bytes(b"no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    names = ["cut.jpg", "absent.jpg", "start.jpg", "text.png", "empty.jpg", "cut.jpg"]
    none = [0, 0]
    expected = [[WIDTH, HEIGHT], none, none, none, none, [WIDTH, HEIGHT]]
    assert picture_sizes(tmp_path, names).tolist() == expected
    assert picture_sizes(tmp_path, []).shape == (0, 2)


def test_every_beginning_of_a_jpeg_gives_its_size_or_none(tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg", progressive=True)
    whole = (tmp_path / "a.jpg").read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / "b.jpg").write_bytes(whole[:end])
        assert picture_sizes(tmp_path, ["b.jpg"]).tolist() in ([[0, 0]], [[WIDTH, HEIGHT]])

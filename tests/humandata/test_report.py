"""The report is one file that needs nothing else, and says what is missing."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from markupsafe import Markup
from people_store import SIZE, make_people_store

from humandata import Store, inspection, report
from humandata import open as open_store
from humandata.page import Section, banner, figure, page, table

VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Tags that are opened and closed in order; everything a page could load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "xlink:href")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(html: str) -> Outline:
    parsed = Outline()
    parsed.feed(html)
    assert parsed.open == []
    return parsed


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_people_store(tmp_path_factory.mktemp("report") / "people.zarr")


@pytest.fixture(scope="module")
def html(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("html") / "new folder" / "report.html"
    return report.write_report(store, out, people=4).read_text()


def test_the_report_loads_nothing_and_runs_nothing(html: str) -> None:
    parsed = outline(html)
    assert parsed.loaded
    assert all(source.startswith("data:image/jpeg;base64,") for source in parsed.loaded)
    assert not {"script", "link", "iframe", "a"} & parsed.tags
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html


def test_every_picture_is_a_jpeg_with_words_for_it(html: str) -> None:
    images = outline(html).images
    assert len(images) == 4 * 3  # whole, crop, body
    for image in images:
        assert image["alt"]
        data = base64.b64decode((image["src"] or "").partition(",")[2])
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert max(decoded.shape) <= 640


def test_the_report_says_what_the_store_is_and_that_it_is_sound(html: str, store: Store) -> None:
    text = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    for words in (
        "people test",
        "licence not said",
        "Sound. 17 of 17 checks passed.",
        "17 (coco)",
        "instances/keypoints3d",
        "stand-in body, not SMPL",
        store.fingerprint,
        "Residual of 3D on 2D (px)",
        "SMPL shape, all coefficients",
        "Distance from the camera (m)",
        "Box height (px)",
    ):
        assert words in text


def test_the_same_seed_shows_the_same_people(store: Store, tmp_path: Path) -> None:
    checks = inspection.verify(store)

    def rows(seed: int) -> list[str]:
        out = report.write_report(store, tmp_path / "r.html", 5, seed, checks)
        return re.findall(r"· row (\d+):", out.read_text())

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)
    assert len(set(rows(1))) == 5


def test_the_body_covers_its_person(store: Store) -> None:
    from humandata import drawing
    from humandata.report import _body

    box = store.instances["bbox_xywh"][0]
    ground = np.zeros((*SIZE[::-1], 3), np.uint8)
    crop, affine = drawing.crop_person(ground, box, 256)
    drawn, _ = _body(store, 0, crop, affine) or (crop, "")
    rows, columns = np.nonzero((drawn != crop).any(axis=-1))
    joints = drawing.move_joints(store.instances["keypoints2d"][0], affine)
    joints = joints[joints[:, 2] > 0]
    # The mesh reaches from the ankles to the head, so it holds the joints and little more.
    assert rows.min() <= joints[:, 1].min() + 3
    assert rows.max() >= joints[:, 1].max() - 3
    assert columns.min() - 3 <= joints[:, 0].min()
    assert columns.max() + 3 >= joints[:, 0].max()


def test_missing_pictures_are_said_and_joints_still_drawn(tmp_path: Path) -> None:
    store = make_people_store(tmp_path / "paths.zarr", pictures=False)
    html = report.write_report(store, tmp_path / "r.html", people=2).read_text()
    assert html.count("no picture: ") == 2
    assert len(outline(html).images) == 6


def test_a_picture_that_cannot_be_decoded_is_said(tmp_path: Path) -> None:
    store = make_people_store(tmp_path / "s.zarr")
    file = store.path / "images" / "packs" / "00000" / "c" / "0"
    content = bytearray(file.read_bytes())
    start = int(store.images["offset"][0])
    content[start : start + int(store.images["length"][0])] = b"\0" * int(store.images["length"][0])
    file.write_bytes(content)
    checks = [c for c in inspection.verify(store) if c.name != "checksums"]
    html = report.write_report(
        open_store(store.path), tmp_path / "r.html", 24, 0, checks
    ).read_text()
    assert html.count("no picture: no known picture format") == 2


def test_a_damaged_store_gets_a_report_of_its_damage(tmp_path: Path) -> None:
    store = make_people_store(tmp_path / "s.zarr")
    file = store.path / "instances" / "keypoints2d" / "c" / "0" / "0" / "0"
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    html = report.write_report(open_store(store.path), tmp_path / "r.html").read_text()
    assert "Not sound: checksums" in html
    assert "instances/keypoints2d/c/0/0/0" in html
    assert outline(html).images == []


def test_a_store_of_boxes_only_gets_a_report(tmp_path: Path) -> None:
    def edit(columns: dict[str, dict[str, Any]]) -> None:
        keep = {"id", "image", "bbox_xywh"}
        columns["instances"] = {k: v for k, v in columns["instances"].items() if k in keep}
        columns["images"] = {k: columns["images"][k] for k in ("id", "path", "width", "height")}

    store = make_people_store(tmp_path / "boxes.zarr", edit, people=4)
    html = report.write_report(store, tmp_path / "r.html").read_text()
    assert "Sound. 9 of 17 checks passed, 8 do not apply." in html


def test_what_a_release_says_cannot_become_markup(tmp_path: Path) -> None:
    def edit(columns: dict[str, dict[str, Any]]) -> None:
        columns["images"]["path"] = [f"<script>{i}</script>.jpg" for i in range(2)]

    store = make_people_store(tmp_path / "s.zarr", edit, people=4)
    html = report.write_report(store, tmp_path / "r.html").read_text()
    assert "script" not in outline(html).tags
    assert "&lt;script&gt;0" in html


def test_a_page_escapes_text_and_keeps_markup() -> None:
    html = page("A & B", [Section("<s>", ["1 < 2", table([["<b>", Markup("<i>x</i>")]], ["h"])])])
    assert "<title>A &amp; B</title>" in html
    assert "<p>1 &lt; 2</p>" in html
    assert "<td>&lt;b&gt;</td><td><i>x</i></td>" in html
    outline(html)


def test_banner_and_figure_are_plain_html() -> None:
    assert banner("Fine & well", "passed") == '<p class="banner passed">Fine &amp; well</p>'
    assert 'alt="a &#34;b&#34;"' in figure(b"\xff\xd8", 'a "b"')

"""Protocols are plain data with a name, a version and words for people."""

from __future__ import annotations

import dataclasses
import json

import pytest

from humandata.errors import HumandataError
from humandata.training import protocols
from humandata.training.protocols import BENCHMARKS, GENERIC, PROTOCOLS, default_for, named


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_survives_json_and_says_its_name_and_version(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.name == name
    stored = json.loads(json.dumps(protocol.as_dict()))
    assert stored["name"] == name
    assert stored["version"] >= 1
    assert stored["joints"] == list(protocol.joints)
    words = dict(protocol.in_words())
    assert f"{name} (version {protocol.version})" in words["protocol"]


def test_pw3d_test_is_the_published_protocol() -> None:
    protocol = named("pw3d-test")
    assert (protocol.dataset, protocol.split, protocol.expected_rows) == ("pw3d", "test", 35_515)
    assert protocol.joints == (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)
    assert protocol.root == 0
    assert protocol.root not in protocol.joints
    # 'm' is male, everything else female.
    assert protocol.ground_truth_body == ("female", "female", "male", "female")
    assert protocol.prediction_body == "neutral"
    assert protocol.box_factor == 1.2
    assert (protocol.pve_body, protocol.pve_root) == ("prediction", "pelvis")


def test_the_mmhuman3d_variant_differs_in_pve_only() -> None:
    ours, theirs = named("pw3d-test").as_dict(), named("pw3d-test-mmhuman3d").as_dict()
    changed = {key for key in ours if ours[key] != theirs[key]}
    assert changed == {"name", "title", "pve_body", "pve_root"}
    assert (theirs["pve_body"], theirs["pve_root"]) == ("ground truth", "none")


def test_words_follow_the_data() -> None:
    words = dict(dataclasses.replace(named("pw3d-test"), stride=30).in_words())
    assert "every 30th row" in words["rows"]
    assert "all who are not male as female" in words["ground truth"]
    assert "the store's gender (unknown as neutral)" in dict(GENERIC.in_words())["ground truth"]
    assert "no root" in dict(named("pw3d-test-mmhuman3d").in_words())["PVE"]


def test_a_store_gets_the_protocol_made_for_it_or_the_generic_one() -> None:
    assert default_for("pw3d", "test").name == "pw3d-test"
    assert default_for("pw3d", "train") is GENERIC
    assert default_for("mine", "") is GENERIC


def test_an_unknown_protocol_is_answered_with_the_known_ones() -> None:
    with pytest.raises(HumandataError, match=r"no protocol 'pw3d'; there are pw3d-test, "):
        named("pw3d")


def test_every_benchmark_names_a_protocol_of_a_dataset() -> None:
    for benchmark in BENCHMARKS.values():
        assert protocols.named(benchmark.protocol).dataset
        assert benchmark.store in benchmark.made_by


def test_human36m_and_eft_are_what_the_field_reports_on() -> None:
    h36m = named("h36m-p2")
    assert (h36m.dataset, h36m.split, h36m.ground_truth) == ("h36m", "test_p2", "keypoints3d")
    assert h36m.joints == named("pw3d-test").joints
    assert "no mesh" in dict(h36m.in_words())["PVE"]
    rows = {"eft-coco-val": 10_510, "eft-lspet-test": 2_433, "eft-ochuman-test": 1_783}
    for name, count in rows.items():
        ours, other = named(name), named(f"{name}-24")
        assert ours.expected_rows == count
        assert set(ours.ground_truth_body) == {"neutral"}
        # The other way of mmhuman3d's evaluation: the mean of the hips, 14 of 24 joints.
        changed = {k for k, v in ours.as_dict().items() if v != other.as_dict()[k]}
        assert changed == {"name", "title", "regressor", "joints", "root"}
        assert (other.joints, other.root) == ((*range(13), 18), (2, 3))
        assert "middle of joints 2 and 3 of the 24" in dict(other.in_words())["root"]
        # Both ways take the same joints of a person.
        assert [n.removesuffix("_extra") for n in other.joint_names[:12]] == [
            n.removesuffix("_extra") for n in ours.joint_names[:12]
        ]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_how_its_store_is_made(name: str) -> None:
    benchmark = BENCHMARKS[name]
    protocol = named(benchmark.protocol)
    command = f"humandata convert {protocol.dataset} RAW {benchmark.store} --split {protocol.split}"
    assert benchmark.made_by == command
    assert default_for(protocol.dataset, protocol.split) is protocol

"""The comparison with smplx finds agreement where there is, and a difference where there is one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from humandata import bodymodel, pickle2
from humandata.bodymodel import body_model
from humandata.errors import DataError, MissingExtra
from humandata.training import body_check
from humandata.training.body_check import compare


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file as released: Python 2, chumpy, a sparse regressor, and pose correctives."""
    pytest.importorskip("smplx")
    correctives = np.random.default_rng(1).normal(0, 0.002, (6890, 3, 207))
    model = replace(body_model("female"), name="smpl", posedirs=correctives)
    bodymodel.write_pkl(model, tmp_path / "basicModel_f_lbs_10_207_0_v1.0.0.pkl", chumpy=True)
    return tmp_path / "basicModel_f_lbs_10_207_0_v1.0.0.pkl"


def test_an_official_pickle_agrees_although_smplx_cannot_open_it_without_chumpy(
    path: Path,
) -> None:
    found = compare(path, bodies=4)
    assert found.agrees
    assert found.title == "SMPL (female)"
    assert 0 < max(found.vertices, found.joints) <= 1e-6
    assert max(found.vertices_double, found.joints_double) <= 1e-12
    assert "agree" in str(found)
    assert found.as_dict()["vertices"] == found.vertices


def test_a_difference_is_found_and_its_size_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taller(file: Path, gender: str) -> bodymodel.BodyModel:
        model = bodymodel.load(file, gender)
        grown = model.v_template.copy()
        grown[100, 1] += 0.01  # metres
        return replace(model, v_template=grown, J_regressor=model.J_regressor)

    monkeypatch.setattr(body_check, "load", taller)
    found = compare(path, bodies=2)
    assert not found.agrees
    assert found.vertices_double == pytest.approx(0.01, rel=0.05)
    assert "DIFFER" in str(found)


def test_files_that_are_no_bodies_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("smplx")
    with pytest.raises(DataError, match="no such file"):
        compare(tmp_path / "SMPL_MALE.pkl")
    mano = {"kintree_table": np.zeros((2, 16), np.uint32)}
    (tmp_path / "MANO_LEFT.pkl").write_bytes(pickle2.dumps(mano))
    with pytest.raises(DataError, match=r"24 joints \(SMPL\).*found 16.*MANO"):
        compare(tmp_path / "MANO_LEFT.pkl")


def test_without_smplx_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smplx", None)
    with pytest.raises(MissingExtra, match=r"humandata\[smplx\]"):
        compare(path)


@pytest.mark.parametrize(
    ("name", "gender"),
    [
        ("SMPLX_FEMALE.npz", "female"),
        ("smplh/male/model.npz", "male"),
        ("basicmodel_m_lbs_10_207_0_v1.1.0.pkl", "male"),
        ("SMPL_NEUTRAL.pkl", "neutral"),
    ],
)
def test_the_gender_is_read_from_the_name(name: str, gender: str) -> None:
    assert body_check._gender(Path(name)) == gender

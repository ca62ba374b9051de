"""The restricted pickle reader: what it reads, byte for byte as the writers wrote it."""

from __future__ import annotations

import collections
import io
import pickle
import runpy
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import py2pickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

from humandata import unpickle
from humandata.errors import DataError, HumandataError
from humandata.unpickle import Frame, SparseMatrix, UnsafePickle

PICKLES = Path(__file__).parent / "pickles"
PROTOCOLS = st.integers(0, 5)


def written(name: str) -> list[Path]:
    files = sorted(PICKLES.glob(name))
    assert files, name
    return files


def same(found: Any, expected: Any) -> bool:
    """Equality that looks into arrays and tells types apart."""
    if isinstance(expected, np.ndarray):
        if expected.dtype == object:
            return found.shape == expected.shape and all(
                same(a, b) for a, b in zip(found.flat, expected.flat, strict=True)
            )
        kinds = found.dtype.kind == expected.dtype.kind and found.shape == expected.shape
        return kinds and bool((found == expected).all())
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in found)
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and (
            len(found) == len(expected)
            and all(same(a, b) for a, b in zip(found, expected, strict=True))
        )
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("file", written("py3*_plain_*.pkl"), ids=lambda file: file.stem)
def test_reads_arrays_and_containers_of_python_3_and_every_numpy(file: Path) -> None:
    expected = runpy.run_path(str(PICKLES / "write.py"))["plain"]()
    assert same(unpickle.load(file), expected)


@pytest.mark.parametrize("file", written("py27_plain_*.pkl"), ids=lambda file: file.stem)
def test_reads_arrays_and_containers_of_real_python_2(file: Path) -> None:
    expected = runpy.run_path(str(PICKLES / "write.py"))["plain"]()
    found = unpickle.load(file)
    # In Python 2 the literals without u"" were 8-bit: numpy.array made them bytes.
    assert found.pop("zero_d") == np.array(b"name")
    del expected["zero_d"]
    assert same(found, expected)


@pytest.mark.parametrize("file", written("py27_body_*.pkl"), ids=lambda file: file.stem)
def test_reads_chumpy_and_scipy_of_real_python_2_as_arrays(file: Path) -> None:
    body = unpickle.load(file)
    points = np.arange(12.0).reshape(4, 3)
    matrix = np.array([[0, 0.5, 0, 0.5], [1.0, 0, 0, 0], [0, 0, 0.25, 0.75]])
    assert_array_equal(body["v_template"], points)
    assert_array_equal(body["shapedirs"], np.arange(24.0).reshape(4, 3, 2)[:, :, :1])
    assert_array_equal(body["reshaped"], points.reshape(2, 6))
    assert_array_equal(body["transposed"], points.T)
    for key, layout in (("J_regressor", "csc"), ("rows", "csr"), ("triplets", "coo")):
        assert isinstance(body[key], SparseMatrix)
        assert body[key].layout == layout
        assert_array_equal(body[key].toarray(), matrix)
    assert body["kintree_table"][0, 0] == 4294967295
    assert body["bs_style"] == "lbs"


@pytest.mark.parametrize("file", written("*_pandas*.pkl"), ids=lambda file: file.stem)
def test_reads_frames_of_every_pandas_without_pandas(file: Path) -> None:
    frame = unpickle.load(file)
    assert isinstance(frame, Frame)
    assert len(frame) == 2
    assert_array_equal(frame.index, [0, 1])
    columns = frame.columns
    assert list(columns) == [
        "imgPath", "camX", "camY", "count", "night", "X", "gender", "gt_joints_2d",
    ]  # fmt: skip
    assert columns["imgPath"] == ["ag_a_00.png", "ag_b_01.png"]
    assert_array_equal(columns["camX"], [1.5, -2.5])
    assert_array_equal(columns["camY"], [0.25, 4.0])
    assert_array_equal(columns["count"], [2, 1])
    assert_array_equal(columns["night"], [True, False])
    assert columns["X"] == [[1.0, 2.0], [3.0]]
    assert columns["gender"] == [["male", "female"], ["male"]]
    joints = columns["gt_joints_2d"]
    assert [len(people) for people in joints] == [2, 1]
    assert_array_equal(joints[1][0], np.full((2, 2), 7.0))


def test_python_2_text_is_bytes_when_asked_for() -> None:
    data = py2pickle.dumps({"sequence": "downtown", "trans": [np.arange(3.0)]})
    with pytest.raises(UnicodeDecodeError):
        pickle.loads(data)  # the array's bytes are no ASCII: so a real 3DPW file answers too
    found = unpickle.loads(data, encoding="bytes")
    assert found[b"sequence"] == b"downtown"
    assert_array_equal(found[b"trans"][0], [0.0, 1.0, 2.0])


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("encoding", ["latin1", "bytes"])
def test_reads_the_fixture_writers_smpl_objects(protocol: int, encoding: str) -> None:
    dense = np.array([[0, 2.0], [1.0, 0], [0, 3.0]])
    source = np.arange(8.0).reshape(4, 2)
    value = [py2pickle.Csc(dense), py2pickle.Ch(source), py2pickle.Select(source, [7, 0], (2, 1))]
    data = py2pickle.dumps(value, protocol)
    csc, ch, select = unpickle.loads(data, encoding=encoding)
    assert_array_equal(csc.toarray(), dense)
    assert_array_equal(ch, source)
    assert_array_equal(select, [[7.0], [0.0]])


def test_the_old_mixture_of_scikit_learn_is_its_attributes() -> None:
    gmm = py2pickle.Instance(
        "sklearn.mixture.gmm", "GMM", {"means_": np.ones((8, 69)), "covariance_type": "full"}
    )
    found = unpickle.loads(py2pickle.dumps(gmm, 0))
    assert found["covariance_type"] == "full"
    assert found["means_"].shape == (8, 69)


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("layout", ["csc", "csr", "coo"])
@given(
    dense=hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
                     elements=st.sampled_from([0.0, 1.5, -2.0])),
    protocol=PROTOCOLS,
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_sparse_matrices_of_scipy_keep_their_values(
    layout: str, kind: str, dense: Any, protocol: int
) -> None:
    import scipy.sparse

    matrix = getattr(scipy.sparse, f"{layout}_{kind}")(dense)
    found = unpickle.loads(pickle.dumps(matrix, protocol))
    assert found.shape == dense.shape
    assert_array_equal(found.toarray(), dense)


def test_a_sparse_matrix_that_would_fill_the_memory_is_not_made_dense() -> None:
    small = np.zeros(1, np.int64)
    vast = SparseMatrix(np.ones(1), small, small, (2**40, 2**40), "coo")
    with pytest.raises(HumandataError, match="too large"):
        vast.toarray()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_frames_of_the_installed_pandas_keep_their_columns(protocol: int) -> None:
    pandas = pytest.importorskip("pandas")
    columns = {
        "path": ["a", "b", "c"],
        "flag": [True, False, True],
        "number": [1.5, 2.5, 3.5],
        "lists": [[1], [], [2, 3]],
        "single": np.arange(3, dtype=np.float32),
    }
    frame = pandas.DataFrame(columns, index=[10, 20, 30])[["lists", "number", "path", "single"]]
    found = unpickle.loads(pickle.dumps(frame, protocol))
    assert list(found.columns) == ["lists", "number", "path", "single"]
    assert_array_equal(found.index, [10, 20, 30])
    for name in found.columns:
        assert list(found.columns[name]) == list(columns[name])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_torch_tensors_in_a_plain_pickle_are_arrays(protocol: int) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(2, 3, 4)
    value = {
        "body_pose": torch.nn.Parameter(base[:, 1:].transpose(0, 2)),
        "long": torch.tensor([[1, -2]]),
        "half": torch.ones(3, dtype=torch.float16),
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "expanded": torch.ones(1).expand(4),
        "none": torch.zeros(0, 3),
    }
    found = unpickle.loads(pickle.dumps(value, protocol))
    for name, tensor in value.items():
        expected = tensor.detach().numpy()
        assert found[name].dtype == expected.dtype
        assert_array_equal(found[name], expected)


def test_tensors_that_lay_on_a_gpu_are_read_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    # What torch writes for a CUDA tensor differs in this word only.
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    data = pickle.dumps({"betas": torch.nn.Parameter(torch.arange(10.0)[None])})
    monkeypatch.undo()
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            pickle.loads(data)
    assert_array_equal(unpickle.loads(data)["betas"], np.arange(10.0)[None])


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False)
    | st.text(max_size=8) | st.binary(max_size=8)
)  # fmt: skip
KEYS = st.text(max_size=8) | st.integers(-(2**62), 2**62)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict)
    ),
    max_leaves=12,
)


@given(value=VALUES, protocol=PROTOCOLS)
@settings(max_examples=150, deadline=None)
def test_builtin_values_come_back_equal(value: Any, protocol: int) -> None:
    assert unpickle.loads(pickle.dumps(value, protocol)) == value


@given(
    array=hnp.arrays(
        hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="?") | hnp.floating_dtypes()
        | hnp.complex_number_dtypes() | hnp.byte_string_dtypes(max_len=5)
        | hnp.unicode_string_dtypes(max_len=5, endianness="?"),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    protocol=PROTOCOLS,
    order=st.permutations(range(4)),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_arrays_come_back_equal_writable_and_in_native_byte_order(
    array: Any, protocol: int, order: list[int]
) -> None:
    # Any layout in memory: rows first, columns first, or axes in between.
    array = array.transpose([axis for axis in order if axis < array.ndim])
    found = unpickle.loads(pickle.dumps(array, protocol))
    assert found.shape == array.shape
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.tobytes() == array.astype(found.dtype).tobytes()
    assert found.flags.writeable


@pytest.mark.parametrize("protocol", range(6))
def test_object_arrays_keep_their_order_whatever_their_layout(protocol: int) -> None:
    array = np.array([[{"a": 1}, None, "x"], [[1, 2], (3,), 4.5]], dtype=object)
    for layout in (array, np.asfortranarray(array), array.T):
        assert same(unpickle.loads(pickle.dumps(layout, protocol)), layout)


def test_one_array_named_twice_is_one_array() -> None:
    array = np.arange(3)
    first, second = unpickle.loads(pickle.dumps([array, array]))
    assert first is second


def test_reads_from_an_open_file(tmp_path: Path) -> None:
    assert unpickle.load(io.BytesIO(pickle.dumps([1, 2]))) == [1, 2]


@pytest.mark.parametrize("protocol", range(6))
def test_every_truncation_is_a_data_error_that_names_the_file(
    tmp_path: Path, protocol: int
) -> None:
    whole = pickle.dumps({"poses": [np.arange(6.0)], "genders": ["m", "f"]}, protocol)
    file = tmp_path / "downtown_cafe_00.pkl"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"downtown_cafe_00\.pkl"):
            unpickle.load(file)


def test_a_file_that_is_no_pickle_or_not_there_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "page.pkl").write_text("<html>Please log in</html>")
    for file in (tmp_path / "page.pkl", tmp_path / "absent.pkl", tmp_path):
        with pytest.raises(DataError, match=file.name):
            unpickle.load(file)


# .npy and .npz


def saved(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    values = {
        "image_path": np.array(["a.jpg", "bé.jpg"]),
        "keypoints2d": np.arange(12, dtype=">f4").reshape(2, 2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "length": np.array(2),
        "smpl": {"betas": np.ones((2, 10)), "body_pose": np.zeros((2, 23, 3), np.float32)},
        "image_id": np.array([["x", 1], ["y", 2]], dtype=object),
        "nothing": np.zeros((0, 3)),
        "word": np.array(""),
    }
    file = tmp_path / "mine_train.npz"
    np.savez_compressed(file, **values)
    return file, values


def test_npz_members_are_those_that_numpy_saved(tmp_path: Path) -> None:
    file, values = saved(tmp_path)
    found = unpickle.load_npz(file)
    assert list(found) == list(values)
    for key, value in values.items():
        assert same(found[key], value), key
    assert "absent" not in found
    with pytest.raises(KeyError):
        found["absent"]


def test_npz_members_are_read_only_when_asked_for(tmp_path: Path) -> None:
    file, _ = saved(tmp_path)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("broken.npy", b"\x93NUMPY\x01\x00 this is no header")
        archive.writestr("vast.npy", header((2**40,)))
    found = unpickle.load_npz(file)
    assert found["keypoints2d"].shape == (2, 2, 3)
    for key in ("broken", "vast"):
        with pytest.raises(DataError, match=f"mine_train.npz, member {key}"):
            found[key]


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def test_a_truncated_or_foreign_npz_is_a_data_error(tmp_path: Path) -> None:
    file, _ = saved(tmp_path)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04 no zip", pickle.dumps({})):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"mine_train\.npz"):
            unpickle.load_npz(file)
    with pytest.raises(DataError, match=r"absent\.npz"):
        unpickle.load_npz(tmp_path / "absent.npz")


def test_damage_inside_a_member_is_a_data_error(tmp_path: Path) -> None:
    file, values = saved(tmp_path)
    whole = bytearray(file.read_bytes())
    for place in range(60, len(whole) // 2, 37):
        damaged = whole.copy()
        damaged[place] ^= 0xFF
        file.write_bytes(damaged)
        try:
            members = unpickle.load_npz(file)
            for key in members:
                if key in values and key != "nothing":
                    assert same(members[key], values[key])
        except DataError as error:
            assert "mine_train.npz" in str(error)  # noqa: PT017 (not every byte raises)


def test_npy_files_of_numbers_and_of_objects(tmp_path: Path) -> None:
    crops = np.empty(2, object)
    crops[:] = [np.zeros((2, 3, 4), np.uint8), np.ones((5, 1, 4), np.uint8)]
    np.save(tmp_path / "occluders.npy", crops, allow_pickle=True)
    np.save(tmp_path / "regressor.npy", np.eye(3))
    assert same(unpickle.load_npy(tmp_path / "occluders.npy"), crops)
    assert_array_equal(unpickle.load_npy(tmp_path / "regressor.npy"), np.eye(3))
    (tmp_path / "cut.npy").write_bytes(header((4,)) + bytes(31))
    with pytest.raises(DataError, match=r"cut\.npy"):
        unpickle.load_npy(tmp_path / "cut.npy")
    with pytest.raises(DataError, match=r"absent\.npy"):
        unpickle.load_npy(tmp_path / "absent.npy")


def test_errors_survive_the_way_home_from_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(UnsafePickle("a.pkl", "os.system")))
    assert isinstance(error, UnsafePickle)
    assert "os.system" in str(error)
    assert "a.pkl" in str(error)

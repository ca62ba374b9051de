"""The restricted pickle reader against files that mean harm: refused by name, never run."""

from __future__ import annotations

import contextlib
import copyreg
import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humandata import unpickle
from humandata.errors import DataError, HumandataError
from humandata.unpickle import UnsafePickle

PICKLES = Path(__file__).parent / "pickles"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(module: str, name: str, *args: str) -> bytes:
    """A pickle that calls a global with strings."""
    return f"c{module}\n{name}\n(".encode() + b"".join(map(text, args)) + b"tR."


def stack_call(module: str, name: str, *args: str) -> bytes:
    """The same in protocol 4: the name is data on the stack."""
    named = b"\x80\x04" + text(module) + text(name) + b"\x93("
    return named + b"".join(map(text, args)) + b"tR."


# Each makes the file `marker` when the standard unpickler loads it.
LIVE: dict[str, Callable[[str], bytes]] = {
    "system": lambda m: call("os", "system", f"touch {m}"),
    "system by its real module": lambda m: call("posix", "system", f"touch {m}"),
    "eval": lambda m: call("builtins", "eval", f"open({m!r}, 'w')"),
    "eval of Python 2": lambda m: call("__builtin__", "eval", f"open({m!r}, 'w')"),
    "exec on the stack": lambda m: stack_call("builtins", "exec", f"open({m!r}, 'w')"),
    "open": lambda m: call("io", "open", m, "w"),
    "Popen": lambda m: b"csubprocess\nPopen\n((" + text("touch") + text(m) + b"ltR.",
    "INST": lambda m: b"(" + text(f"touch {m}") + b"ios\nsystem\n.",
    "OBJ": lambda m: b"(cos\nsystem\n" + text(f"touch {m}") + b"o.",
    "getattr chain": lambda m: (
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(" + text("os") + b"tR"
        + text("system") + b"tR(" + text(f"touch {m}") + b"tR."
    ),
    "dotted name": lambda m: stack_call("shutil", "os.system", f"touch {m}"),
    "method of an allowed class": lambda m: (
        b"\x80\x04" + text("numpy") + text("ndarray.tofile") + b"\x93"
        + array(b"K\x01\x85", dtype("f8"), RAW8)[2:-1] + text(m) + b"\x86R."
    ),
    "partial": lambda m: (
        b"cfunctools\npartial\n(cos\nsystem\n" + text(f"touch {m}") + b"tR)R."
    ),
    "state of an object": lambda m: (
        b"\x80\x02cfunctools\npartial\n(cbuiltins\nprint\ntR(cos\nsystem\n("
        + text(f"touch {m}") + b"t}Ntb)R."
    ),
    "memo": lambda m: b"cos\nsystem\np0\n0g0\n(" + text(f"touch {m}") + b"tR.",
    "as an argument of an allowed call": lambda m: (
        b"ccollections\nOrderedDict\n" + call("os", "system", f"touch {m}")[:-1] + b"0]\x85R."
    ),
    "pickle in a pickle": lambda m: (
        b"cpickle\nloads\nC" + bytes([len(call("os", "system", f"touch {m}"))])
        + call("os", "system", f"touch {m}") + b"\x85R."
    ),
    "pager": lambda m: call("pydoc", "pipepager", "", f"touch {m}"),
    "numpy's own runner of text": lambda m: (
        b"cnumpy.testing\nrundocs\n0cbuiltins\nexec\n(" + text(f"open({m!r}, 'w')") + b"tR."
    ),
    "memory map": lambda m: (
        b"cnumpy\nmemmap\n(" + text(m) + text("u1") + text("w+") + b"K\x00K\x01tR."
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", LIVE.values(), ids=LIVE.keys())
def test_a_pickle_that_runs_code_is_refused_by_name_and_not_run(
    tmp_path: Path, attack: Callable[[str], bytes]
) -> None:
    marker, file = tmp_path / "marker", tmp_path / "SMPL_NEUTRAL.pkl"
    file.write_bytes(attack(str(marker)))
    with pytest.raises(UnsafePickle, match=r"SMPL_NEUTRAL.pkl: the pickle asks for \w+") as caught:
        unpickle.load(file)
    assert "Nothing of it was run" in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("attack", LIVE.values(), ids=LIVE.keys())
def test_the_same_pickle_does_run_in_the_standard_unpickler(
    tmp_path: Path, attack: Callable[[str], bytes]
) -> None:
    marker = tmp_path / "marker"
    with contextlib.suppress(Exception):
        pickle.loads(attack(str(marker)))
    for _ in range(100):  # Popen does not wait
        if marker.exists():
            return
        time.sleep(0.02)
    pytest.fail("this attack proves nothing")


@pytest.mark.parametrize(
    "name",
    [
        "os.popen", "os.execv", "nt.system", "pty.spawn", "subprocess.check_output",
        "builtins.getattr", "builtins.setattr", "builtins.__import__", "builtins.compile",
        "builtins.map", "builtins.type", "__builtin__.file", "__builtin__.execfile",
        "importlib.import_module", "runpy.run_path", "types.FunctionType", "types.CodeType",
        "marshal.loads", "ctypes.CDLL", "operator.methodcaller", "operator.attrgetter",
        "functools.reduce", "itertools.starmap", "copyreg.add_extension", "copyreg.pickle",
        "shutil.rmtree", "webbrowser.open", "socket.create_connection", "pip.main",
        "numpy.load", "numpy.fromfile", "numpy.lib.npyio.load", "numpy.core.memmap",
        "numpy.testing._private.utils.runstring", "numpy.ctypeslib.load_library",
        "numpy.core.multiarray.frombuffer", "numpy.core.multiarray.array",
        "numpy.frombuffer", "numpy.vectorize", "numpy.random._pickle.__randomstate_ctor",
        "scipy.sparse.load_npz", "scipy.sparse.linalg.LinearOperator",
        "pandas.read_pickle", "pandas.eval", "pandas.core.frame.DataFrame.eval",
        "pandas.core.internals.managers.SingleBlockManager", "pandas.io.pickle.read_pickle",
        "torch.load", "torch.serialization.load", "torch.hub.load", "torch.storage.eval",
        "torch._utils._rebuild_sparse_tensor", "torch.nn.modules.linear.Linear",
        "joblib.numpy_pickle.NumpyArrayWrapper", "joblib.load", "dill._dill._create_code",
        "sklearn.mixture.gmm.eval", "chumpy.ch.ChLambda", "chumpy.ch.os",
        "humandata.unpickle.load", "__main__.MyMesh", "psbody.mesh.Mesh", "...", "numpy.", ".os",
    ],
)  # fmt: skip
def test_every_name_that_is_not_on_the_list_is_refused_in_every_way_of_naming(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    for data in (
        call(module, attribute, "x"),
        stack_call(module, attribute, "x"),
        b"(" + f"i{module}\n{attribute}\n.".encode(),
        f"(c{module}\n{attribute}\no.".encode(),
        f"\x80\x02c{module}\n{attribute}\n)\x81.".encode("latin1"),
        f"c{module}\n{attribute}\n.".encode(),
    ):
        with pytest.raises(UnsafePickle) as caught:
            unpickle.loads(data)
        assert caught.value.name == name


def test_extension_codes_are_refused_even_when_registered_and_cached(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    copyreg.add_extension("os", "system", 217)
    try:
        attack = b"\x80\x02\x82\xd9(" + text(f"touch {marker}") + b"tR."
        pickle.loads(attack)
        assert marker.exists()
        marker.unlink()
        for code in (b"\x82\xd9", b"\x83\xd9\x00", b"\x84\xd9\x00\x00\x00"):
            with pytest.raises(UnsafePickle, match="extension 217"):
                unpickle.loads(attack.replace(b"\x82\xd9", code))
        assert not marker.exists()
    finally:
        copyreg.remove_extension("os", "system", 217)


def test_partial_serves_for_pandas_blocks_only() -> None:
    with pytest.raises(UnsafePickle, match=r"functools\.partial of something else"):
        unpickle.loads(b"cfunctools\npartial\n(c_codecs\nencode\ntR.")


@pytest.mark.parametrize("data", [b"Pfile:///etc/passwd\n.", b"X\x01\x00\x00\x00aQ.", b"]Q."])
def test_persistent_objects_are_refused(data: bytes) -> None:
    with pytest.raises(UnsafePickle, match="persistent object"):
        unpickle.loads(data)


def test_a_hostile_object_member_of_an_npz_is_refused_by_file_and_member(tmp_path: Path) -> None:
    marker, file = tmp_path / "marker", tmp_path / "eft_train.npz"
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|O", "fortran_order": False, "shape": ()}
    )
    stream.write(call("os", "system", f"touch {marker}"))
    np.savez(file, bbox_xywh=np.ones((2, 5)))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("meta.npy", stream.getvalue())
    members = unpickle.load_npz(file)
    assert members["bbox_xywh"].shape == (2, 5)
    with pytest.raises(UnsafePickle, match=r"eft_train.npz, member meta: .*os\.system"):
        members["meta"]
    np.load(file, allow_pickle=True)["bbox_xywh"]
    assert not marker.exists()
    with contextlib.suppress(Exception):
        np.load(file, allow_pickle=True)["meta"]
    assert marker.exists()


def test_a_hostile_pickle_inside_a_torch_storage_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    inner = call("os", "system", f"touch {marker}")
    outer = b"\x80\x04ctorch.storage\n_load_from_bytes\nC" + bytes([len(inner)]) + inner + b"\x85R."
    with pytest.raises(UnsafePickle, match=r"os\.system"):
        unpickle.loads(outer, "smpl_gt.pkl")
    assert not marker.exists()


# Objects and states that would mislead a reader which trusts them.

NDARRAY = b"cnumpy\nndarray\n"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(" + NDARRAY + b"K\x00\x85C\x01btR"


PLAIN = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"


def dtype(code: str, state: bytes = PLAIN) -> bytes:
    return b"cnumpy\ndtype\n(" + text(code) + b"K\x00K\x01tR" + state + b"b"


def array(shape: bytes, kind: bytes, raw: bytes) -> bytes:
    return b"\x80\x04" + EMPTY + b"(K\x01" + shape + kind + b"\x89" + raw + b"tb."


RAW8 = b"C\x08" + bytes(8)
OBJECT_FIELD = (
    b"(K\x03X\x01\x00\x00\x00|N" + text("a") + b"\x85}" + text("a") + dtype("O8")
    + b"K\x00\x86sK\x08K\x01K\x00t"
)  # fmt: skip
MISLEADING = {
    "object array of raw bytes": array(b"K\x01\x85", dtype("O8"), RAW8),
    "record with an object in raw bytes": array(b"K\x01\x85", dtype("V8", OBJECT_FIELD), RAW8),
    "raw bytes shorter than the shape": array(b"K\x02\x85", dtype("f8"), RAW8),
    "negative length": array(b"J\xff\xff\xff\xff\x85", dtype("f8"), RAW8),
    "list for numbers": array(b"K\x01\x85", dtype("f8"), b"](K\x01e"),
    "text beyond Unicode": array(b"K\x02\x85", dtype("U1"), b"C\x08" + b"\xff" * 8),
    "field outside its record": array(
        b"K\x01\x85",
        dtype("V8", OBJECT_FIELD.replace(dtype("O8") + b"K\x00", dtype("f8") + b"K\x04")),
        RAW8,
    ),
    "type by a Python name": b"cnumpy\ndtype\n(" + text("object_") + b"tR.",
    "array that was never filled": EMPTY + b".",
    "array that holds itself": b"\x80\x04"
    + EMPTY
    + b"q\x00(K\x01K\x01\x85"
    + dtype("O8")
    + b"\x89](h\x00etb.",
    "class instead of a value": NDARRAY + b".",
    "call of a class that is only a name": NDARRAY + b")R.",
    "call of a number": b"K\x01)R.",
    "state for a dictionary": b"}}" + text("__class__") + b"Nsb.",
    "state for a list": b"]}b.",
    "item of a string": text("a") + text("b") + b"a.",
    "item of a tuple": b")K\x01K\x02s.",
    "list as a key": b"}]K\x01s.",
    "odd number of dictionary items": b"(K\x01K\x02K\x03d.",
    "reconstructor with a base": b"ccopy_reg\n_reconstructor\n(cchumpy.ch\nCh\n"
    b"c__builtin__\nset\nNtR.",
    "reconstructor of a builtin": b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\n"
    b"c__builtin__\nobject\nNtR.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "protocol 9": b"\x80\x09N.",
    "memo that was never written": b"h\x07.",
    "bytes in another encoding": call("_codecs", "encode", "x", "rot13"),
    "matrix with indices outside": b"\x80\x02cscipy.sparse.csc\ncsc_matrix\n)\x81}.",
}


@pytest.mark.parametrize("data", MISLEADING.values(), ids=MISLEADING.keys())
def test_a_misleading_pickle_is_a_data_error(data: bytes) -> None:
    with pytest.raises(DataError, match=r"capture\.pkl"):
        unpickle.loads(data, "capture.pkl")


def test_a_sparse_matrix_with_indices_outside_is_a_data_error() -> None:
    import py2pickle

    for key, value in (
        ("indices", np.array([0, 9], np.int32)),
        ("indices", np.array([0, -1], np.int32)),
        ("indptr", np.array([0, 3, 2], np.int32)),
        ("indptr", np.array([0, 2], np.int32)),
        ("_shape", (2, 2, 2)),
        ("data", np.array([object(), 1])),
    ):
        matrix = py2pickle.Csc(np.eye(2))
        matrix.state[key] = value if key != "data" else np.array(["a", "b"])
        with pytest.raises(DataError):
            unpickle.loads(py2pickle.dumps(matrix))


# Small files that ask for much memory or time.


def repeated(prefix: bytes, one: bytes, times: int, suffix: bytes) -> bytes:
    return prefix + one * times + suffix


def bombs() -> Iterator[tuple[str, bytes]]:
    vast = struct.pack("<Q", 2**40)
    yield "memo far away", b"N" + b"r\xff\xff\xff\xff" + b"."
    yield "bytes longer than the file", b"\x8e" + vast + b"x."
    yield "bytearray longer than the file", b"\x96" + vast + b"x."
    yield "text longer than the file", b"\x8d" + vast + b"x."
    yield "number longer than the file", b"\x8b\xff\xff\xff\x7f."
    yield "number of a million digits", b"I" + b"9" * 10**6 + b"\n."
    yield "frame longer than the file", b"\x80\x04\x95" + vast + b"N."
    yield "vast array", array(b"\x8a\x06" + b"\xff" * 5 + b"\x00\x85", dtype("f8"), RAW8)
    yield (
        "endless array of nothing",
        array(b"\x8a\x06" + b"\xff" * 5 + b"\x00\x85", dtype("V0"), b"C\x00"),
    )
    big = b"B" + struct.pack("<I", 10**6) + bytes(10**6)
    one = EMPTY + b"(K\x01J" + struct.pack("<i", 10**6) + b"\x85h\x01\x89h\x02tb"
    yield (
        "one block of bytes for many arrays",
        repeated(b"\x80\x04" + dtype("u1") + b"q\x01" + big + b"q\x02](", one, 2000, b"e."),
    )
    nested = b")" + b"q\x00h\x00\x86" * 64
    yield "key that hashes for ever", b"}" + nested + b"Ns."
    yield "key that is nested too deep", b"})" + b"\x85" * 10**5 + b"Ns."
    yield (
        "long tuple hashed often",
        repeated(b"}(" + b"N" * 10**5 + b"tq\x000", b"h\x00Ns", 10**4, b"."),
    )
    index = b"cpandas.core.indexes.base\n_new_Index\ncpandas\nRangeIndex\n}(" + (
        text("start") + b"K\x00" + text("stop") + b"\x8a\x06" + b"\xff" * 5 + b"\x00"
        + text("step") + b"K\x01u\x86R"
    )  # fmt: skip
    yield "frame with endless rows", (
        b"\x80\x04cpandas\nDataFrame\n)\x81}" + text("_mgr")
        + b"cpandas.core.internals.managers\nBlockManager\n)]" + index + b"\x86\x86R"
        + b"sb."
    )  # fmt: skip


BOMBS = dict(bombs())


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_a_small_file_cannot_ask_for_much_memory_or_time(data: bytes) -> None:
    tracemalloc.start()
    started = time.process_time()
    try:
        with contextlib.suppress(HumandataError):
            unpickle.loads(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * 2**20 + 20 * len(data)
    assert time.process_time() - started < 3


# Whatever the bytes are, the answer is a value or an error of this package.


@given(data=st.binary(max_size=200))
@settings(max_examples=300, deadline=2000)
def test_random_bytes_give_a_value_or_an_error_of_this_package(data: bytes) -> None:
    with contextlib.suppress(HumandataError):
        unpickle.loads(data)


VALID = [file.read_bytes() for file in sorted(PICKLES.glob("*.pkl"))]


@given(
    whole=st.sampled_from(VALID),
    edits=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 2), st.binary(max_size=3)),
        min_size=1, max_size=6,
    ),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*escape sequence:DeprecationWarning")
@settings(max_examples=600, deadline=2000)
def test_damaged_pickles_give_a_value_or_an_error_of_this_package(
    whole: bytes, edits: list[tuple[float, int, bytes]]
) -> None:
    data = bytearray(whole)
    for place, removed, added in edits:
        start = int(place * len(data))
        data[start : start + removed] = added
    before = os.getcwd()
    with contextlib.suppress(HumandataError):
        unpickle.loads(bytes(data))
    assert os.getcwd() == before


def test_a_value_never_holds_more_than_plain_types() -> None:
    plain = (dict, list, tuple, set, str, bytes, int, float, bool, type(None), np.ndarray)

    def check(value: Any) -> None:
        assert isinstance(value, (*plain, np.generic, unpickle.SparseMatrix, unpickle.Frame))
        children = value.values() if isinstance(value, dict) else value
        if isinstance(value, unpickle.Frame):
            children = value.columns.values()
        if isinstance(value, dict | list | tuple | set | unpickle.Frame):
            for child in children:
                check(child)

    for data in VALID:
        check(unpickle.loads(data))

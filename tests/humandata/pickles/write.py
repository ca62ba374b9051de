# ruff: noqa: UP031, UP036, C405 (this file also runs under Python 2)
"""Writes the pickles of this folder; runs under Python 2.7 and 3.x with whatever is installed.

Each file name says what wrote it. Made with: Python 2.7 (numpy 1.16, scipy 1.2, chumpy 0.70),
3.6 (pandas 0.25), 3.8 (pandas 1.1), 3.9 (pandas 1.3), 3.10 (pandas 2.1) and 3.11 (pandas 3.1):

    python write.py FOLDER
"""

import os
import pickle
import sys

import numpy as np

PYTHON = "py%d%d" % sys.version_info[:2]


def save(folder, name, protocol, value):
    path = os.path.join(folder, "%s_p%d.pkl" % (name, protocol))
    with open(path, "wb") as file:
        pickle.dump(value, file, protocol=protocol)


def plain():
    """Arrays of every sort a release has used, and the containers around them."""
    return {
        "float64": np.arange(6, dtype=np.float64).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big_endian": np.arange(4, dtype=">i4"),
        "bool": np.array([True, False]),
        "uint16": np.array([0, 65535], dtype=np.uint16),
        "text": np.array(["abc", "d\u00e9"]),
        "bytes": np.array([b"abc", b"d"]),
        "scalar": np.float32(1.5),
        "empty": np.zeros((0, 3)),
        "zero_d": np.array("name"),
        "objects": np.array([{"a": 1}, None, [1.5, "x"]], dtype=object),
        "structured": np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "<i4"), ("b", "<f8")]),
        "list": [1, 2.5, None, True, "caf\u00e9", "m", (1, 2, 3, 4), set([1, 2]), 2**70, -5],
    }


def frame():
    """Columns of the kinds an AGORA frame has: text, numbers, flags, and lists per row."""
    import pandas as pd

    columns = {
        "imgPath": ["ag_a_00.png", "ag_b_01.png"],
        "camX": [1.5, -2.5],
        "camY": [0.25, 4.0],
        "count": [2, 1],
        "night": [True, False],
        "X": [[1.0, 2.0], [3.0]],
        "gender": [["male", "female"], ["male"]],
        "gt_joints_2d": [[np.ones((2, 2)), np.zeros((2, 2))], [np.full((2, 2), 7.0)]],
    }
    return pd.DataFrame(columns, columns=list(columns))


def body():
    """The shape of an official SMPL file: chumpy arrays and scipy matrices."""
    import chumpy
    import scipy.sparse

    points = np.arange(12, dtype=np.float64).reshape(4, 3)
    matrix = np.array([[0, 0.5, 0, 0.5], [1.0, 0, 0, 0], [0, 0, 0.25, 0.75]])
    return {
        "v_template": chumpy.array(points),
        "shapedirs": chumpy.array(np.arange(24, dtype=np.float64).reshape(4, 3, 2))[:, :, :1],
        "reshaped": chumpy.array(points).reshape(2, 6),
        "transposed": chumpy.array(points).T,
        "J_regressor": scipy.sparse.csc_matrix(matrix),
        "rows": scipy.sparse.csr_matrix(matrix),
        "triplets": scipy.sparse.coo_matrix(matrix),
        "kintree_table": np.array([[4294967295, 0, 1], [0, 1, 2]], dtype=np.uint32),
        "f": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "bs_style": "lbs",
    }


def main(folder):
    protocols = [0, 1, 2] if sys.version_info[0] == 2 else [2, 4]
    if sys.version_info >= (3, 8):
        protocols.append(5)
    for protocol in protocols:
        save(folder, PYTHON + "_plain", protocol, plain())
    try:
        import pandas
    except ImportError:
        pandas = None
    if pandas is not None:
        name = PYTHON + "_pandas" + "".join(pandas.__version__.split(".")[:2])
        for protocol in protocols:
            save(folder, name, protocol, frame())
    if sys.version_info[0] == 2:
        for protocol in protocols:
            save(folder, PYTHON + "_body", protocol, body())


if __name__ == "__main__":
    main(sys.argv[1])

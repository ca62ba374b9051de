"""Annotations of 3DPW and Human3.6M: our conversion beside that of mmhuman3d, on the same releases.

    git clone https://github.com/open-mmlab/mmhuman3d
    pip install mmcv==1.7.2 cdflib h5py
    python benchmarks/convert_mocap.py --checkouts .

Synthetic releases in the official containers: pickles of 1920x1080 sequences with two actors; CDF
files, metadata.xml and compressed masks of four cameras. mmhuman3d's own converter classes run, in
a process of their own, from raw folder to its `.npz`; ours from raw folder to a store without
pictures. Processor seconds of that call, modules loaded, one thread, the least of several rounds
taken in turns. What is not the same on both sides:

* mmhuman3d decodes every picture of 3DPW, for its height and width alone. That is nearly all that
  one waits for; the second figure leaves it out (an array of that size is given to it at once).
* ours also writes 2D and 3D joints and the translation of 3DPW, a checksum of every input file,
  and residuals of the projection, and flushes to the disk.
* Human3.6M's boxes are made of the masks on both sides (``--option box=mmhuman3d``); the second
  figure is our default, boxes of the joints, for which no mask is read.

Rows, boxes and, for 3DPW, shapes of both are compared before anything is printed. Of mmhuman3d,
`core.cameras.cameras` and `utils.transforms` are left out: they import pytorch3d, and no converter
calls them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "releases"))
SIZE = (1920, 1080)
MASKS = 40  # different ones in a file, shown again and again


def write_3dpw(raw: Path, sequences: int, frames: int) -> None:
    """Two actors, all of whose frames have detections; the pictures are links to one JPEG."""
    from pw3d_release import write_pw3d

    def detect(data: dict[str, Any]) -> None:
        poses2d = data["poses2d"]
        poses2d[-1][2] = poses2d[-1][3]  # mmhuman3d stops where nothing is detected
        for actor in poses2d:
            actor[:, :, 17] = 0  # and its boxes hold outliers too

    rng = np.random.default_rng(0)
    grain = cv2.resize(rng.integers(60, 200, (135, 240, 3), np.uint8), SIZE)
    picture = raw / "picture.jpg"
    raw.mkdir(parents=True)
    cv2.imwrite(str(picture), grain)
    for number in range(sequences):
        name = f"walk_{number:02d}"
        write_pw3d(raw, "train", name, frames, 2, number, True, False, change=detect)
        folder = raw / "imageFiles" / name
        folder.mkdir(parents=True)
        for frame in range(frames):
            os.link(picture, folder / f"image_{frame:05d}.jpg")


def write_h36m(raw: Path, takes: int, frames: int) -> None:
    """Two subjects; masks as MATLAB writes them, compressed."""
    import h5py
    from h36m_release import ACTIONS
    from h36m_release import write_h36m as write

    listed = [(action, 1, ACTIONS[action - 1]) for action in range(2, 2 + takes)]
    write(raw, {"S1": listed, "S5": listed}, frames=frames)
    masks = []
    for number in range(MASKS):
        mask = np.zeros((1002, 1000), np.uint8)
        cv2.ellipse(mask, (500 + number, 500), (90, 250), number, 0, 360, 1, -1)
        masks.append(mask)
    for file in sorted(raw.glob("S*/MyPoseFeatures/D2_Positions/*.cdf")):
        target = file.parents[2] / "MySegmentsMat" / "ground_truth_bs" / f"{file.stem}.mat"
        target.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(target, "w", userblock_size=512) as content:
            group = content.create_group("#refs#")
            stored = [
                group.create_dataset(f"m{number}", data=mask.T, compression=3)
                for number, mask in enumerate(masks)
            ]
            pointers = content.create_dataset("Masks", (frames, 1), dtype=h5py.ref_dtype)
            pointers[:, 0] = [stored[frame % MASKS].ref for frame in range(frames)]
        with open(target, "r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def load_peer(root: Path) -> dict[str, Any]:
    """The two converter modules of mmhuman3d, without what its packages import besides."""
    names = ("", ".core", ".core.cameras", ".core.conventions", ".core.conventions.cameras")
    for name in (*names, ".data", ".data.data_structures", ".data.data_converters", ".utils"):
        package = types.ModuleType(f"mmhuman3d{name}")
        package.__path__ = [str(root / "mmhuman3d" / Path(*name.strip(".").split(".")))]
        sys.modules[package.__name__] = package
    for name, members in (
        ("core.cameras.cameras", ("PerspectiveCameras",)),
        ("utils.transforms", ("ee_to_rotmat", "rotmat_to_ee")),
    ):
        module = types.ModuleType(f"mmhuman3d.{name}")
        for member in members:
            setattr(module, member, None)
        sys.modules[module.__name__] = module
    import importlib

    modules = {
        name: importlib.import_module(f"mmhuman3d.data.data_converters.{name}")
        for name in ("pw3d", "h36m")
    }
    # NumPy makes no scalars of arrays of length one any more; this concerns 44 cameras.
    camera = modules["h36m"].H36mCamera
    matrix = camera.get_intrinsic_matrix
    camera.get_intrinsic_matrix = staticmethod(lambda f, c: matrix(f.ravel(), c.ravel()))
    modules["h36m"].float = lambda value: np.asarray(value).item()
    return modules


def spent(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def run_peer(root: Path, folder: Path) -> dict[str, float]:
    """Convert both releases by mmhuman3d; leave rows and boxes behind for a comparison."""
    warnings.simplefilter("ignore")
    modules = load_peer(root)
    out = folder / "peer"
    read = cv2.imread
    picture = np.empty((SIZE[1], SIZE[0], 3), np.uint8)
    pw3d = modules["pw3d"].Pw3dConverter(["train"])
    h36m = modules["h36m"].H36mConverter(["train"])
    found = {"3DPW": spent(lambda: pw3d.convert(str(folder / "pw3d"), str(out)))}
    cv2.imread = lambda *_: picture
    found["3DPW, no pictures"] = spent(lambda: pw3d.convert(str(folder / "pw3d"), str(out)))
    cv2.imread = read
    found["H36M"] = spent(lambda: h36m.convert(str(folder / "h36m"), str(out)))
    for name in ("pw3d", "h36m"):
        made = np.load(out / f"{name}_train.npz", allow_pickle=True)
        betas = made["smpl"].item()["betas"] if name == "pw3d" else np.zeros(0)
        np.savez(folder / f"{name}.npz", path=made["image_path"], box=made["bbox_xywh"], b=betas)
    return found


def run_ours(folder: Path) -> dict[str, float]:
    """The same by humandata, and Human3.6M with boxes of the joints besides."""
    from humandata.converters.converter import convert

    def work(name: str, **options: str) -> Callable[[], object]:
        out = folder / f"{name}.zarr"
        settings = {"split": "train", "pictures": "none", "workers": 1, "overwrite": True}
        return lambda: convert(name, folder / name, out, options=options, **settings)

    works = {
        "3DPW": work("pw3d"),
        "H36M, boxes of joints": work("h36m"),
        "H36M": work("h36m", box="mmhuman3d"),
    }
    best: dict[str, float] = {}
    for turn in range(4):
        for name, convert_it in works.items():
            seconds = spent(convert_it)
            if turn:  # the first round loads modules
                best[name] = min(best.get(name, seconds), seconds)
    return best


def compare(folder: Path) -> dict[str, int]:
    """Rows of both, after making sure that they say the same."""
    import humandata

    rows = {}
    for name in ("pw3d", "h36m"):
        theirs, ours = np.load(folder / f"{name}.npz"), humandata.open(folder / f"{name}.zarr")
        paths = np.array(ours.images["path"][:])[ours.instances["image"][:]]
        box = np.asarray(ours.instances["bbox_xywh"])
        mine = np.lexsort((box[:, 0].round(1), paths))
        other = np.lexsort((theirs["box"][:, 0].round(1), theirs["path"]))
        assert (paths[mine] == theirs["path"][other]).all()
        np.testing.assert_allclose(box[mine], theirs["box"][other], atol=0.01)
        if len(theirs["b"]):
            betas = np.asarray(ours.instances["smpl/betas"])
            np.testing.assert_allclose(betas[mine], theirs["b"][other], atol=1e-5)
        rows[name] = len(box)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkouts", type=Path, default=Path(), help="folder of the checkout")
    parser.add_argument("--sequences", type=int, default=12, help="of 3DPW")
    parser.add_argument("--frames", type=int, default=300, help="of each of these")
    parser.add_argument("--takes", type=int, default=3, help="of two subjects of Human3.6M")
    parser.add_argument("--poses", type=int, default=1500, help="of each of these")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.one:
        root, folder = options.one
        found = run_ours(folder) if root == Path("ours") else run_peer(root, folder)
        print(json.dumps(found))
        return
    root = (options.checkouts / "mmhuman3d").resolve()
    if not (root / "mmhuman3d").is_dir():
        raise SystemExit(f"there is no checkout of mmhuman3d in {options.checkouts.resolve()}")
    best: dict[str, dict[str, float]] = {"ours": {}, str(root): {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_3dpw(folder / "pw3d", options.sequences, options.frames)
        write_h36m(folder / "h36m", options.takes, options.poses)
        for _ in range(options.rounds):
            for who, least in best.items():
                command = [sys.executable, __file__, "--one", who, str(folder)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{who} failed:\n{done.stderr[-3000:]}")
                for name, seconds in json.loads(done.stdout.splitlines()[-1]).items():
                    least[name] = min(least.get(name, seconds), seconds)
        rows = compare(folder)
    ours, theirs = best["ours"], best[str(root)]
    print(f"3DPW: {rows['pw3d']:,} persons of {options.sequences} sequences")
    print(f"  humandata                          {ours['3DPW']:8.2f} s")
    for name, words in (("3DPW", "mmhuman3d"), ("3DPW, no pictures", "mmhuman3d, pictures unread")):
        times = f"{theirs[name] / ours['3DPW']:6.1f} x"
        print(f"  {words:34} {theirs[name]:8.2f} s {times}  (bar: 40, pictures read)")
    print(f"Human3.6M: {rows['h36m']:,} rows of {8 * options.takes} recordings")
    print(f"  mmhuman3d                          {theirs['H36M']:8.2f} s")
    for name, words in (
        ("H36M", "humandata, boxes of the masks too"),
        ("H36M, boxes of joints", "humandata, boxes of the joints"),
    ):
        print(f"  {words:34} {ours[name]:8.2f} s {theirs['H36M'] / ours[name]:6.1f} x  (bar: 3)")


if __name__ == "__main__":
    main()

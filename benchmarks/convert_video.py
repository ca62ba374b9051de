"""Human3.6M from videos: the whole conversion against decoding the same videos alone.

    python benchmarks/convert_video.py [--frames N] [--cameras N] [--picture FILE] [--repeats R]

One sequence of synthetic videos, 1000 pixels wide, at the default stride of 5. ``--picture`` is a
photograph that moves through them; without it they show blurred noise. Frames a second are those
of the videos, per core; the decoder alone is OpenCV on one thread, reading every frame.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from convert_coco import child

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "releases"))

DECODER = """
import sys, time, cv2
cv2.setNumThreads(1)
start = time.process_time()
for file in sys.argv[1:]:
    video = cv2.VideoCapture(file, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    while video.read()[0]:
        pass
print(time.process_time() - start)
"""


def background(picture: Path | None) -> np.ndarray:
    """A square of 1100 pixels that is shown through a moving window."""
    if picture is not None:
        return cv2.resize(cv2.imread(str(picture)), (1100, 1100))
    noise = np.random.default_rng(0).integers(0, 255, (275, 275, 3), np.uint8)
    return cv2.GaussianBlur(cv2.resize(noise, (1100, 1100)), (0, 0), 2)


def film(file: Path, frames: int, height: int, scene: np.ndarray) -> None:
    """A pan over the scene, and a disc that crosses it."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 50, (1000, height))
    for frame in range(frames):
        at = int(40 + 39 * np.sin(frame / 15))
        shown = scene[at : at + height, at : at + 1000].copy()
        cv2.circle(shown, (frame * 7 % 1000, 500), 80, (40, 180, 230), -1)
        writer.write(shown)
    writer.release()


def main() -> None:
    from h36m_release import CAMERAS, DIRECTIONS, write_h36m

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cameras = CAMERAS[: options.cameras]
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out.zarr"
        truth = write_h36m(raw, {"S1": DIRECTIONS}, frames=options.frames, cameras=cameras)
        scene = background(options.picture)
        (raw / "S1" / "Videos").mkdir()
        files = [raw / "S1" / "Videos" / f"Directions 1.{camera}.mp4" for camera in cameras]
        for camera, file in zip(cameras, files, strict=True):
            height = truth.recordings["S1", "Directions 1", camera].height
            film(file, options.frames, height, scene)
        convert = [sys.executable, "-m", "humandata.cli.main", "convert", "h36m", str(raw)]
        convert += [str(out), "--workers", "1", "--json", "--overwrite"]
        convert += ["--option", f"cameras={','.join(cameras)}"]
        decoder = [sys.executable, "-c", DECODER, *map(str, files)]
        modes = ("none", "original", "tiled")
        seconds: dict[str, list[float]] = {mode: [] for mode in (*modes, "decoder")}
        for _ in range(options.repeats):  # alternating, so that all meet the same machine
            seconds["decoder"].append(float(child(decoder)[2]))
            for mode in modes:
                spent, _, report = child([*convert, "--pictures", mode])
                seconds[mode].append(spent)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
        persons = json.loads(report)["instances"]
    total = options.frames * len(cameras)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{total:,} frames in {len(cameras)} videos, {persons:,} rows, store of {size:.0f} MB")
    print(f"decoder alone                  {total / median['decoder']:7.0f} frames/s and core")
    print(f"annotations alone, whole process {median['none']:5.2f} s of processor time")
    for mode in ("original", "tiled"):
        # Starting Python and reading annotations is not the videos' part.
        spent = median[mode] - median["none"]
        ratio = median["decoder"] / spent
        speed = f"{total / spent:7.0f} frames/s and core"
        print(f"--pictures {mode:19} {speed}, ratio {ratio:.2f} (bar: 0.8)")


if __name__ == "__main__":
    main()

"""Human3.6M from videos: the whole conversion against decoding the same videos alone.

    python benchmarks/convert_video.py [--frames N] [--cameras N] [--stride N] [--rounds R]
                                       [--video FILE | --picture FILE]

Sequences of synthetic videos, 1000 pixels wide, as MPEG-4 and, where PyAV is installed (``pip
install av``), as H.264; ``--video`` takes a real one in their place, ``--picture`` a photograph
that moves through them. Frames a second are those of the videos, per core: processor time in one
process, everything on one thread, the modules loaded, the best of several rounds taken in turns.

There are two ways to count "the decoder alone", both OpenCV's, of the very frames that the poses
span: to pixels throughout (``read``, what every loop over a video does; the bar of 0.8 is held
against this one), and to pixels only where a frame is kept (``grab``, and ``retrieve`` at the
stride, which is what we do). The last also encodes these as JPEG and does nothing with them: what
anybody has to do who stores pictures. Nothing that encodes comes nearer to the second than this.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "releases"))
QUALITY = 95


def background(picture: Path | None) -> np.ndarray:
    """A square of 1100 pixels that is shown through a moving window.

    Shapes and grain such that a frame takes as many bytes as a JPEG as one of Human3.6M does.
    """
    if picture is not None:
        return cv2.resize(cv2.imread(str(picture)), (1100, 1100))
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:1100, :1100].astype(np.float32) / 1100
    scene = np.stack([110 + 60 * down + 20 * across, 120 + 40 * down, 100 + 30 * across], axis=-1)
    for _ in range(40):
        corner, size = rng.integers(0, 1100, 2), rng.integers(20, 220, 2)
        colour = rng.uniform(30, 220, 3).tolist()
        cv2.rectangle(scene, corner.tolist(), (corner + size).tolist(), colour, -1)
    grain = cv2.GaussianBlur(rng.normal(0, 6, scene.shape).astype(np.float32), (0, 0), 1.2)
    return (cv2.GaussianBlur(scene, (0, 0), 1.2) + grain).clip(0, 255).astype(np.uint8)


def film(file: Path, frames: int, height: int, scene: np.ndarray, codec: str) -> None:
    """A pan over the scene, and a disc that crosses it."""

    def shown(frame: int) -> np.ndarray:
        at = int(40 + 39 * np.sin(frame / 15))
        picture = scene[at : at + height, at : at + 1000].copy()
        return cv2.circle(picture, (frame * 7 % 1000, 500), 80, (40, 180, 230), -1)

    if codec == "MPEG-4":
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 50, (1000, height))
        for frame in range(frames):
            writer.write(shown(frame))
        writer.release()
        return
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=50)
        stream.width, stream.height, stream.pix_fmt = 1000, height, "yuv420p"
        for frame in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown(frame), format="bgr24")))
        container.mux(stream.encode(None))


def decode(files: list[Path], frames: int, stride: int, encode: bool = False) -> int:
    """Decode the first frames, to pixels at the stride; bytes of what was encoded."""
    size, pixels = 0, None
    for file in files:
        video = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        for frame in range(frames):
            if not video.grab():
                raise SystemExit(f"{file} ends after {frame} frames")
            if frame % stride == 0:
                _, pixels = video.retrieve(pixels)
                if encode:
                    settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
                    size += len(cv2.imencode(".jpg", pixels, settings)[1])
    return size


def measure(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least processor seconds of each, in turns, so that all meet the same machine."""
    best = dict.fromkeys(works, float("inf"))
    for turn in range(rounds + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            if turn:  # the first round loads modules and fills caches
                best[name] = min(best[name], time.process_time() - started)
    return best


def compare(raw: Path, files: list[Path], options: argparse.Namespace, cameras: str) -> None:
    from humandata.converters.converter import convert

    out, stride = raw.with_name("out.zarr"), options.stride
    chosen = {"cameras": cameras, "stride": str(stride)}

    def store(pictures: str) -> Callable[[], object]:
        return lambda: convert(
            "h36m", raw, out, pictures=pictures, workers=1, options=chosen, overwrite=True
        )

    last = (options.frames - 1) // stride * stride + 1
    best = measure(
        {
            "every": lambda: decode(files, last, 1),
            "kept": lambda: decode(files, last, stride),
            "floor": lambda: decode(files, last, stride, encode=True),
            "none": store("none"),
            "original": store("original"),
            "tiled": store("tiled"),
        },
        options.rounds,
    )
    total = options.frames * len(files)
    kept = -(-options.frames // stride) * len(files)
    picture = decode(files, last, stride, encode=True) / kept / 1e3
    video = sum(file.stat().st_size for file in files) / total / 1e3
    print(f"  {video:.1f} KB of video a frame, {picture:.0f} KB a JPEG of quality {QUALITY}")
    print(f"  annotations alone             {total / best['none']:8.0f} frames/s and core")
    for name, words in (
        ("every", "decoder alone, every frame"),
        ("kept", f"decoder alone, 1 of {stride}"),
        ("floor", f"  and JPEG of 1 of {stride}"),
    ):
        print(f"  {words:29} {total / best[name]:8.0f} frames/s and core")
    for mode in ("original", "tiled"):
        speed = f"{total / best[mode]:8.0f} frames/s and core; ratio to the three above "
        of = " ".join(f"{best[name] / best[mode]:.2f}" for name in ("every", "kept", "floor"))
        print(f"  --pictures {mode:18} {speed}{of}  (bar: 0.8, the first)")


def main() -> None:
    from h36m_release import CAMERAS, DIRECTIONS, write_h36m

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--stride", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--video", type=Path, help="1000 pixels wide, for all cameras")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    cameras = CAMERAS[: options.cameras]
    codecs = ["MPEG-4", "H.264"] if options.video is None else [options.video.name]
    if "H.264" in codecs and importlib.util.find_spec("av") is None:
        print("H.264 is left out: there is no PyAV (pip install av)")
        codecs.remove("H.264")
    print(f"{options.frames * len(cameras):,} frames, every {options.stride}th is kept")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        truth = write_h36m(raw, {"S1": DIRECTIONS}, frames=options.frames, cameras=cameras)
        scene = background(options.picture)
        (raw / "S1" / "Videos").mkdir()
        files = [raw / "S1" / "Videos" / f"Directions 1.{camera}.mp4" for camera in cameras]
        for codec in codecs:
            for camera, file in zip(cameras, files, strict=True):
                height = truth.recordings["S1", "Directions 1", camera].height
                if options.video is None:
                    film(file, options.frames, height, scene, codec)
                else:
                    shutil.copyfile(options.video, file)
            print(codec)
            compare(raw, files, options, ",".join(cameras))


if __name__ == "__main__":
    main()

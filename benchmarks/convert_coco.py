"""COCO keypoints of 100,000 persons: the whole conversion against `orjson.loads` of the file alone.

    python benchmarks/convert_coco.py [--sample FOLDER] [--persons N] [--repeats R]

``--sample`` names a folder in COCO's layout whose val2017 annotations are tiled; without it the
test suite's small release is tiled, whose records are lighter than real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ORJSON = """
import sys, time, orjson
content = open(sys.argv[1], "rb").read()
start = time.process_time()
orjson.loads(content)
print(time.process_time() - start)
"""


def tile(source: Path, target: Path, persons: int) -> None:
    """Repeat the pictures and persons of one annotation file under new ids."""
    content = json.loads(source.read_text())
    images, annotations = content["images"], content["annotations"]
    content["images"], content["annotations"] = [], []
    for copy in range(-(-persons // len(annotations))):
        content["images"] += [i | {"id": i["id"] + copy * 10**6} for i in images]
        content["annotations"] += [
            a | {"id": a["id"] + copy * 10**7, "image_id": a["image_id"] + copy * 10**6}
            for a in annotations
        ]
    del content["annotations"][persons:]
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(content))


def child(command: list[str]) -> tuple[float, float, str]:
    """Processor seconds, peak memory in MB and output of a command."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=Path)
    parser.add_argument("--persons", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if options.sample is None:
            sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "releases"))
            from coco_release import write_coco

            write_coco(work / "small", "val2017")
            options.sample = work / "small"
        name = "annotations/person_keypoints_val2017.json"
        tile(options.sample / name, work / "raw" / name, options.persons)
        convert = ["convert", "coco", str(work / "raw"), str(work / "out.zarr")]
        ours, theirs, memory = [], [], 0.0
        for _ in range(options.repeats):  # alternating, so that both meet the same machine
            command = [sys.executable, "-m", "humandata.cli.main", *convert]
            command += ["--pictures", "none", "--workers", "1", "--json", "--overwrite"]
            seconds, peak, report = child(command)
            ours.append(seconds)
            memory = max(memory, peak)
            theirs.append(float(child([sys.executable, "-c", ORJSON, str(work / "raw" / name)])[2]))
        size = (work / "raw" / name).stat().st_size / 1e6
        written = json.loads(report)["instances"]
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"{options.persons:,} persons, {size:.0f} MB of JSON, {written:,} written")
    print(f"humandata convert, whole process   {a:6.2f} s of processor time, {memory:.0f} MB")
    print(f"orjson.loads, the call alone       {b:6.2f} s of processor time")
    print(f"ratio                              {a / b:6.2f}   (bar: below 1; memory below 450 MB)")


if __name__ == "__main__":
    main()

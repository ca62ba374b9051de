"""Start-up: `import humandata` and `humandata --help`, against `import numpy` alone.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import numpy (floor)": ["-c", "import numpy"],
    "import humandata": ["-c", "import humandata"],
    "humandata --help": ["-m", "humandata.cli.main", "--help"],
}
BARE = ["-c", "pass"]


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    runs: dict[str, list[float]] = {name: [] for name in ("bare", *COMMANDS)}
    for _ in range(9):
        runs["bare"].append(seconds(BARE))
        for name, arguments in COMMANDS.items():
            runs[name].append(seconds(arguments))
    bare = statistics.median(runs["bare"])
    print(f"{'python itself':24}{bare * 1e3:7.0f} ms")
    floor = statistics.median(runs["import numpy (floor)"]) - bare
    for name in COMMANDS:
        own = statistics.median(runs[name]) - bare
        print(f"{name:24}{own * 1e3:7.0f} ms beyond python    {own / floor:4.1f} x the floor")
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, humandata.cli.main; print('torch' in sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    print(f"torch loaded: {loaded}    (bar: 200 ms, without torch)")


if __name__ == "__main__":
    main()

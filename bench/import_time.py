"""How long do `import fusec` and `fusec --help` take? `python -m bench.import_time`: medians of fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python alone": ["-c", "pass"],
    "import numpy, networkx": ["-c", "import numpy, networkx"],
    "import fusec": ["-c", "import fusec"],
    "import fusec; fusec.Graph": ["-c", "import fusec; fusec.Graph"],
    "fusec --help": ["-m", "fusec", "--help"],
}


def main(runs: int = 9) -> None:
    """Print the median of each, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    for name, samples in times.items():
        print(
            f"{name:28s}{statistics.median(samples) * 1e3:7.0f} ms  ({min(samples) * 1e3:.0f} .. {max(samples) * 1e3:.0f})"
        )


if __name__ == "__main__":
    main()

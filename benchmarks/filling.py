"""Measures how fast the cache is filled from a folder of images, and where the time goes.

    python -m benchmarks.filling FOLDER [OTHER_CHECKOUT]

With another checkout of this repository, both checkouts take turns, each in processes of its own, and the
benchmark prints the ratio of the medians. It also times three stages in one thread: reading a file, decoding,
and scaling.
"""

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 3
SAMPLED_FILES = 500
SIDE = 128

# It runs in either checkout, so it uses only names that both have.
FILL = """
import sys, time, resource
from daad_jax.config import Config
from daad_jax.data import datasets
config = Config()
config.data.source, config.data.protocol, config.data.fit = "folder", "inspection", "resize"
config.data.path, config.data.cache_dir = sys.argv[1:3]
config.data.height = config.data.width = int(sys.argv[3])
start = time.perf_counter()
splits = datasets.load(config)
seconds = time.perf_counter() - start
count = len(splits.train) + len(splits.calibration)
print(count / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def fill(checkout: Path, folder: str) -> tuple[float, float]:
    """Images/s of filling an empty cache, and the largest memory of the process in MB."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-c", FILL, folder, cache, str(SIDE)]
        child = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    rate, memory = child.stdout.split()[-2:]
    return float(rate), float(memory) / 1024


def measure_stages(folder: str) -> dict[str, float]:
    """Images/s of each stage in one thread."""
    from daad_jax.config import DataConfig
    from daad_jax.data.decoding import decode, read_file
    from daad_jax.data.images import prepare
    from daad_jax.data.walk import walk

    files = [file.path for file in walk(Path(folder)) if not file.reason][:SAMPLED_FILES]
    config = DataConfig(height=SIDE, width=SIDE, fit="resize", range="type", bits=8)
    contents = [read_file(file) for file in files]
    pictures = [decode(content) for content in contents]

    def rate(function: Callable[[Any], Any], values: list[Any]) -> float:
        start = time.perf_counter()
        for value in values:
            function(value)
        return len(values) / (time.perf_counter() - start)

    return {
        "read": rate(read_file, files),
        "decode": rate(decode, contents),
        "bring to size": rate(functools.partial(prepare, config=config, name=""), pictures),
    }


def main() -> None:
    folder = str(Path(sys.argv[1]).resolve())
    checkouts = [Path(__file__).parents[1], *map(Path, sys.argv[2:3])]
    rates: dict[Path, list[tuple[float, float]]] = {checkout: [] for checkout in checkouts}
    for _ in range(ROUNDS):
        for checkout, measured in rates.items():
            measured.append(fill(checkout, folder))
    medians = {}
    for checkout, measured in rates.items():
        medians[checkout] = statistics.median(rate for rate, _ in measured)
        memory = statistics.median(memory for _, memory in measured)
        each = ", ".join(f"{rate:.0f}" for rate, _ in measured)
        print(f"{checkout.name}: {medians[checkout]:.0f} images/s ({each}), {memory:.0f} MB")
    if len(checkouts) > 1:
        print(f"ratio {medians[checkouts[0]] / medians[checkouts[1]]:.2f}")
    for stage, value in measure_stages(folder).items():
        print(f"one thread, {stage}: {value:.0f} images/s")


if __name__ == "__main__":
    main()

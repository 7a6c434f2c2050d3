"""A soak prints the growth of the second half, without the growth at the start."""

import os

import numpy as np

from benchmarks import soak


def test_growth_is_that_of_the_second_half():
    rounds = np.arange(10)
    memory = np.where(rounds < 5, 100 * rounds, 500 + 2.0 * (rounds - 5))
    own = [memory, np.full(10, 9), np.full(10, 27)]
    samples = np.stack([*own, *(0 * column + 1 for column in own), 0.5 * rounds], axis=1)
    lines = soak.describe(samples)
    assert lines[:3] == [
        "memory: 508.0 MB at the end, +2.000 MB a round",
        "open files: 9.0 at the end, +0.000 a round",
        "threads: 27.0 at the end, +0.000 a round",
    ]
    assert lines[3] == "memory of the server: 1.0 MB at the end, +0.000 MB a round"
    assert lines[-1] == "disk: 4.5 MB at the end, +0.500 MB a round"


def test_what_is_measured(tmp_path):
    before = dict(zip(soak.MEASURED, soak.measure(tmp_path, os.getpid())))
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    with open(tmp_path / "file"):
        after = dict(zip(soak.MEASURED, soak.measure(tmp_path, os.getpid())))
    assert after["open files"] - before["open files"] == 1
    assert (before["disk"], after["disk"]) == (0, 3)
    assert after["memory"] > 10
    assert after["threads"] >= 1
    assert after["threads of the server"] == after["threads"]

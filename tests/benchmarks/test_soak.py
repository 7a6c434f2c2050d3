"""What a soak prints: the growth of the second half, not that of the start."""

import numpy as np

from benchmarks import soak


def test_growth_is_that_of_the_second_half():
    rounds = np.arange(10)
    memory = np.where(rounds < 5, 100 * rounds, 500 + 2.0 * (rounds - 5))
    samples = np.stack([memory, np.full(10, 9), np.full(10, 27), 0.5 * rounds], axis=1)
    assert soak.describe(samples) == [
        "memory: 508.0 MB at the end, +2.000 MB a round",
        "open files: 9.0 at the end, +0.000 a round",
        "threads: 27.0 at the end, +0.000 a round",
        "disk: 4.5 MB at the end, +0.500 MB a round",
    ]


def test_what_is_measured(tmp_path):
    before = soak.measure(tmp_path)
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    with open(tmp_path / "file"):
        after = soak.measure(tmp_path)
    assert after[1] - before[1] == 1
    assert (before[3], after[3]) == (0, 3)
    assert after[0] > 10
    assert after[2] >= 1

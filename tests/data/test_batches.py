"""Batches are a function of (seed, step) alone, whoever asks."""

import threading

import numpy as np
import pytest

from daad_jax.config import DataConfig
from daad_jax.data.batches import prefetch, train_batches
from daad_jax.data.samples import Split


def numbered(count):
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 4, 4, 1), np.uint8)
    return Split(images, np.zeros(count, np.int8), ["good"] * count, list(map(str, range(count))))


def take(count, batches):
    return [next(batches) for _ in range(count)]


def test_every_epoch_sees_every_image_once():
    batches = take(7, train_batches(numbered(7), DataConfig(), 0, 3))
    stream = np.concatenate(batches)[:, 0, 0, 0]
    for epoch in range(3):
        assert sorted(stream[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert stream[:7].tolist() != stream[7:14].tolist()


def test_resume_continues_the_stream():
    config = DataConfig(flip_horizontal=True, shift=1)
    whole = take(9, train_batches(numbered(7), config, 5, 4))
    rest = take(5, train_batches(numbered(7), config, 5, 4, first_step=4))
    np.testing.assert_array_equal(whole[4:], rest)


def test_processes_share_the_same_batch():
    config = DataConfig(flip_vertical=True, shift=1)
    one = take(4, train_batches(numbered(7), config, 5, 4))
    parts = [take(4, train_batches(numbered(7), config, 5, 4, process=(i, 2))) for i in range(2)]
    np.testing.assert_array_equal(one, np.concatenate(parts, axis=1))


def test_a_batch_larger_than_the_set():
    assert len(next(train_batches(numbered(3), DataConfig(), 0, 10))) == 10


def test_prefetch_keeps_order_raises_and_stops():
    def broken():
        yield 1
        raise ValueError("disk")

    assert list(prefetch(iter(range(20)), lambda x: 2 * x)) == list(range(0, 40, 2))
    with pytest.raises(ValueError, match="disk"):
        list(prefetch(broken(), int))
    before = threading.active_count()
    endless = prefetch(train_batches(numbered(3), DataConfig(), 0, 2), np.asarray)
    next(endless)
    endless.close()
    assert threading.active_count() == before

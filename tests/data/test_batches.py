"""Batches are a function of (seed, step) alone, whoever asks."""

import threading

import numpy as np
import pytest

from daad_jax.config import DataConfig
from daad_jax.data.batches import POSITIONS_PER_BLOCK, augment, prefetch, train_batches
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
    whole = take(4, train_batches(numbered(7), config, 5, 4))
    parts = [take(4, train_batches(numbered(7), config, 5, 4, process=(i, 2))) for i in range(2)]
    np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))


def test_every_flip_and_shift_comes_and_nothing_else():
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    config = DataConfig(flip_horizontal=True, flip_vertical=True, shift=1)
    possible = {
        padded[::rows, ::columns][top : top + 5, left : left + 4].tobytes()
        for rows in (1, -1)
        for columns in (1, -1)
        for top in range(3)
        for left in range(3)
    }
    assert len(possible) == 36
    augmented = augment(np.stack([image] * 600), config, 0, np.arange(600))
    assert {x.tobytes() for x in augmented} == possible
    upright = augment(np.stack([image] * 100), DataConfig(flip_horizontal=True), 0, np.arange(100))
    assert {x.tobytes() for x in upright} == {image.tobytes(), image[:, ::-1].tobytes()}


def test_an_image_is_changed_by_its_position_alone():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    config, positions = DataConfig(flip_horizontal=True, shift=3), POSITIONS_PER_BLOCK + np.arange(-3, 3)
    together = augment(images, config, 1, positions)
    for i in range(len(positions)):
        alone = augment(images[i : i + 1], config, 1, positions[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])
    assert (augment(images, config, 2, positions) != together).any()


def test_a_batch_larger_than_the_set():
    assert len(next(train_batches(numbered(3), DataConfig(), 0, 10))) == 10


def test_prefetch_keeps_order_raises_and_stops():
    def broken():
        yield 1
        raise ValueError("disk")

    assert list(prefetch(iter(range(20)), lambda x: 2 * x)) == list(range(0, 40, 2))
    with pytest.raises(ValueError, match="disk"):
        list(prefetch(broken(), int))
    before = set(threading.enumerate())
    endless = prefetch(train_batches(numbered(3), DataConfig(), 0, 2), np.asarray)
    next(endless)
    endless.close()
    assert set(threading.enumerate()) <= before

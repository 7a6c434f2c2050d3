"""Batches as a pure function of the step number, and a thread that keeps them coming."""

import functools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data.samples import Split

BLOCK = 4096  # places that share a random generator: making one takes longer than an image's share of a step


def train_batches(
    split: Split,
    config: DataConfig,
    seed: int,
    batch_size: int,
    first_step: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Iterator[np.ndarray]:
    """Endless batches: the epochs' seeded permutations one after the other, cut into batches.

    Batch `step` depends on (seed, step) alone, so a resumed run sees what it would have seen. What
    is done to an image depends on its place in that stream, so any number of processes agree.

    Args:
        split: training images.
        config: its augmentation is applied.
        seed: of the run.
        batch_size: over all processes.
        first_step: where to begin.
        process: (index, count); every process gets its own slice of every batch.

    Yields:
        uint8 `[batch_size / count, H, W, C]`.
    """
    count, (index, processes) = len(split), process
    share = batch_size // processes
    epoch, order = -1, np.empty(0, int)
    step = first_step
    while True:
        start = step * batch_size + index * share
        places = np.arange(start, start + share)
        chosen = np.empty(share, int)
        for of in np.unique(places // count):
            if of != epoch:
                epoch, order = of, np.random.default_rng([seed, 3, of]).permutation(count)
            here = places // count == of
            chosen[here] = order[places[here] % count]
        yield augment(np.asarray(split.images[chosen]), config, seed, places)
        step += 1


def grouped(batches: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`count` batches at a time: `[b, ...]` each -> `[count, b, ...]`."""
    while True:
        yield np.stack([next(batches) for _ in range(count)])


def augment(images: np.ndarray, config: DataConfig, seed: int, places: np.ndarray) -> np.ndarray:
    """Random flips and shifts, image i by (seed, places[i]). uint8 `[B, H, W, C]`, same out."""
    reach = config.shift
    if not (config.flip_horizontal or config.flip_vertical or reach):
        return images
    draws = _draws(seed, places)
    flips = np.where(draws[:, :2] < 0.5, -1, 1)  # steps along rows and columns
    flips[:, ~np.array([config.flip_vertical, config.flip_horizontal])] = 1
    starts = np.floor(draws[:, 2:] * (2 * reach + 1)).astype(int)
    padded = (
        np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge") if reach else images
    )
    out = np.empty_like(images)
    height, width = images.shape[1:3]
    for to, image, (rows, columns), (top, left) in zip(out, padded, flips, starts):
        to[:] = image[::rows, ::columns][top : top + height, left : left + width]
    return out


def _draws(seed: int, places: np.ndarray) -> np.ndarray:
    """Four numbers in [0, 1) for every place, each a function of (seed, place): `[B]` -> `[B, 4]`."""
    blocks = places // BLOCK
    out = np.empty((len(places), 4))
    for block in np.unique(blocks):
        out[blocks == block] = _block(seed, block)[places[blocks == block] % BLOCK]
    return out


@functools.lru_cache(2)
def _block(seed: int, block: int) -> np.ndarray:
    """The draws of all places of a block: `[BLOCK, 4]`."""
    return np.random.default_rng([seed, 4, block]).random((BLOCK, 4))


def prefetch(batches: Iterator[Any], put: Callable[[Any], Any], ahead: int = 2) -> Iterator[Any]:
    """`map(put, batches)`, run ahead in a thread. Its exceptions are raised here; closing stops it."""
    waiting: queue.Queue[Any] = queue.Queue(ahead)
    stop = threading.Event()

    def offer(item: Any) -> None:
        while not stop.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                if stop.is_set():
                    return
                offer((put(batch), None))
            offer((None, StopIteration()))
        except BaseException as error:
            offer((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        thread.join()

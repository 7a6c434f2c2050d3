"""Batches as a pure function of the step number, and a thread that keeps them coming."""

import functools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data.samples import Split

BLOCK = 4096  # places that share a random generator: making one takes longer than an image's share of a step


class BatchPlan(NamedTuple):
    """What a batch is to be made of, where the images lie elsewhere; `b` is its length."""

    chosen: np.ndarray  # `[b]`: numbers of training images
    flips: np.ndarray  # `[b, 2]`: steps along rows and columns, 1 or -1
    starts: np.ndarray  # `[b, 2]`: the corner, from that of the image with `shift` pixels of edge around


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
    for chosen, places in _stream(len(split), seed, batch_size, first_step, process):
        yield augment(np.asarray(split.images[chosen]), config, seed, places)


def batch_plans(
    count: int, config: DataConfig, seed: int, batch_size: int, first_step: int = 0
) -> Iterator[BatchPlan]:
    """Of the batches that `train_batches` makes of `count` images, by one process."""
    for chosen, places in _stream(count, seed, batch_size, first_step, (0, 1)):
        yield BatchPlan(chosen, *_moves(config, seed, places))


def _stream(
    count: int, seed: int, batch_size: int, first_step: int, process: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of every batch from `first_step` on, the numbers of its images and their places in the stream."""
    index, processes = process
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
        yield chosen, places
        step += 1


def group_batches(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """`count` batches, or batch plans, at a time: `[b, ...]` each -> `[count, b, ...]`."""
    while True:
        some = [next(batches) for _ in range(count)]
        yield BatchPlan(*map(np.stack, zip(*some))) if isinstance(some[0], BatchPlan) else np.stack(some)


def augment(images: np.ndarray, config: DataConfig, seed: int, places: np.ndarray) -> np.ndarray:
    """Random flips and shifts, image i by (seed, places[i]). uint8 `[B, H, W, C]`, same out."""
    reach = config.shift
    if not config.augments:
        return images
    padded = (
        np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge") if reach else images
    )
    out = np.empty_like(images)
    height, width = images.shape[1:3]
    for to, image, (rows, columns), (top, left) in zip(out, padded, *_moves(config, seed, places)):
        to[:] = image[::rows, ::columns][top : top + height, left : left + width]
    return out


def _moves(config: DataConfig, seed: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`BatchPlan.flips` and `BatchPlan.starts` of the images at these places."""
    draws = _draws(seed, places)
    flips = np.where(draws[:, :2] < 0.5, -1, 1)
    flips[:, ~np.array([config.flip_vertical, config.flip_horizontal])] = 1
    return flips, np.floor(draws[:, 2:] * (2 * config.shift + 1)).astype(int)


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

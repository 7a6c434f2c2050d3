"""Training batches as a pure function of the step number, and a thread that prepares them ahead of time.

The permutations of all epochs, one after the other, form an endless stream of images. The position of an
image in this stream decides its batch and its random flips and shifts.
"""

import functools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data.samples import Split

# Random numbers that belong together come from one generator, seeded with (seed, stream, number).
ORDER_STREAM, AUGMENTATION_STREAM = 3, 4
# This many positions share a generator. Making one takes longer than a step takes for an image.
POSITIONS_PER_BLOCK = 4096


class BatchPlan(NamedTuple):
    """Which images, flips and shifts make up a batch of `b` images.

    The training images can then stay on the device, and only the plan is sent to it.
    """

    chosen: np.ndarray  # `[b]`: indices into the training images
    flips: np.ndarray  # `[b, 2]`: 1 (as it is) or -1 (flipped), along rows and along columns
    # `[b, 2]`: row and column of the crop's corner in the image padded by `config.shift` edge pixels, in
    # [0, 2 * shift]
    starts: np.ndarray


def train_batches(
    split: Split,
    config: DataConfig,
    seed: int,
    batch_size: int,
    first_step: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Iterator[np.ndarray]:
    """Yields augmented batches without end: the epochs' seeded permutations, cut into batches.

    Batch `step` depends on (seed, step) alone, so a resumed run sees the batches that an uninterrupted run
    sees. Augmentation depends on the position in the stream, so any number of processes agree on it.

    Args:
        split: the training images.
        config: the augmentation to apply.
        seed: the seed of the run.
        batch_size: images in a batch, over all processes.
        first_step: the step whose batch comes first.
        process: (index, count); every process gets its own slice of every batch.

    Yields:
        `[batch_size / count, H, W, C]`, of the images' type.
    """
    for indices, positions in _batch_indices(len(split.images), seed, batch_size, first_step, process):
        yield augment(np.asarray(split.images[indices]), config, seed, positions)


def batch_plans(
    count: int, config: DataConfig, seed: int, batch_size: int, first_step: int = 0
) -> Iterator[BatchPlan]:
    """Yields the plans of the batches that `train_batches` makes of `count` images in a single process."""
    for indices, positions in _batch_indices(count, seed, batch_size, first_step, (0, 1)):
        yield BatchPlan(indices, *_draw_flips_and_starts(config, seed, positions))


def group_batches(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """Stacks `count` batches, or batch plans, into one: `[b, ...]` each -> `[count, b, ...]`."""
    while True:
        group = [next(batches) for _ in range(count)]
        if isinstance(group[0], BatchPlan):
            yield BatchPlan(*map(np.stack, zip(*group)))
        else:
            yield np.stack(group)


def augment(images: np.ndarray, config: DataConfig, seed: int, positions: np.ndarray) -> np.ndarray:
    """Flips and shifts images at random; image i by (seed, positions[i]).

    Args:
        images: uint8 or uint16 `[B, H, W, C]`.
        config: has the allowed flips and the largest shift.
        seed: the seed of the run.
        positions: `[B]`, the images' positions in the stream.

    Returns:
        `[B, H, W, C]`, of the same type.
    """
    if not config.augments:
        return images
    shift, padded = config.shift, images
    if shift:
        padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    augmented = np.empty_like(images)
    flips, starts = _draw_flips_and_starts(config, seed, positions)
    for target, image, (rows, columns), (top, left) in zip(augmented, padded, flips, starts):
        target[:] = image[::rows, ::columns][top : top + height, left : left + width]
    return augmented


def prefetch(batches: Iterator[Any], put: Callable[[Any], Any], ahead: int = 2) -> Iterator[Any]:
    """Yields `put(batch)` for every batch; a thread prepares up to `ahead` of them in advance.

    An exception in the thread is raised here. Closing the iterator ends the thread.
    """
    ready: queue.Queue[Any] = queue.Queue(ahead)
    stop = threading.Event()

    def offer(item: Any) -> None:
        # Wait with a timeout, so that the thread notices when nobody takes items any more.
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for batch in batches:
                if stop.is_set():
                    return
                offer((put(batch), None))
            offer((None, StopIteration()))
        except BaseException as error:
            offer((None, error))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        thread.join()


def _batch_indices(
    count: int, seed: int, batch_size: int, first_step: int, process: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields, for every batch from `first_step` on, the indices of its images and their stream positions."""
    process_index, process_count = process
    share = batch_size // process_count
    epoch, order = -1, np.empty(0, int)
    step = first_step
    while True:
        start = step * batch_size + process_index * share
        positions = np.arange(start, start + share)
        indices = np.empty(share, int)
        # A batch can cross the end of one epoch, or of several if there are few images.
        for batch_epoch in np.unique(positions // count):
            if batch_epoch != epoch:
                epoch = batch_epoch
                order = np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(count)
            in_epoch = positions // count == epoch
            indices[in_epoch] = order[positions[in_epoch] % count]
        yield indices, positions
        step += 1


def _draw_flips_and_starts(
    config: DataConfig, seed: int, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws `BatchPlan.flips` and `BatchPlan.starts` for the images at these positions."""
    draws = _draw_uniform(seed, positions)
    flips = np.where(draws[:, :2] < 0.5, -1, 1)
    flips[:, ~np.array([config.flip_vertical, config.flip_horizontal])] = 1
    return flips, np.floor(draws[:, 2:] * (2 * config.shift + 1)).astype(int)


def _draw_uniform(seed: int, positions: np.ndarray) -> np.ndarray:
    """Draws four numbers in [0, 1) for every position; they depend on (seed, position): `[B]` -> `[B, 4]`."""
    blocks = positions // POSITIONS_PER_BLOCK
    draws = np.empty((len(positions), 4))
    for block in np.unique(blocks):
        in_block = blocks == block
        draws[in_block] = _draw_block(seed, block)[positions[in_block] % POSITIONS_PER_BLOCK]
    return draws


@functools.lru_cache(2)
def _draw_block(seed: int, block: int) -> np.ndarray:
    """Draws the numbers of all positions of a block: `[POSITIONS_PER_BLOCK, 4]`."""
    return np.random.default_rng([seed, AUGMENTATION_STREAM, block]).random((POSITIONS_PER_BLOCK, 4))

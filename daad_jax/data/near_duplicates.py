"""Finds held-out images that show nearly the same as a training image, such as two photos of one part.

The search has two stages. First, thumbnails of all images propose pairs. Then, a pair counts if one image
explains the other much better than other similar images do. Thumbnails alone cannot decide: two screws in the
same position have more similar thumbnails than two photos of one bottle that moved by a pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from daad_jax.data.integrity import row_checksums
from daad_jax.data.overviews import overviews
from daad_jax.data.samples import Splits

THUMBNAIL_SIDE = 16
SAMPLED_SIDE = 64  # thumbnails use about this many rows and columns of a large image
BYTES_AT_ONCE = 2**24  # this many bytes of images are in memory
ROWS_AT_ONCE = 256  # this many rows of the matrix of distances are in memory
MAX_CHECKED = 100  # this many held-out images are compared in full, the most suspicious ones first
CANDIDATES = 8  # each of them is compared with this many training images, which have the nearest thumbnails
# A held-out image is also compared with similar images that show another part: those with the nearest
# thumbnails from this rank on. If one part has more photos than this, the search does not find them.
MAX_OTHER_RANK, MIN_OTHER_RANK, OTHERS = 30, 5, 5
SHIFT = 2  # two photos of one part may be shifted by this many pixels
CELL = 3  # differences are averaged over cells with this many pixels a side, against noise
MAX_CELLS = 32  # this many cells a side are compared; they are spread over large images
# The ratio of a pair: the difference that a training image leaves unexplained, divided by the difference that
# other similar images leave. For photos of one part, the ratio was mostly below 0.1. For different parts, it
# was above 0.08 in all sets that we tried, and mostly above 0.2. A single pair must therefore be clear. If
# many held-out images have a pair, a less clear ratio is enough.
CLEAR_RATIO, COMMON_RATIO, COMMON_SHARE = 0.08, 0.11, 0.25
EXAMPLES = 2  # pairs that the warning names


@dataclass(frozen=True)
class NearDuplicates:
    """Held-out images that show nearly the same as a training image.

    Attributes:
        pairs: (held-out index, training index), in the order of the held-out images.
        identical: the pairs with equal pixels.
        checked: the number of held-out images that were compared in full.
    """

    pairs: list[tuple[int, int]]
    identical: list[tuple[int, int]]
    checked: int


def warn(splits: Splits, group: str) -> list[str]:
    """Makes a note about near-duplicates between training and held-out images; [] if there are none.

    Args:
        splits: the images of the run.
        group: `config.data.group`.
    """
    train, held_out = splits.train, splits.calibration
    found = find(overviews(held_out), overviews(train))
    if not found.pairs:
        return []
    examples = "; ".join(f"{held_out.names[i]} and {train.names[j]}" for i, j in found.pairs[:EXAMPLES])
    count = f"{'' if found.checked == len(held_out) else 'at least '}{len(found.pairs)} of {len(held_out)}"
    same = f", {len(found.identical)} of them exactly the same" if found.identical else ""
    remedy = "set config.data.group so that all photos of a part stay together"
    if group:
        remedy = f"choose another config.data.group than {group!r}, which divides them"
    return [
        f"warning: {count} held-out images show nearly the same as an image that trains{same}, for instance "
        f"{examples}. The threshold then comes from parts that the model knows, and it flags more good parts "
        f"than the false-alarm rate says. If they are photos of the same parts, {remedy}; remove copies of "
        "files."
    ]


def find(held_out: Any, train: Any) -> NearDuplicates:
    """Finds near-duplicates between held-out and training images.

    If all images are equal up to noise, none counts as a near-duplicate.

    Args:
        held_out: images `[N, H, W, C]` of any type of numbers, or an object that slices into such arrays.
        train: images `[M, H, W, C]`, in the same form.
    """
    train_keys, thumbnails = _summarise(train)
    held_out_keys, held_out_thumbnails = _summarise(held_out)
    # Subtract the average image: the numbers are then small, and float32 products are exact enough.
    average = thumbnails.mean(axis=0)
    thumbnails, held_out_thumbnails = thumbnails - average, held_out_thumbnails - average
    first = {key: j for j, key in reversed(list(enumerate(train_keys)))}
    identical = [
        (i, first[key])
        for i, key in enumerate(held_out_keys)
        if key in first and np.array_equal(held_out[i], train[first[key]])
    ]
    rank = min(MAX_OTHER_RANK, max(MIN_OTHER_RANK, len(thumbnails) // 10))
    # Few images do not show how much different parts differ, and tiny images cannot be compared.
    if len(thumbnails) < rank + OTHERS or min(train.shape[1:3]) < 2 * SHIFT + CELL:
        return NearDuplicates(identical, identical, len(held_out_keys))

    # Compare the most suspicious images in full.
    nearest = np.concatenate([d.min(axis=1) for d in _distances(held_out_thumbnails, thumbnails)])
    nearest[[i for i, _ in identical]] = np.inf
    suspects = np.argsort(nearest, kind="stable")[: min(MAX_CHECKED, len(nearest) - len(identical))]

    def compare(i: int) -> tuple[float, int]:
        """Returns the ratio of held-out image i, and the training image that explains it best."""
        (distances,) = next(_distances(held_out_thumbnails[[i]], thumbnails))
        order = np.argpartition(distances, rank + OTHERS - 1)[: rank + OTHERS]
        order = order[np.argsort(distances[order], kind="stable")]
        image = _grey(held_out[i])
        unlike = float(np.median([_unexplained(image, _grey(train[j])) for j in order[rank:]]))
        rests = [_unexplained(image, _grey(train[j])) for j in order[:CANDIDATES]]
        best = int(np.argmin(rests))
        return rests[best] / unlike if unlike else np.inf, int(order[best])

    with threadpool_limits(1):  # for such small products, several threads would only wait for each other
        compared = [(i, *compare(i)) for i in suspects.tolist()]
    common = [(i, j) for i, ratio, j in compared if ratio < COMMON_RATIO]
    is_common = len(common) >= COMMON_SHARE * len(held_out_keys)
    similar = common if is_common else [(i, j) for i, ratio, j in compared if ratio < CLEAR_RATIO]
    return NearDuplicates(sorted(identical + similar), identical, len(identical) + len(suspects))


def _summarise(images: Any) -> tuple[list[int], np.ndarray]:
    """Returns a checksum and a thumbnail without brightness of every image: N integers, float32 `[N, T]`."""
    count = len(images)
    size = int(np.prod(images.shape[1:])) * np.dtype(images.dtype).itemsize
    step = max(1, BYTES_AT_ONCE // max(1, size))

    def summarise(start: int) -> tuple[list[int], np.ndarray]:
        chunk = np.asarray(images[start : start + step])
        sampled = chunk[:, :: _stride(chunk.shape[1]), :: _stride(chunk.shape[2])]
        keys = row_checksums(sampled)
        grey = _grey(sampled)
        columns = grey.reshape(-1, grey.shape[2]) @ _pooling(grey.shape[2])
        columns = columns.reshape(*grey.shape[:2], -1).transpose(0, 2, 1)
        cells = columns.reshape(-1, grey.shape[1]) @ _pooling(grey.shape[1])
        cells = cells.reshape(len(chunk), -1)
        return keys, cells - cells.mean(axis=1, keepdims=True)

    with threadpool_limits(1):
        parts = [summarise(start) for start in range(0, count, step)]
    return [key for keys, _ in parts for key in keys], np.concatenate([cells for _, cells in parts])


def _stride(side: int) -> int:
    return max(1, side // SAMPLED_SIDE)


def _grey(image: np.ndarray) -> np.ndarray:
    """Takes the mean of the channels: `[..., C]` -> float32 `[...]`."""
    total = image[..., 0].astype(np.float32)
    for channel in range(1, image.shape[-1]):
        total += image[..., channel]
    return total / image.shape[-1]


def _pooling(side: int) -> np.ndarray:
    """Returns the matrix `[side, cells]` that averages neighbours into at most THUMBNAIL_SIDE cells."""
    cells = min(side, THUMBNAIL_SIDE)
    members = np.arange(side) * cells // side == np.arange(cells)[:, None]
    return (members / members.sum(axis=1, keepdims=True)).T.astype(np.float32)


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Yields squared distances between the rows of `a` `[A, T]` and `b` `[B, T]`, in blocks `[rows, B]`."""
    lengths = np.einsum("it,it->i", b, b)
    for start in range(0, len(a), ROWS_AT_ONCE):
        rows = a[start : start + ROWS_AT_ONCE]
        yield np.einsum("it,it->i", rows, rows)[:, None] + lengths - 2 * (rows @ b.T)


def _unexplained(image: np.ndarray, by: np.ndarray) -> float:
    """Returns the root mean square of the part of `image` that `by` does not explain; both float32 `[H, W]`.

    Least squares finds a small kernel and an offset that turn `by` into `image` as well as possible. A shift
    of up to SHIFT pixels, a slight blur, and another brightness or contrast therefore make no difference. The
    remaining differences are averaged over cells, so that noise hardly counts.
    """
    rows, columns = (_places(side - 2 * SHIFT) for side in image.shape)
    width = 2 * SHIFT + 1
    windows = np.lib.stride_tricks.sliding_window_view(by, (width, width))[rows[:, None], columns]
    basis = windows.reshape(-1, width * width).astype(np.float64)
    target = image[SHIFT:-SHIFT, SHIFT:-SHIFT][rows[:, None], columns].astype(np.float64)
    basis, target = basis - basis.mean(axis=0), target - target.mean()
    products = basis.T @ basis
    # Flat images would make the equations singular.
    products[np.diag_indices(len(products))] += 1e-6 * np.trace(products) / len(products) + 1e-9
    explained = basis @ np.linalg.solve(products, basis.T @ target.ravel())
    rest = (target - explained.reshape(target.shape)).reshape(len(rows) // CELL, CELL, -1, CELL)
    return float(np.sqrt(np.mean(rest.mean(axis=(1, 3)) ** 2)))


def _places(side: int) -> np.ndarray:
    """Returns the pixels of at most MAX_CELLS cells that are spread over a side, as ascending indices."""
    cells = min(MAX_CELLS, side // CELL)
    starts = np.linspace(0, side - CELL, cells).astype(np.int64)
    return (starts[:, None] + np.arange(CELL)).ravel()

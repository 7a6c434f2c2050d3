"""Corruptions of normal images, which stand for anomalies when a recipe is chosen.

A corruption is a pure function of (image, seed).

Each corruption changes a soft-edged ellipse at a random place. No corrupted image is used to train.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]

Radii = tuple[float, float]  # of the ellipse, as shares of height and width, smallest and largest

EDGE_SHARE = 0.15  # share of the radius over which the change fades out
MIN_CHANGE = 0.1  # root mean square of a change, in standard deviations of the image
MAX_TRIES = 10  # places that are tried until one changes enough (black for black changes nothing)


def corrupt(images: np.ndarray, kind: str, radii: Radii, seed: int) -> np.ndarray:
    """Every image with one corruption of this kind.

    Args:
        images: uint8 or uint16 `[N, H, W, C]`, N at least 2: some kinds take from another image.
        kind: of `KINDS`.
        radii: small ellipses are as frequent as large ones (log-uniform).
        seed: the result is a function of (images, kind, seed).

    Returns:
        `[N, H, W, C]`, of the same type.
    """
    out = np.empty_like(images)
    for index in range(len(images)):
        rng = np.random.default_rng([seed, KINDS[kind].stream, index])
        donor = images[(index + rng.integers(1, len(images))) % len(images)]
        out[index] = _corrupt_one(images[index], donor, KINDS[kind].change, radii, rng)
    return out


def anomalies_of(protocol: str) -> tuple[tuple[str, ...], Radii]:
    """The kinds and sizes of corruptions that stand for the anomalies of `config.data.protocol`.

    An image of another class has usual parts in another arrangement, so these corruptions are very large and
    have no strange values. A defect may be small, and may look like anything.
    """
    return (tuple(KINDS), (0.06, 0.4)) if protocol == "inspection" else (ARRANGEMENTS, (0.4, 0.7))


def ellipse(height: int, width: int, radii: Radii, rng: np.random.Generator) -> np.ndarray:
    """Where an image changes: `[H, W, 1]` in [0, 1], an ellipse of random place, axes and direction."""
    centre = rng.uniform(0.15, 0.85, 2)
    axes = np.exp(rng.uniform(*np.log(radii))) * rng.uniform(0.5, 1, 2)
    angle = rng.uniform(0, np.pi)
    y, x = np.meshgrid(
        (np.arange(height) + 0.5) / height - centre[0],
        (np.arange(width) + 0.5) / width - centre[1],
        indexing="ij",
    )
    u, v = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    from_edge = 1 - np.hypot(u / axes[0], v / axes[1])
    return np.clip(from_edge / EDGE_SHARE, 0, 1)[..., None]


def _corrupt_one(
    image: np.ndarray, donor: np.ndarray, change: Change, radii: Radii, rng: np.random.Generator
) -> np.ndarray:
    levels = float(np.iinfo(image.dtype).max)
    x, other = image / levels, donor / levels
    least = MIN_CHANGE * x.std()
    best, most = x, -1.0
    for _ in range(MAX_TRIES):
        mask = ellipse(x.shape[0], x.shape[1], radii, rng)
        changed = np.clip(x + mask * (change(x, other, rng) - x), 0, 1)
        size = float(np.sqrt(np.mean(np.square(changed - x))))
        if size > most:
            best, most = changed, size
        if size >= least:
            break
    return np.rint(levels * best).astype(image.dtype)


def _rolled(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`x` moved by a quarter to three quarters along both axes, around the edges."""
    shift = [int(rng.uniform(0.25, 0.75) * n) for n in x.shape[:2]]
    return np.roll(x, shift, (0, 1))


def _paste(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another normal image, from another place of it."""
    return _rolled(other, rng)


def _move(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same image, from another place of it."""
    return _rolled(x, rng)


def _turn(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same image turned upside down or mirrored along one axis or both."""
    axes = [(0,), (1,), (0, 1)][rng.integers(3)]
    return np.flip(x, axes)


def _erase(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A flat colour, that of some pixel."""
    return np.broadcast_to(x[rng.integers(x.shape[0]), rng.integers(x.shape[1])], x.shape)


def _warp(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth random displacement of up to a tenth of the size or so."""
    height, width = x.shape[:2]
    sigma = [height / 8, width / 8]
    flow = [ndimage.gaussian_filter(rng.standard_normal((height, width)), sigma, mode="wrap") for _ in "yx"]
    reach = rng.uniform(0.05, 0.12)
    y, x_ = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    at = [
        y + reach * height * flow[0] / flow[0].std(),
        x_ + reach * width * flow[1] / flow[1].std(),
    ]
    channels = [ndimage.map_coordinates(x[..., c], at, order=1, mode="nearest") for c in range(x.shape[2])]
    return np.stack(channels, -1)


def _noise(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grain, the same in all channels, from fine to coarse."""
    grain = ndimage.gaussian_filter(rng.standard_normal(x.shape[:2]), rng.uniform(0, 0.04) * x.shape[0])
    return x + rng.uniform(0.3, 1) * x.std() * (grain / grain.std())[..., None]


def _shade(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brighter or darker, as a stain or a shadow."""
    return x + rng.choice([-1, 1]) * rng.uniform(0.5, 1.5) * x.std()


def _blend(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half this image, half another one upside down."""
    return 0.5 * (x + np.flip(other, 0))


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption. `stream` is part of the random seed, so it must stay the kind's own for ever."""

    stream: int
    change: Change


# Another kind is another entry here, with the next free stream.
KINDS = {
    "paste": Corruption(0, _paste),
    "move": Corruption(1, _move),
    "turn": Corruption(2, _turn),
    "erase": Corruption(3, _erase),
    "warp": Corruption(4, _warp),
    "noise": Corruption(5, _noise),
    "shade": Corruption(6, _shade),
    "blend": Corruption(7, _blend),
}
ARRANGEMENTS = ("paste", "move", "erase", "turn")

"""Corrupts normal images. The corrupted images stand for anomalies when a recipe is chosen.

Each corruption changes an ellipse with soft edges at a random place. It is a pure function of image and seed.
No corrupted image trains.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]

Radii = tuple[float, float]  # the smallest and the largest radius, as shares of height and width

EDGE_SHARE = 0.15  # the change fades out over this share of the radius
MIN_CHANGE = 0.1  # the smallest root mean square of a change, in standard deviations of the image
MAX_TRIES = 10  # this many places are tried for a large enough change (black on black changes nothing)


def corrupt(images: np.ndarray, kind: str, radii: Radii, seed: int) -> np.ndarray:
    """Returns every image with one corruption.

    Args:
        images: uint8 or uint16 `[N, H, W, C]`, N at least 2, because some kinds use another image.
        kind: one of `KINDS`.
        radii: the range of radii. The radius is log-uniform, so small ellipses are as frequent as large ones.
        seed: seeds the random numbers.

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
    """Returns the kinds and sizes of corruptions that stand for the anomalies of `config.data.protocol`.

    An image of another class has usual parts in an unusual arrangement. Corruptions for classes are therefore
    very large and have no strange values. A defect may be small, and may look like anything.
    """
    return (tuple(KINDS), (0.06, 0.4)) if protocol == "inspection" else (ARRANGEMENTS, (0.4, 0.7))


def ellipse(height: int, width: int, radii: Radii, rng: np.random.Generator) -> np.ndarray:
    """Returns the weights of a change, `[H, W, 1]` in [0, 1]: an ellipse of random place, axes and angle."""
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
    """Moves `x` by a quarter to three quarters along both axes, around the edges."""
    shift = [int(rng.uniform(0.25, 0.75) * n) for n in x.shape[:2]]
    return np.roll(x, shift, (0, 1))


def _paste(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Takes another place of another normal image."""
    return _rolled(other, rng)


def _move(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Takes another place of the same image."""
    return _rolled(x, rng)


def _turn(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors the same image along one axis or both."""
    axes = [(0,), (1,), (0, 1)][rng.integers(3)]
    return np.flip(x, axes)


def _erase(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Takes the colour of a random pixel everywhere."""
    return np.broadcast_to(x[rng.integers(x.shape[0]), rng.integers(x.shape[1])], x.shape)


def _warp(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves pixels smoothly by up to about a tenth of the size."""
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
    """Adds grain, fine or coarse, equal in all channels."""
    grain = ndimage.gaussian_filter(rng.standard_normal(x.shape[:2]), rng.uniform(0, 0.04) * x.shape[0])
    return x + rng.uniform(0.3, 1) * x.std() * (grain / grain.std())[..., None]


def _shade(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes pixels brighter or darker, as a stain or a shadow does."""
    return x + rng.choice([-1, 1]) * rng.uniform(0.5, 1.5) * x.std()


def _blend(x: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mixes the image with another one that is upside down, half and half."""
    return 0.5 * (x + np.flip(other, 0))


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption. `stream` is part of the random seed, so it must never change."""

    stream: int
    change: Change


# A new kind is a new entry here, with the next free stream.
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

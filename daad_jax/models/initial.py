"""Initial variables, drawn by NumPy: a program for every shape of a parameter would take XLA longer to
compile than all draws take, and another kind of device would round them differently."""

import math
import zlib
from typing import Any

import jax
import numpy as np

TRUNCATED = 0.87962566103423978  # standard deviation of a standard normal cut off at 2


def init_variables(shapes: Any, seed: int) -> Any:
    """Variables of these shapes, as the networks' own initialisers distribute them.

    Every leaf is a function of `seed`, its path and its shape alone: networks share what is named alike.

    Args:
        shapes: a tree of what has a shape and a type, from `module.init`; leaves are named as in `models/`.
        seed: not negative.

    Returns:
        The same tree of numpy arrays.
    """
    # In one piece, which the system has back as a whole; small pieces would stay with the process.
    memory = np.empty(sum(leaf.size for leaf in jax.tree.leaves(shapes)), np.float32)
    used = 0

    def take(shape: tuple[int, ...]) -> np.ndarray:
        nonlocal used
        start, used = used, used + math.prod(shape)
        return memory[start:used].reshape(shape)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        if name in ("bias", "mean"):
            return np.zeros(leaf.shape, leaf.dtype)
        if name in ("scale", "var"):
            return np.ones(leaf.shape, leaf.dtype)
        generator = np.random.default_rng([seed, zlib.crc32(jax.tree_util.keystr(path).encode())])
        if name == "items":
            return generator.standard_normal(leaf.shape, np.float32, take(leaf.shape))
        assert name == "kernel", path
        kernel = generator.standard_normal(leaf.shape, np.float32, take(leaf.shape))
        while len(outside := np.flatnonzero(np.abs(kernel) > 2)):
            kernel.flat[outside] = generator.standard_normal(len(outside), np.float32)
        kernel *= (1 / np.prod(leaf.shape[:-1])) ** 0.5 / TRUNCATED  # LeCun's: variance 1 / inputs
        return kernel

    return jax.tree_util.tree_map_with_path(draw, shapes)

"""Draws the initial variables of the networks with NumPy.

With JAX, every shape of a parameter would need another program, and compiling these programs would take
longer than drawing all values here. Each kind of device would also round the values differently.
"""

import math
import zlib
from typing import Any

import jax
import numpy as np

TRUNCATED_NORMAL_STD = 0.87962566103423978  # of a standard normal distribution cut off at -2 and 2


def init_variables(shapes: Any, seed: int) -> Any:
    """Draws variables with the distributions of the networks' own initializers.

    Each array depends only on `seed`, its path in the tree and its shape. Two networks therefore share the
    initial values of every parameter that has the same path and shape in both.

    Args:
        shapes: a tree of `jax.ShapeDtypeStruct`, as `jax.eval_shape(module.init, ...)` returns it. The last
            key of a path names the kind of array: kernel, bias, scale, mean, var or items.
        seed: a number that is not negative.

    Returns:
        The same tree with NumPy arrays.
    """
    # All arrays share one allocation, because the process can return a large one to the system. Many small
    # allocations would stay with the process.
    memory = np.empty(sum(leaf.size for leaf in jax.tree.leaves(shapes)), np.float32)
    used = 0

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
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
            return generator.standard_normal(leaf.shape, np.float32, allocate(leaf.shape))
        assert name == "kernel", path
        kernel = generator.standard_normal(leaf.shape, np.float32, allocate(leaf.shape))
        while len(outside := np.flatnonzero(np.abs(kernel) > 2)):
            kernel.flat[outside] = generator.standard_normal(len(outside), np.float32)
        # LeCun's initializer: the variance is 1 / (number of inputs of an output).
        kernel *= (1 / np.prod(leaf.shape[:-1])) ** 0.5 / TRUNCATED_NORMAL_STD
        return kernel

    return jax.tree_util.tree_map_with_path(draw, shapes)

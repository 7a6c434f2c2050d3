"""Block-wise memory (paper, Fig. 3): divide a map into blocks, read each from a bank, assemble again."""

import math
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from daad_jax.errors import UserError
from daad_jax.models.addressing import EPSILON, cosines_to_weights, inverse_lengths
from daad_jax.models.map_memory import Division, can_read_map, read_map
from daad_jax.models.packing import pack, unpack

INVERSE_LENGTHS = "inverse_lengths"  # the name of a collection of Flax variables


def resolve(division: Division, shape: tuple[int, ...], name: str = "memory") -> Division:
    """Replaces each division rate of 0 by the length of its axis.

    Args:
        division: cuts per axis (r_h, r_w, r_c).
        shape: (H, W, C) of the map.
        name: the memory's name, for the error.

    Raises:
        UserError: a rate that does not divide its axis; names the module, the shape and the rates.
    """
    rows, columns, depth = (cuts or axis for cuts, axis in zip(division, shape))
    rates = (rows, columns, depth)
    if any(axis % cuts for cuts, axis in zip(rates, shape)):
        raise UserError(
            f"{name}: a feature map of (H, W, C) = {tuple(shape)} cannot be cut by config.model.division "
            f"= {tuple(division)}: every rate must divide its axis (0 stands for the whole axis)"
        )
    return rates


def divide(features: jax.Array, division: Division) -> jax.Array:
    """Cuts a map into blocks. Each block is flattened to one query.

    Args:
        features: `[B, H, W, C]`.
        division: cuts per axis (r_h, r_w, r_c). Each number divides its axis.

    Returns:
        Queries `[B, Q, D]`, Q = r_h r_w r_c and D = (H / r_h)(W / r_w)(C / r_c).
    """
    batch, height, width, channels = features.shape
    rows, columns, depth = division
    block = (height // rows, width // columns, channels // depth)
    cut = features.reshape(batch, rows, block[0], columns, block[1], depth, block[2])
    return cut.transpose(0, 1, 3, 5, 2, 4, 6).reshape(batch, rows * columns * depth, -1)


def assemble(queries: jax.Array, division: Division, shape: tuple[int, int, int]) -> jax.Array:
    """Puts every block back in its place: the inverse of `divide`.

    Args:
        queries: `[B, Q, D]`.
        division: the division that `divide` got.
        shape: (H, W, C) of the map.

    Returns:
        `[B, H, W, C]`.
    """
    height, width, channels = shape
    rows, columns, depth = division
    block = (height // rows, width // columns, channels // depth)
    cut = queries.reshape(-1, rows, columns, depth, *block)
    return cut.transpose(0, 1, 4, 2, 5, 3, 6).reshape(-1, height, width, channels)


def with_inverse_lengths(variables: dict[str, Any]) -> dict[str, Any]:
    """Adds the `inverse_lengths` of all memory items to a generator's variables.

    The lengths stay right as long as the items do not change, as in scoring. A read of a single image spends
    its time on going through all items: once for the products, once for the weighted sum and, if the lengths
    are not known, once more for the lengths.
    """
    banks = {name: params["items"] for name, params in variables["params"].items() if "items" in params}
    lengths = {name: {"items": inverse_lengths(items)} for name, items in banks.items()}
    return variables | {INVERSE_LENGTHS: lengths}


def address(
    queries: jax.Array,
    items: jax.Array,
    temperature: float = 1.0,
    shrink: float = 0.0,
    item_scale: jax.Array | None = None,
) -> jax.Array:
    """Computes the weights of the items for every query: the softmax over j of cos(q, m_j) / temperature.

    Args:
        queries: `[..., D]`.
        items: `[N, D]`.
        temperature: 1 is the paper's equation. A temperature far below 1 selects one item.
        shrink: MemAE's hard-shrinkage threshold. Weights below it become 0, and the others are scaled to a
            sum of 1 again. 0 is the paper's equation.
        item_scale: `inverse_lengths` of the items, if the caller knows them already.

    Returns:
        float32 `[..., N]`, rows of sum 1. A query of length 0 has cosine 0 with every item.
    """
    queries, items = queries.astype(jnp.float32), items.astype(jnp.float32)
    # The products are scaled instead of the items or the queries, which are larger arrays.
    if item_scale is None:
        item_scale = inverse_lengths(items)
    query_scale = inverse_lengths(queries)
    products = jnp.einsum("md,nd->mn", _flatten(queries), items)
    products = products.reshape(*queries.shape[:-1], -1)
    cosine = products * query_scale[..., None] * item_scale.reshape((1,) * (queries.ndim - 1) + (-1,))
    return cosines_to_weights(cosine, temperature, shrink)


def read(
    queries: jax.Array,
    items: jax.Array,
    temperature: float = 1.0,
    shrink: float = 0.0,
    item_scale: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Replaces each query by what the memory can express of it: q^ = w M.

    Args:
        queries: `[..., D]`.
        items: M, `[N, D]`.
        temperature: see `address`.
        shrink: see `address`.
        item_scale: see `address`.

    Returns:
        `[..., D]` in the type of `queries`, and the weights `[..., N]` in float32.
    """
    weights = address(queries, items, temperature, shrink, item_scale)
    expressed = _flatten(weights) @ items.astype(jnp.float32)
    return expressed.reshape(queries.shape).astype(queries.dtype), weights


def _flatten(vectors: jax.Array) -> jax.Array:
    """Joins all axes but the last: `[..., D]` -> `[M, D]`.

    With one axis of vectors, XLA computes a product's gradients without a transposed copy of the vectors.
    """
    return vectors.reshape(-1, vectors.shape[-1])


def usage(weights: jax.Array) -> dict[str, jax.Array]:
    """Measures how a batch of queries used the memory.

    Args:
        weights: `[B, Q, N]`.

    Returns:
        `entropy`, the mean entropy of the weights as a share of log N (1: uniform weights, 0: one item is
        selected or N = 1); `top_weight`, the mean of the largest weights; and `hits` `[N]`, for each item the
        share of the queries that give it the largest weight.
    """
    count = weights.shape[-1]
    entropy = -jnp.mean(jnp.sum(jax.scipy.special.xlogy(weights, weights), -1))
    top = jax.nn.one_hot(jnp.argmax(weights, -1), count)
    return jax.lax.stop_gradient(
        {
            "entropy": entropy / max(math.log(count), EPSILON),
            "top_weight": jnp.mean(jnp.max(weights, -1)),
            "hits": jnp.mean(top, axis=(0, 1)),
        }
    )


class BlockMemory(nn.Module):
    """A bank of N normal blocks through which a feature map must pass."""

    items: int
    division: Division
    temperature: float = 1.0
    shrink: float = 0.0
    packed: int = 1  # the factor by which the map is packed (`packing.pack`)
    keeps_map: bool = False  # read without cutting the map, if the division allows it

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Replaces every block of `features` by what the bank can express of it.

        Args:
            features: `[B, H, W, C]`; packed, `[B, H / packed, W / packed, packed^2 C]`.

        Returns:
            The same shape, and the usage statistics of `usage`.

        Raises:
            UserError: the division rates do not divide (H, W, C).
        """
        chex.assert_rank(features, 4)
        rows, columns, depth = features.shape[1:]
        shape = (rows * self.packed, columns * self.packed, depth // self.packed**2)
        division = resolve(self.division, shape, self.name or "memory")
        length = math.prod(shape) // math.prod(division)
        # The address depends only on an item's direction, but the read also on its length. Entries of unit
        # variance start the read at the scale of batch-normalised features.
        bank = self.param("items", nn.initializers.normal(1.0), (self.items, length), jnp.float32)
        if self.keeps_map and can_read_map(features.shape, division):
            expressed, weights = read_map(
                features, bank, division, self.packed, self.temperature, self.shrink
            )
            return expressed, usage(weights)
        known = self.has_variable(INVERSE_LENGTHS, "items")
        item_scale = self.get_variable(INVERSE_LENGTHS, "items") if known else None
        queries = divide(unpack(features, self.packed), division)
        expressed, weights = read(queries, bank, self.temperature, self.shrink, item_scale)
        return pack(assemble(expressed, division, shape), self.packed), usage(weights)

"""The memory equals loops in NumPy, also in the limit cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax.errors import UserError
from daad_jax.models import memory

DIVISIONS = [(1, 1, 1), (4, 6, 1), (2, 3, 2), (1, 2, 4), (4, 6, 8)]


def blocks_by_loop(x, division):
    rows, columns, depth = division
    h, w, c = x.shape[1] // rows, x.shape[2] // columns, x.shape[3] // depth
    return np.array(
        [
            [
                image[i * h : i * h + h, j * w : j * w + w, k * c : k * c + c].ravel()
                for i in range(rows)
                for j in range(columns)
                for k in range(depth)
            ]
            for image in x
        ]
    )


def read_by_loop(queries, items, temperature, shrink):
    out = np.zeros_like(queries)
    for index in np.ndindex(queries.shape[:-1]):
        q = queries[index]
        cosine = np.array([q @ m / np.linalg.norm(q) / np.linalg.norm(m) for m in items])
        w = np.exp(cosine / temperature)
        w /= w.sum()
        if shrink:
            w = np.where(w > shrink, w, 0)
            w /= w.sum()
        out[index] = sum(wi * mi for wi, mi in zip(w, items))
    return out


@pytest.mark.parametrize("division", DIVISIONS)
def test_divide_and_assemble(division):
    x = np.random.default_rng(0).normal(size=(3, 4, 6, 8)).astype(np.float32)
    queries = memory.divide(jnp.asarray(x), division)
    np.testing.assert_array_equal(queries, blocks_by_loop(x, division))
    np.testing.assert_array_equal(memory.assemble(queries, division, (4, 6, 8)), x)


@pytest.mark.parametrize(("temperature", "shrink"), [(1.0, 0.0), (0.1, 0.0), (0.5, 0.15)])
def test_read_is_the_papers_equation(temperature, shrink):
    rng = np.random.default_rng(1)
    queries, items = rng.normal(size=(2, 3, 7)), rng.normal(size=(5, 7))
    values, weights = memory.read(
        jnp.asarray(queries, jnp.float32), jnp.asarray(items, jnp.float32), temperature, shrink
    )
    np.testing.assert_allclose(values, read_by_loop(queries, items, temperature, shrink), rtol=2e-4)
    np.testing.assert_allclose(jnp.sum(weights, -1), 1, rtol=1e-6)


def test_pixel_wise_division_is_memae():
    """MemAE reads the channel vector of every pixel, as a division into single pixels does."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    module = memory.BlockMemory(10, (0, 0, 1))
    variables = module.init(jax.random.key(1), x)
    items = variables["params"]["items"]
    assert items.shape == (10, 6)
    expected, _ = memory.read(x, items)
    np.testing.assert_allclose(module.apply(variables, x)[0], expected, rtol=1e-5, atol=1e-6)


def test_a_memory_of_one_item_reads_a_constant():
    module = memory.BlockMemory(1, (2, 2, 1))
    x = jax.random.normal(jax.random.key(0), (4, 4, 4, 3))
    out, usage = module.apply(module.init(jax.random.key(1), x), x)
    np.testing.assert_allclose(out, jnp.broadcast_to(out[:1], out.shape), rtol=1e-6)
    assert usage["entropy"] == 0


def test_gradients_against_finite_differences():
    rng = np.random.default_rng(2)
    queries, items = rng.normal(size=(3, 6)), rng.normal(size=(4, 6))
    target = rng.normal(size=(3, 6))

    def loss(q, m):
        return ((read_by_loop(q, m, 0.3, 0) - target) ** 2).sum()

    grads = jax.grad(lambda q, m: jnp.sum((memory.read(q, m, 0.3)[0] - target) ** 2), argnums=(0, 1))(
        jnp.asarray(queries, jnp.float32), jnp.asarray(items, jnp.float32)
    )
    for argument, grad in enumerate(grads):
        for index in np.ndindex(grad.shape):
            ends = []
            for sign in (1, -1):
                moved = [queries.copy(), items.copy()]
                moved[argument][index] += sign * 1e-5
                ends.append(loss(*moved))
            assert grad[index] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-3, abs=2e-3)


def test_usage_shows_a_collapse():
    weights = jnp.zeros((2, 3, 4)).at[:, :, 1].set(1.0)
    usage = memory.usage(weights)
    assert usage["entropy"] == 0
    assert usage["top_weight"] == 1
    np.testing.assert_array_equal(usage["hits"], [0, 1, 0, 0])


def test_the_error_names_division_rates_that_do_not_divide():
    with pytest.raises(UserError, match=r"memory3.*\(4, 6, 8\).*\(3, 1, 1\)"):
        memory.resolve((3, 1, 1), (4, 6, 8), "memory3")


def test_known_inverse_lengths_give_the_same_read():
    features = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    module = memory.BlockMemory(5, (2, 2, 1), temperature=0.1, name="memory1")
    variables = module.init(jax.random.key(1), features)
    expected, _ = module.apply(variables, features)
    prepared = memory.with_inverse_lengths({"params": {"memory1": variables["params"]}, "batch_stats": {}})
    lengths = prepared[memory.INVERSE_LENGTHS]["memory1"]
    got, _ = module.apply(variables | {memory.INVERSE_LENGTHS: lengths}, features)
    np.testing.assert_array_equal(got, expected)
    # The read uses the given lengths: wrong lengths give another result.
    wrong = {memory.INVERSE_LENGTHS: {"items": jnp.zeros(5)}}
    assert not np.allclose(module.apply(variables | wrong, features)[0], expected)


def test_a_block_memory_uses_all_its_settings():
    """Division, temperature and shrinkage together equal loops in NumPy."""
    x = np.random.default_rng(5).normal(size=(2, 4, 6, 8)).astype(np.float32)
    module = memory.BlockMemory(5, (2, 3, 2), temperature=0.5, shrink=0.15)
    variables = module.init(jax.random.key(0), x)
    got, _ = module.apply(variables, x)
    queries = read_by_loop(
        blocks_by_loop(x, (2, 3, 2)), np.asarray(variables["params"]["items"]), temperature=0.5, shrink=0.15
    )
    expected = memory.assemble(jnp.asarray(queries, jnp.float32), (2, 3, 2), (4, 6, 8))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)

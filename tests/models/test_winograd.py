"""The nine products equal the convolution, its transpose and the kernel's gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax.models import layers, winograd
from daad_jax.models.layers import Conv, ConvTranspose
from tests.models.test_layers import assert_close, value_and_gradients

SHAPES = [((2, 8, 12, 3), 5), ((1, 4, 4, 2), 1), ((3, 16, 4, 6), 7)]


def convolve_directly(x, kernel):
    """The convolution tap by tap in float64: `[B, H, W, C]`, `[4, 4, C, F]` -> `[B, H / 2, W / 2, F]`."""
    batch, height, width, _ = x.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((batch, height // 2, width // 2, kernel.shape[-1]))
    for i in range(4):
        for j in range(4):
            y += padded[:, i : i + height : 2, j : j + width : 2] @ kernel[i, j].astype(np.float64)
    return y


@pytest.fixture(params=SHAPES, ids=str)
def arrays(request):
    """A map of each resolution and a kernel."""
    fine, features = request.param
    rng = np.random.default_rng(0)
    coarse = (fine[0], fine[1] // 2, fine[2] // 2, features)
    return [rng.normal(size=s).astype(np.float32) for s in (fine, coarse, (4, 4, fine[-1], features))]


def to_transposed(kernel):
    """The kernel in the layout of `nn.ConvTranspose`: `[4, 4, C, F]` -> `[4, 4, F, C]`."""
    return np.swapaxes(kernel[::-1, ::-1], 2, 3)


def test_down(arrays):
    x, _, kernel = arrays
    assert_close(winograd.down(x, kernel), convolve_directly(x, kernel))
    assert_close(winograd.down(x, to_transposed(kernel), transposed=True), convolve_directly(x, kernel))


def test_up_is_the_transpose(arrays):
    """<down(x), y> = <x, up(y)> for every x, so up(y) is the gradient of the left side."""
    x, y, kernel = arrays
    basis = np.eye(x[0].size, dtype=np.float32).reshape(-1, *x.shape[1:])
    coarse_basis = convolve_directly(basis, kernel)
    expected = np.einsum("nhwf,bhwf->bn", coarse_basis, y).reshape(x.shape)
    assert_close(winograd.up(y, kernel, transposed=False), expected)
    assert_close(winograd.up(y, to_transposed(kernel)), expected)


def test_kernel_gradient(arrays):
    x, y, kernel = arrays
    basis = np.eye(16 * x.shape[-1], dtype=np.float32).reshape(4, 4, x.shape[-1], -1)
    expected = np.einsum("bhwn,bhwf->nf", convolve_directly(x, basis), y).reshape(kernel.shape)
    assert_close(winograd.kernel_gradient(x, y, transposed=False), expected)
    assert_close(winograd.kernel_gradient(x, y, transposed=True), to_transposed(expected))


def test_is_faster():
    def is_faster(*fine, coarse=512, dtype=jnp.float32):
        return winograd.is_faster(fine, coarse, dtype)

    assert is_faster(8, 16, 16, 128)
    assert not is_faster(8, 16, 16, 128, dtype=jnp.bfloat16)
    assert not is_faster(7, 16, 16, 128)  # too few pixels
    assert not is_faster(8, 18, 16, 128)
    assert not is_faster(8, 16, 18, 128)
    assert is_faster(8, 16, 16, 16, coarse=32)
    assert not is_faster(8, 16, 16, 8, coarse=16)  # too few channels


LAYERS = [
    (Conv, nn.Conv, 512, (8, 16, 16, 128)),
    (ConvTranspose, nn.ConvTranspose, 128, (8, 8, 8, 512)),
]


@pytest.mark.parametrize(("ours", "flax", "features", "shape"), LAYERS)
def test_wide_layers_use_it_and_equal_flax(ours, flax, features, shape):
    x = jax.random.normal(jax.random.key(1), shape)
    mine = ours(features, (4, 4), (2, 2), implementation="split")
    theirs = flax(features, (4, 4), (2, 2), padding="SAME")
    params = mine.init(jax.random.key(0), x)
    gradient = jax.grad(lambda params, x: mine.apply(params, x).sum(), (0, 1))
    assert "stablehlo.convolution" not in jax.jit(gradient).lower(params, x).as_text()
    assert_close(value_and_gradients(mine, params, x), value_and_gradients(theirs, params, x))


def test_no_sums_are_kept_for_the_gradient(monkeypatch):
    """Without copies of the operands, XLA keeps the sums instead of recomputing them."""
    x = jax.ShapeDtypeStruct((8, 16, 16, 256), jnp.float32)
    kernels = [jax.ShapeDtypeStruct((4, 4, 256, 256), jnp.float32)] * 2

    def temporary_bytes():
        def loss(kernels, x):
            for kernel in kernels:
                x = jnp.sin(layers.conv4x4_down(x, kernel))
                x = jnp.sin(layers.conv4x4_up(x, kernel))
            return jnp.sum(x)

        program = jax.jit(jax.grad(loss)).lower(kernels, x).compile()
        return program.memory_analysis().temp_size_in_bytes

    with_copies = temporary_bytes()
    monkeypatch.setattr(layers, "_copy_for_backward", lambda operands, gradient: operands)
    assert with_copies < 0.9 * temporary_bytes()

#!/usr/bin/env bash
# jaxlib 0.10.2 on a CPU: the product of one row `x` [1, D] with a matrix `m` [N, D] takes many times as long as
# `x @ m.T` as it takes as `jnp.einsum("md,nd->mn", x, m)`. Both are the same product. With two rows, the times
# are alike. A read of a memory by the features of one image is such a product.
# Seen on an AMD EPYC with AVX-512, D 131072, N 100: 91.7 ms and 3.3 ms, ratio 28; with two rows, ratio 1.0.
# A ratio below 3 for one row, or above 2 for two rows, fails.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder" && "$folder/venv/bin/python" - <<'END'
import time

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

rng = np.random.default_rng(0)
matrix = jnp.asarray(rng.normal(size=(100, 131072)), jnp.float32)
with_transpose = jax.jit(lambda x, m: x @ m.T)
with_einsum = jax.jit(lambda x, m: jnp.einsum("md,nd->mn", x, m))
ratios = {}
for rows in (1, 2):
    x = jnp.asarray(rng.normal(size=(rows, 131072)), jnp.float32)
    np.testing.assert_allclose(with_transpose(x, matrix), with_einsum(x, matrix), rtol=1e-3, atol=0.2)
    times = {with_transpose: [], with_einsum: []}
    for _ in range(30):
        for function, seconds in times.items():
            start = time.perf_counter()
            function(x, matrix).block_until_ready()
            seconds.append(time.perf_counter() - start)
    slow, fast = (1e3 * float(np.median(seconds)) for seconds in times.values())
    ratios[rows] = slow / fast
    print(f"jaxlib {jaxlib.__version__}, rows {rows}: x @ m.T {slow:.1f} ms, einsum {fast:.1f} ms, ratio {slow / fast:.1f}")
assert ratios[1] > 3 and ratios[2] < 2, ratios
END

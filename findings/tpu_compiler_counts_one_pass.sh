#!/usr/bin/env bash
# jax 0.10.2 with libtpu 0.0.42.1, compiling for a TPU v5e on a machine without one: a float32 convolution with
# precision HIGHEST is computed in six bfloat16 passes (HIGH: three), but the compiler's cost analysis counts the
# operations of one pass whatever the precision is. A roofline from these counts is six times too fast for programs in
# full precision. What does show the passes is the time to compile: each convolution costs a multiple, although the
# number of instructions is the same.
# Seen for four convolutions, 8 x 32 x 32 x 64, 3 x 3: DEFAULT 2.32 GFLOP in 3.6 s, HIGH 2.32 in 7.7 s, HIGHEST 2.32 in
# 15.1 s, each with 4 convolutions in the compiled text.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
export JAX_PLATFORMS=cpu JAX_ENABLE_COMPILATION_CACHE=0 TPU_SKIP_MDS_QUERY=1 TPU_MIN_LOG_LEVEL=3
export TPU_ACCELERATOR_TYPE=v5litepod-4 TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0
cd "$folder" && "$folder/venv/bin/python" - <<'END'
import re
import time

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import topologies

device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
place = jax.sharding.SingleDeviceSharding(device)
images = jax.ShapeDtypeStruct((8, 32, 32, 64), jnp.float32, sharding=place)
kernels = [jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32, sharding=place)] * 4


def compile_with(precision):
    def network(x, kernels):
        for kernel in kernels:
            x = jax.nn.relu(
                lax.conv_general_dilated(
                    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
                )
            )
        return x.sum()

    lowered = jax.jit(network).lower(images, kernels)
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    count = len(re.findall(r"= [^\n]* convolution\(", compiled.as_text()))
    print(f"{precision}: {compiled.cost_analysis()['flops'] / 1e9:.2f} GFLOP, {count} convolutions, {seconds:.1f} s")
    return compiled.cost_analysis()["flops"], count, seconds


rounds = [[compile_with(p) for p in (lax.Precision.DEFAULT, lax.Precision.HIGH, lax.Precision.HIGHEST)] for _ in "ab"]
for (flop, count, _), high, highest in rounds:
    assert abs(high[0] / flop - 1) < 0.01 and abs(highest[0] / flop - 1) < 0.01
    assert count == high[1] == highest[1]
default, _, highest = (min(each) for each in zip(*[[row[2] for row in rows] for rows in rounds]))
assert highest > 2 * default
END

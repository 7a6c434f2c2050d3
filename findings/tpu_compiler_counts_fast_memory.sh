#!/usr/bin/env bash
# jax 0.10.2 with libtpu 0.0.42.1, compiling for a TPU v5e on a machine without one: "bytes accessed" of the compiler's
# cost analysis is no traffic of the chip's main memory (HBM). It also counts the accesses to arrays that the compiler
# keeps in the small fast memory on the chip (VMEM; their layouts have S(1) in the compiled text), and nothing in the
# cost analysis tells the two kinds apart. A roofline from "bytes accessed" and the HBM's bandwidth is then several
# times too slow for small maps. The memory analysis shows the case: the program needs no temporary HBM.
# Seen for four bfloat16 convolutions of 3 x 3 and 128 channels, one after another: with 8 images of 32 x 32 "bytes
# accessed" is 23.3 MB, arguments and result are 4.5 MB, and there are 0 bytes of temporary memory and 24 mentions of
# S(1). With 512 images, 134 MB of temporary memory are needed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
export JAX_PLATFORMS=cpu JAX_ENABLE_COMPILATION_CACHE=0 TPU_SKIP_MDS_QUERY=1 TPU_MIN_LOG_LEVEL=3
export TPU_ACCELERATOR_TYPE=v5litepod-4 TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0
cd "$folder" && "$folder/venv/bin/python" - <<'END'
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import topologies

device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
place = jax.sharding.SingleDeviceSharding(device)
kernel = jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.bfloat16, sharding=place)


def network(x, kernel):
    for _ in range(4):
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x)
    return x


def measure(count):
    images = jax.ShapeDtypeStruct((count, 32, 32, 128), jnp.bfloat16, sharding=place)
    compiled = jax.jit(network).lower(images, kernel).compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    outside = memory.argument_size_in_bytes + memory.output_size_in_bytes
    fast = compiled.as_text().count("S(1)")
    print(
        f"{count} images: {cost['bytes accessed'] / 1e6:.1f} MB accessed, {outside / 1e6:.1f} MB of arguments and "
        f"result, {memory.temp_size_in_bytes / 1e6:.1f} MB temporary, {fast} mentions of S(1)"
    )
    return cost["bytes accessed"], outside, memory.temp_size_in_bytes, fast


accessed, outside, temporary, fast = measure(8)
assert temporary == 0 and fast > 0 and accessed > 4 * outside
assert measure(512)[2] > 100e6
END

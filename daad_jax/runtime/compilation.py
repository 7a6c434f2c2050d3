"""Chooses the options of XLA's compiler for each platform."""

import functools

import jax

Options = dict[str, str | bool]

# XLA:CPU has two libraries for convolutions, products and sums. YNNPACK, which it prefers, is the slower one
# for convolutions, by up to a half; Eigen takes those that are not listed here.
CPU_OPTIONS: Options = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}


@functools.cache
def options(platform: str) -> Options | None:
    """Returns the options for a platform ("cpu", "gpu" or "tpu"); None if the compiler needs none."""
    if platform != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None  # an XLA without that option
    return CPU_OPTIONS

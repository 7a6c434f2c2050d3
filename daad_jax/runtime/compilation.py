"""Chooses the options of XLA's compiler for each platform."""

import functools

import jax

Options = dict[str, str | bool]

# XLA:CPU has two libraries for convolutions, products and sums, and prefers YNNPACK. For convolutions,
# YNNPACK is slower than Eigen by up to a half. This option lists products and sums only, so Eigen does the
# convolutions.
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
        return None  # this XLA does not know the option
    return CPU_OPTIONS

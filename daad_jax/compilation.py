"""What XLA's compiler is told, by platform."""

import functools

import jax

Options = dict[str, str | bool]

# XLA:CPU has two libraries for convolutions, products and sums. YNNPACK, which it prefers, is the slower one
# for convolutions, by up to a half; Eigen takes those that are not listed here.
CPU_OPTIONS: Options = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}
# Of a program that runs once, most time goes into making its machine code better than it need be.
CPU_OPTIONS_ONCE: Options = {"xla_backend_optimization_level": "1", "xla_cpu_use_fusion_emitters": False}


@functools.cache
def options(platform: str, once: bool = False) -> Options | None:
    """For a platform ("cpu", "gpu", "tpu"); None: nothing.

    `once`: for a program that runs once, so that compiling it should not take long.
    """
    if platform != "cpu":
        return None
    chosen = CPU_OPTIONS_ONCE if once else CPU_OPTIONS
    try:
        jax.jit(lambda: 0, compiler_options=chosen).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None  # an XLA without that option
    return chosen

"""The precision of products in scoring: a score must be the same number on every device."""

import functools
from collections.abc import Callable
from typing import Any

import jax

# Values of `config.score.precision`, as JAX names them. JAX 0.10.2 also takes "F32_F32_F32", which leaves
# convolutions at the device's default.
PRECISIONS = {"float32": "float32", "device": None}


def with_precision(function: Callable[..., Any], precision: str) -> Callable[..., Any]:
    """The same pure function, whose products and convolutions are traced with the given precision.

    Unless a program asks for more, a TPU rounds the operands of a float32 product to bfloat16, and a GPU
    rounds them to TF32. That moves scores by up to some per cent, but the threshold belongs to exact scores.

    Args:
        function: a function of arrays. Products that name a precision keep their precision.
        precision: "float32", or "device" for what the device does by default.
    """

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with jax.default_matmul_precision(PRECISIONS[precision]):
            return function(*args)

    return traced

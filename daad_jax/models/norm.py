"""Batch normalisation as both networks use it."""

import flax.linen as nn

MOMENTUM = 0.9  # short runs are the rule: running statistics must settle within some hundred steps


def batch_norm(name: str, axis_name: str | None, train: bool) -> nn.BatchNorm:
    """Statistics of the batch (of all devices on `axis_name`) in training, running ones otherwise."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=MOMENTUM,
        axis_name=axis_name if train else None,
        name=name,
    )

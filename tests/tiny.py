"""A configuration of tiny networks, which train and score in a moment."""

from typing import Any

from daad_jax.config import Config


def tiny_config(**changes: Any) -> Config:
    """Networks of two levels and four channels on images of 16 x 16.

    `changes` are other values, with "__" for the dot of a key: `train__steps=6`.
    """
    config = Config(name="tiny")
    config.data.height = config.data.width = 16
    config.model.levels, config.model.skips = 2, (True,)
    config.model.base_width = config.model.discriminator_width = 4
    config.model.memory_items, config.model.division = (3, 3), ((1, 1, 1), (2, 2, 1))
    for key, value in changes.items():
        part, _, name = key.partition("__")
        assert hasattr(getattr(config, part), name), key
        setattr(getattr(config, part), name, value)
    return config

"""A configuration of tiny networks, which train and score in a moment."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from daad_jax.config import Config
from daad_jax.method.features import abstract_features
from daad_jax.method.state import TrainState, create_state
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.training.checkpoint import Checkpoints


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


def tiny_feature_config(**changes: Any) -> Config:
    """Two memories of items from the data, of blocks of 16 pixels and of the whole image of 64 x 64.

    They read an early layer of EfficientNet-Lite0. `changes`: see `tiny_config`.
    """
    features: dict[str, Any] = {
        "data__height": 64,
        "data__width": 64,
        "model__features": "efficientnet_lite0",
        "model__feature_layers": ((1,), (1,)),
        "model__feature_scaling": "whitened",
        "model__neighbourhood": 3,
        "model__blocks": (16, 0),
        "model__items": "coreset",
        "model__memory_items": (40, 8),
        "score__distance": "squared",
        "score__gamma": 1.0,
        "score__pooling": 4,
    }
    return tiny_config(**features | changes)


def filled_state(config: Config) -> TrainState:
    """A state whose extractor, scaling and items are random numbers of moderate size."""
    rng = np.random.default_rng(0)

    def draw(like: Any) -> np.ndarray:
        inputs = max(1, int(np.prod(like.shape[:-1])))
        return np.asarray(rng.standard_normal(like.shape) / np.sqrt(inputs), np.float32)

    features = jax.tree.map(draw, abstract_features(config))
    for memory in features["memories"]:
        memory["unit"] = np.float32(1)
    return TrainState(np.int32(1), None, None, features)  # type: ignore[arg-type]


def save_untrained(workdir: Path, config: Config, held_out: np.ndarray) -> None:
    """Makes a run of an untrained model, with one checkpoint that `held_out` `[N, H, W, C]` calibrates."""
    current = create_state(config)
    checkpoints = Checkpoints(workdir, 1, create=True)
    checkpoints.save(current, config, Scorer(config).calibrate(variables_of(current), held_out))
    checkpoints.close()

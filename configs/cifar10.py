"""CIFAR-10, one class normal and nine anomalous (paper: mean AUROC of the ten classes).

    python train.py --config configs/cifar10.py[:CLASS[,VARIANT][,smoke]]

CLASS is a name or number and defaults to automobile; VARIANT is ae, ae_skip, memae, daad or
daad_plus (default). Results and times: docs/results.md.
"""

from daad_jax import variants
from daad_jax.config import Config


def get_config(argument: str = "") -> Config:
    value, variant, smoke = variants.parse(argument, "automobile")
    config = Config()
    config.data.name = "cifar10"
    config.data.normal_class = value
    config.data.flip_horizontal = True
    config.model.base_width = 16
    config.model.discriminator_width = 16
    config.model.max_width = 128
    # Restoring takes more than 20 whole images: more items, in finer divisions from scale to scale.
    config.model.memory_items = (100, 100, 100, 100)
    config.model.division = ((1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1))
    config.loss.reconstruction = 2000.0
    # Ours, not the paper's: colour and direction have to be guessed from what is seen, and are guessed well
    # only for what is known.
    config.train.restore = "grey_turns"
    config.train.learning_rate = 1e-3
    config.train.steps = 1000
    # Photos of all contrasts: what counts is the share of an image that is not explained.
    config.score.distance = "correlation"
    config.score.gamma = 0.5
    return variants.finish(config, "cifar10", value, variant, smoke)

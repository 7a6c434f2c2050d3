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
    config.model.base_width = 32
    config.model.discriminator_width = 32
    config.model.max_width = 256
    # Restoring takes more than 20 whole images: more items, in finer divisions from scale to scale.
    config.model.memory_items = (100, 100, 100, 100)
    config.model.division = ((1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1))
    config.model.temperature = 0.2  # the paper's 1 mixes all items almost evenly
    config.loss.reconstruction = 2000.0
    # Ours, not the paper's: colour and direction have to be guessed from what is seen, and are guessed well
    # only for what is known.
    config.train.restore = "grey_turns"
    config.train.learning_rate = 1e-3
    config.train.steps = 3000  # forty minutes on one core; more is better still
    # Photos of all contrasts: what counts is the share of an image that is not explained, where it is most.
    config.score.distance = "correlation"
    config.score.smoothing = 2.0
    config.score.pooling = 8
    config.score.gamma = 1.0
    return variants.finish(config, "cifar10", value, variant, smoke)

"""MNIST, one digit normal and nine anomalous (paper: mean AUROC of the ten digits).

    python train.py --config configs/mnist.py[:DIGIT[,VARIANT][,smoke]]

DIGIT defaults to 8; VARIANT is ae, ae_skip, memae, daad or daad_plus (default). Digits are padded
from 28 to 32 pixels. Results and times: docs/results.md.
"""

from daad_jax import variants
from daad_jax.config import Config


def get_config(argument: str = "") -> Config:
    value, variant, smoke = variants.parse(argument, "8")
    config = Config()
    config.data.name = "mnist"
    config.data.normal_class = value
    config.data.channels = 1
    config.data.fit = "pad"
    config.model.base_width = 16
    config.model.discriminator_width = 16
    config.model.max_width = 64
    # Few items, one block a scale: what cannot be said by 10 whole digits is not reconstructed.
    config.model.memory_items = (10, 10, 10, 10)
    config.model.division = ((1, 1, 1),) * 4
    config.model.temperature = 0.4  # the paper's 1 mixes all items almost evenly
    # At this learning rate the adversarial loss drowns a reconstruction loss of weight 50.
    config.loss.reconstruction = 2000.0
    # Long training reconstructs other digits too.
    config.train.learning_rate = 1e-3
    config.train.steps = 300
    # A stroke beside its place is a small error to the eye and a large one to plain L2.
    config.score.distance = "cosine"
    config.score.smoothing = 1.0
    config.score.gamma = 1.0  # R alone: features that see how real a digit looks say little of which it is
    return variants.finish(config, "mnist", value, variant, smoke)

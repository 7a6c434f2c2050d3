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
    config.model.memory_items = (20, 20, 20, 20)
    # Coarse division: what is divided finely is reconstructed well, anomalies too.
    config.model.division = ((1, 1, 1),) * 4
    config.train.steps = 1500
    return variants.finish(config, "cifar10", value, variant, smoke)

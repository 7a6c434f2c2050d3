"""Any TFDS data set of images with classes: one of TFDS's, or one that is prepared in your TFDS directory.

    python train.py --config configs/tfds.py:NAME[/CONFIG][:CLASS][,VARIANT][,smoke]

CLASS is normal, all other classes are anomalous. VARIANT: see daad_jax/variants.py. Images are resized to
128 x 128. --config.data.protocol=leave_one_out makes CLASS the anomalous one. The split test is tested, or
else the split validation. configs/__init__.py gives the reasons for values that all recipes share.
"""

import re

from daad_jax import variants
from daad_jax.config import Config


def get_config(argument: str = "") -> Config:
    value, variant, smoke = variants.parse(argument, "")
    # A version belongs to the name: NAME:1.0.0:CLASS.
    name, _, rest = value.partition(":")
    version = re.match(r"\d+\.\d+\.\d+(:|$)", rest)
    if version:
        name, rest = f"{name}:{version[0].rstrip(':')}", rest[version.end() :]
    config = Config()
    config.data.source = "tfds"
    config.data.name = name
    config.data.protocol = "one_class"
    config.data.normal_class = rest
    config.data.height = config.data.width = 128
    config.data.fit = "resize"
    config.model.base_width = 16
    config.model.discriminator_width = 16
    config.model.max_width = 128
    config.model.memory_items = (20, 20, 20, 20)
    config.model.division = ((1, 1, 1),) * 4
    config.model.temperature = 0.1
    config.loss.reconstruction = 2000.0
    config.train.learning_rate = 1e-3
    config.train.steps = 1000
    config.train.batch_size = 16
    config.score.distance = "correlation"
    config.score.smoothing = 1.0
    config.score.pooling = 4
    config.score.alignment = "layers"
    return variants.finish(config, "tfds", value, variant, smoke)

"""Any data set of images with classes: one that TFDS knows, or one that is prepared in your TFDS directory.

    python train.py --config configs/tfds.py:NAME[/CONFIG][:CLASS][,VARIANT][,smoke]
    python train.py --config configs/tfds.py:fashion_mnist:3

CLASS is normal, and all other classes are anomalous; --config.data.protocol=leave_one_out makes CLASS the
anomalous one. Without CLASS, the command lists the classes. The split `test` is tested, or else the split
`validation`. Images are resized to 128 x 128. daad_jax/variants.py lists the variants. All other values come
from configs/folder.py. Nobody has tuned this recipe to any data set.
"""

import re

from daad_jax import variants
from daad_jax.config import Config
from daad_jax.recipes import load_recipe


def get_config(argument: str = "") -> Config:
    value, variant, smoke = variants.parse(argument, "", default_variant="")
    default = variants.default_for_any_images() if not variant else "daad_features"
    variant = variant or default
    # A version belongs to the name: NAME:1.0.0:CLASS.
    name, _, rest = value.partition(":")
    version = re.match(r"\d+\.\d+\.\d+(:|$)", rest)
    if version:
        name, rest = f"{name}:{version[0].rstrip(':')}", rest[version.end() :]
    config = load_recipe("folder:,daad_plus")  # for images that nobody has tuned a recipe to
    config.data.source = "tfds"
    config.data.name = name
    config.data.protocol = "one_class"
    config.data.normal_class = rest
    return variants.finish(config, "tfds", value, variant, smoke, default)

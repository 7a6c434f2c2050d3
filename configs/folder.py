"""Your own images: a folder of good images, or one in any layout of docs/data.md (MVTec AD, OK and NG, ...).

    python train.py --config configs/folder.py:PATH[,VARIANT][,smoke]
    python predict.py --workdir runs/folder-NAME IMAGE_OR_FOLDER...

Checkpoints, a threshold and suspects.csv come out. If the folder has test images, evaluate.py adds figures
and report.html. For 200 images the default takes about 80 seconds on two CPU cores (2026-11-28).

By default the memories read features of a frozen network (daad_features): the shorter side of images is 224
pixels, and the longer one keeps the usual shape of the training images. Without the extra `features`, and for
variants on pixels, images are resized to 128 x 128 and networks learn from them (daad_plus).
daad_jax/variants.py lists the variants. Give a path that contains a comma with --config.data.path instead.
configs/__init__.py gives the reasons for values that all recipes on pixels share.
"""

from daad_jax import variants
from daad_jax.config import Config


def get_config(argument: str = "") -> Config:
    value, variant, smoke = variants.parse(argument, "", default_variant="")
    default = variants.default_for_any_images() if not variant else "daad_features"
    variant = variant or default
    config = Config()
    config.data.source = "folder"
    config.data.path = value
    config.data.protocol = "inspection"
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
    return variants.finish(config, "folder", value, variant, smoke, default)

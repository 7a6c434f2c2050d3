"""Solar cells in electroluminescence (package elpv-dataset): sound cells are normal, broken ones anomalous.

    python train.py --config configs/solar_cells.py[:CELLS[,VARIANT][,smoke]]
    python evaluate.py --workdir runs/solar_cells-mono

CELLS is mono (default), poly or all. daad_jax/variants.py lists the variants; the default is daad_plus.
configs/__init__.py gives the reasons for values that all recipes share. `make demo` trains the variant
daad_features.

Mono has an AUROC of 0.934 (DAAD+, mean of three seeds, 2026-11-26). One seed takes 76 seconds on an H200, or
half an hour on one CPU core.
"""

from daad_jax import variants
from daad_jax.config import Config


def get_config(argument: str = "") -> Config:
    value, variant, smoke = variants.parse(argument, "mono")
    config = Config()
    config.data.name = f"solar_cells/{value}"
    config.data.protocol = "inspection"
    config.data.channels = 1
    config.data.height = config.data.width = 64
    config.data.fit = "resize"
    config.data.flip_horizontal = config.data.flip_vertical = True
    config.model.base_width = 16
    config.model.discriminator_width = 16
    config.model.max_width = 128
    config.model.memory_items = (20, 20, 20, 20)
    config.model.division = ((1, 1, 1),) * 4
    config.model.temperature = 0.05
    config.loss.reconstruction = 2000.0
    config.train.learning_rate = 1e-3
    config.train.steps = 3000
    config.train.batch_size = 32
    # The current through a cell sets its brightness and contrast. Defects are small, and relative to both.
    config.score.distance = "correlation"
    config.score.pooling = 4
    config.score.alignment = "layers"
    return variants.finish(config, "solar_cells", value, variant, smoke)

"""MVTec AD, one category (paper: image AUROC per category).

    python train.py --config configs/mvtec_ad.py[:CATEGORY[,VARIANT][,smoke]]

CATEGORY defaults to bottle; VARIANT is ae, ae_skip, memae, daad or daad_plus (default).
DAAD_MVTEC_DIR (or --config.data.path) is the folder that holds the categories. Trained at 64 x 64.
Results and times: docs/results.md.
"""

from daad_jax import variants
from daad_jax.config import Config


def get_config(argument: str = "") -> Config:
    value, variant, smoke = variants.parse(argument, "bottle")
    config = Config()
    config.data.name = f"mvtec_ad/{value}"
    config.data.protocol = "inspection"
    config.data.height = config.data.width = 64
    config.data.fit = "resize"
    config.model.base_width = 32
    config.model.discriminator_width = 32
    config.model.max_width = 256
    config.model.memory_items = (20, 20, 20, 20)
    config.model.division = ((1, 1, 1),) * 4
    config.model.temperature = 0.1  # the paper's 1 mixes all items almost evenly
    # As in mnist.py: at this learning rate the adversarial loss drowns a reconstruction loss of weight 50.
    config.loss.reconstruction = 2000.0
    config.train.learning_rate = 1e-3
    config.train.steps = 5000  # two minutes on a GPU; on a laptop 1000 do for a first look
    config.train.schedule = "cosine"
    config.train.batch_size = 32
    # The best of all ways to score this network by separation (docs/recipes.md).
    config.score.distance = "cosine"
    config.score.smoothing = 2.0
    config.score.pooling = 4
    config.score.gamma = 0.5
    return variants.finish(config, "mvtec_ad", value, variant, smoke)

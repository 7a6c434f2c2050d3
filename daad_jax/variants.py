"""The columns of the paper's table, and the words after `--config FILE:`."""

import difflib
import re

from daad_jax.config import Config
from daad_jax.errors import UserError

VARIANTS = ("ae", "ae_skip", "memae", "daad", "daad_plus")


def apply(config: Config, variant: str) -> None:
    """Turns a DAAD+ configuration into one of its simpler relatives.

    ae: no memory, no skip. ae_skip: raw skips. memae: pixel-wise memory at the bottleneck, no skip
    (its items and shrinkage stay as configured). daad: memories, reconstruction loss and score only.
    daad_plus: plus adversarial and alignment terms.
    """
    model = config.model
    if variant in ("ae", "memae"):
        model.skips = (False,) * (model.levels - 1)
    if variant in ("ae", "ae_skip"):
        model.memory_items = (0,) * model.levels
    if variant == "memae":
        model.memory_items = (model.memory_items[0], *(0,) * (model.levels - 1))
        model.division = ((0, 0, 1), *model.division[1:])
    if variant != "daad_plus":
        config.loss.adversarial = config.loss.alignment = 0.0
        config.score.gamma = 1.0


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
            near = difflib.get_close_matches(word, (*VARIANTS, "smoke"), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(VARIANTS)} or smoke"
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

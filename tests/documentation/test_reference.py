"""The reference has every public name, every value of the configuration and every command."""

import dataclasses
import re
from itertools import pairwise

import daad_jax
from daad_jax import config as config_lib
from maintenance import commands_page
from tests.documentation import pages


def references(page: str) -> list[str]:
    text = (pages.DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE)


def test_every_public_name_is_in_the_reference_once():
    assert sorted(references("reference.md")) == sorted(f"daad_jax.{name}" for name in daad_jax.__all__)


def test_every_public_name_has_a_docstring():
    for name in daad_jax.__all__:
        value = getattr(daad_jax, name)
        assert value.__doc__, name
        if isinstance(value, type):
            public = {k: v for k, v in vars(value).items() if not k.startswith("_") and callable(v)}
            assert all(v.__doc__ for v in public.values()), (name, list(public))


def test_every_value_of_the_configuration_is_explained():
    """The site makes its page from the comments `#:` beside the fields."""
    parts = [cls for cls in vars(config_lib).values() if dataclasses.is_dataclass(cls)]
    assert sorted(references("configuration.md")) == sorted(f"daad_jax.config.{c.__name__}" for c in parts)
    lines = (pages.ROOT / "daad_jax" / "config.py").read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith("def "))
    for before, line in pairwise(lines[:end]):
        if re.match(r"    \w+: .*=", line) and "field(default_factory" not in line:
            assert "#:" in line or before.startswith("    #: "), line


def test_the_page_of_commands_is_what_help_prints():
    text = (pages.DOCS / "commands.md").read_text(encoding="utf-8")
    assert text == commands_page.render(), "python -m maintenance.commands_page writes the page again"

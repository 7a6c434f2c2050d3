"""Every command on a page is one that the programs take: its options, recipe, values, extras and targets."""

import re
import tomllib

import pytest

import reproduce
from daad_jax import cli
from daad_jax.commands import COMMANDS
from tests.documentation import pages

EXTRAS = tomllib.loads((pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
TARGETS = set(re.findall(r"^([a-z-]+):", (pages.ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
# Programs of others: these tests cannot say whether their options are right.
PROGRAMS_OF_OTHERS = {"curl", "gcloud", "sha256sum"}


SHOWN = [page for page in pages.PAGES if page.name != "commands.md"]  # that page is what --help prints


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_commands_have_the_options_that_they_are_shown_with(page):
    for words in pages.commands(page):
        check(words)


def check(words: list[str]) -> None:
    program, *arguments = words
    if program == "daad-jax":
        check_ours(arguments[0], arguments[1:])
    elif program == "python":
        check_python(arguments)
    elif program == "make":
        assert {a for a in arguments if "=" not in a} <= TARGETS, words
    elif program == "pip":
        for extra in re.findall(r"\[([\w,-]+)\]", " ".join(arguments)):
            assert set(extra.split(",")) <= set(EXTRAS), words
    elif program == "gcloud":
        inner = re.search(r"&& (?:\.venv/bin/)?(python .*)", words[-1])
        if inner:
            check(inner[1].split())
    else:
        assert program in PROGRAMS_OF_OTHERS, words


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        module = arguments[1].replace(".", "/")
        assert (
            (pages.ROOT / f"{module}.py").exists()
            or (pages.ROOT / module / "__main__.py").exists()
            or module in ("pip", "pytest", "build", "zensical", "venv")
        ), arguments
    elif arguments[0] == "reproduce.py":
        cli._parse(cli.Command("", "", reproduce.define, print, takes_words=True), "x", arguments[1:])
    elif arguments[0].endswith(".py"):
        assert (pages.ROOT / arguments[0]).exists(), arguments
        if "/" not in arguments[0]:
            check_ours(arguments[0].removesuffix(".py").replace("_", "-"), arguments[1:])


def check_ours(name: str, arguments: list[str]) -> None:
    if name not in ("COMMAND", "-h", "--help"):
        assert name in COMMANDS, name
    if name in COMMANDS and not {"--help", "my_parts.py:parts"} & set(arguments):
        cli._parse(COMMANDS[name], f"daad-jax {name}", arguments)

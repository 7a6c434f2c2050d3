"""Writes docs/commands.md from the help texts of all commands: python -m maintenance.commands_page"""

from pathlib import Path

from daad_jax import cli
from daad_jax.commands import COMMANDS

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
HEAD = """# Commands

`daad-jax COMMAND --help` prints the text of this page. `python -m daad_jax COMMAND` does the same. In a copy
of the repository the scripts do, too: `python train.py` is `daad-jax train`.

The same command with the same options continues a stopped run. Exit statuses are in
[reliability.md](reliability.md). [configuration.md](configuration.md) explains every `--config.KEY`.
"""


def render() -> str:
    """The text of the page: one section for each command, with its help text as the terminal shows it."""
    sections = [HEAD]
    for name, command in COMMANDS.items():
        sections.append(f"## {name}\n\n```text\n{cli.help_text(command, f'daad-jax {name}')}\n```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

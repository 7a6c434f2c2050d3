"""Starts every command.

The import of all options takes a quarter of a second, and Ctrl-C would end this import with a traceback. So
signals are held before the import begins.
"""

from daad_jax.held_signals import hold_signals


def main(program: str = "daad-jax") -> None:
    """Runs `daad-jax NAME ...`; see `commands.main`."""
    hold_signals()
    from daad_jax import commands

    commands.main(program)


def run_script(name: str) -> None:
    """Runs a command as a script of the checkout; see `commands.run_script`."""
    hold_signals()
    from daad_jax import commands

    commands.run_script(name)

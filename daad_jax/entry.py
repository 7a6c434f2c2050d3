"""Where every command begins.

To import the options of all commands takes a quarter of a second, and Ctrl-C would end these imports with a
traceback. So signals are held before the imports begin.
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

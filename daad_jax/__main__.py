"""python -m daad_jax COMMAND ...: the same as `daad-jax COMMAND ...`."""

from daad_jax import commands

if __name__ == "__main__":
    commands.main("python -m daad_jax")

"""Lets `python -m daad_jax COMMAND ...` do the same as `daad-jax COMMAND ...`."""

from daad_jax import entry

if __name__ == "__main__":
    entry.main("python -m daad_jax")

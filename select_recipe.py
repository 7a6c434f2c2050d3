"""python select_recipe.py RUN...: which trained run, scored how, finds corruptions of normal images best."""

from pathlib import Path

from daad_jax import cli
from daad_jax.errors import UserError


def main(*runs: str) -> None:
    if not runs:
        raise UserError("give one or more folders that train.py printed")
    from daad_jax.selection.select_recipe import select  # after the flags: bad ones need not wait for JAX

    select([Path(run) for run in runs])


if __name__ == "__main__":
    cli.run(main, positional=True)

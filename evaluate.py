"""python evaluate.py --workdir DIR: figures and scores.csv on the labelled test split."""

from pathlib import Path

from daad_jax import cli
from daad_jax.errors import UserError

WORKDIR = cli.define_workdir("the run to evaluate, as train.py printed it")


def main() -> None:
    if not WORKDIR.value:
        raise UserError("--workdir is missing; give the folder that train.py printed")
    from daad_jax.evaluate import evaluate  # after the flags: bad ones need not wait for JAX

    evaluate(Path(WORKDIR.value))


if __name__ == "__main__":
    cli.run(main)

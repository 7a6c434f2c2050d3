"""python evaluate.py --workdir DIR: figures and scores.csv on the labelled test split."""

from pathlib import Path

from absl import flags

from daad_jax import cli
from daad_jax.errors import UserError

WORKDIR = cli.define_workdir("the run to evaluate, as train.py printed it")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "images a device scores at once", lower_bound=1)


def main() -> None:
    if not WORKDIR.value:
        raise UserError("--workdir is missing; give the folder that train.py printed")
    from daad_jax.evaluation.outputs import evaluate  # after the flags: bad ones need not wait for JAX

    evaluate(Path(WORKDIR.value), BATCH_SIZE.value)


if __name__ == "__main__":
    cli.run(main)

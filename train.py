"""python train.py --config configs/cifar10.py [--workdir DIR] [--config.train.batch_size=256 ...]"""

from pathlib import Path

from absl import flags

from daad_jax import cli
from daad_jax.errors import UserError

CONFIG = cli.define_config()
WORKDIR = cli.define_workdir("where the run lives (default: runs/<config name>)")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "one of several processes, as on a TPU pod")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster says it")
COUNT = flags.DEFINE_integer("num_processes", None, "with --coordinator", lower_bound=1)
INDEX = flags.DEFINE_integer("process_id", None, "with --coordinator: 0 to num_processes - 1", lower_bound=0)


def main() -> None:
    config = cli.checked(CONFIG.value)
    cluster = (COORDINATOR.value, COUNT.value, INDEX.value)
    given = [value is not None for value in cluster]
    if any(given) and not (DISTRIBUTED.value and all(given)):
        raise UserError("--distributed, --coordinator, --num_processes and --process_id go together")
    from daad_jax.runtime import processes  # after the flags: bad ones need not wait for JAX
    from daad_jax.training.loop import train

    if DISTRIBUTED.value:
        processes.start(*cluster)
    train(config, Path(WORKDIR.value or f"runs/{config.name}"))


if __name__ == "__main__":
    cli.run(main, trains=True)

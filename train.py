"""python train.py --config configs/cifar10.py [--workdir DIR] [--config.train.batch_size=256 ...]"""

from pathlib import Path

from absl import flags

from daad_jax import cli

CONFIG = cli.define_config()
WORKDIR = cli.define_workdir("where the run lives (default: runs/<config name>)")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "one of several processes (a TPU pod, or SLURM)")


def main() -> None:
    config = cli.checked(CONFIG.value)
    if DISTRIBUTED.value:
        import jax

        jax.distributed.initialize()
    from daad_jax.train import train  # after the flags: bad ones need not wait for JAX

    train(config, Path(WORKDIR.value or f"runs/{config.name}"))


if __name__ == "__main__":
    cli.run(main)

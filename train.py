"""python train.py --config configs/cifar10.py [--workdir DIR] [--config.train.batch_size=256 ...]"""

from daad_jax import entry

if __name__ == "__main__":
    entry.run_script("train")

"""Images per second of EfficientNet-Lite0's features: ours beside PyTorch's, with the same weights.

    python -m benchmarks.feature_extraction [--rounds 20] [--size 224] [--layer 15] [--cores 2]

Each engine has a process of its own, and the engines take turns. PyTorch runs in both memory formats, and the
faster one counts. The table shows the best call of each engine, because other programs of the machine can
only slow a call down. `--cores 1` compares the engines fairly also where other programs keep the rest busy.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial

from benchmarks.rounds import OURS, add_options, limit_cores, measure, show
from benchmarks.workload import make_images
from daad_jax.runtime import startup

EXTRACTOR = "efficientnet_lite0"
COUNTS = (1, 16)  # images of a call


def _prepare_ours(size: int, layer: int) -> Callable[[int], Callable[[], object]]:
    startup.compile_quickly()
    import jax
    import numpy as np

    from daad_jax.extractors.extractor import find_extractor

    extractor, layers = find_extractor(EXTRACTOR), (layer,)
    params = jax.device_put(extractor.load(layers))
    run = jax.jit(lambda params, images: extractor.apply(params, images, layers))

    def prepare(count: int) -> Callable[[], object]:
        images = jax.device_put(make_images(count, size).astype(np.float32) / 255)
        return lambda: jax.block_until_ready(run(params, images))

    return prepare


def _prepare_torch(size: int, layer: int, channels_last: bool) -> Callable[[int], Callable[[], object]]:
    import numpy as np
    import torch

    from benchmarks.torch_features import TorchFeatures
    from daad_jax.extractors.extractor import find_extractor

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    extractor = find_extractor(EXTRACTOR)
    network = extractor.network
    twin = TorchFeatures(network, extractor.load((layer,)), channels_last)  # type: ignore[arg-type]

    def prepare(count: int) -> Callable[[], object]:
        pixels = make_images(count, size).astype(np.float32).transpose(0, 3, 1, 2) / 255
        images = twin.arrange(torch.from_numpy(np.ascontiguousarray(pixels)))
        return lambda: twin(images)

    return prepare


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--layer", type=int, default=15, help="the last block that is computed")
    chosen = parser.parse_args()
    limit_cores(chosen.cores)
    arguments = (chosen.size, chosen.layer)
    engines = {
        OURS: partial(_prepare_ours, *arguments),
        "torch": partial(_prepare_torch, *arguments, channels_last=False),
        "torch channels_last": partial(_prepare_torch, *arguments, channels_last=True),
    }
    best = measure(engines, COUNTS, chosen.rounds)
    print(
        f"{EXTRACTOR} to block {chosen.layer}, {chosen.size} px, images/s (best of {chosen.rounds} rounds), "
        f"{len(os.sched_getaffinity(0))} cores"
    )
    show(best)


if __name__ == "__main__":
    main()

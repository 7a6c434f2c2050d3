"""Images per second from pixels to score and heat map by memories over features: ours beside PyTorch.

    python -m benchmarks.feature_scoring [--variant daad_features] [--rounds 20] [--size 224] [--cores 2]

Both have the same weights and items, and their results are compared before they are timed. Each engine has a
process of its own, and the engines take turns. PyTorch runs in both memory formats, and the faster one
counts. The table shows the best call of each engine, see `benchmarks/rounds.py`. `--cores 1` compares the
engines fairly also where other programs keep the rest busy.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.rounds import OURS, add_options, limit_cores, measure, show
from daad_jax.config import Config
from daad_jax.runtime import startup
from daad_jax.variants import apply

COUNTS = (1, 16)  # images of a call
VARIANTS = ("daad_features", "patchcore")
MAX_DIFFERENCE = 1e-3  # of R and of the map, relative to the largest value
FITTED_IMAGES = 32


def make_feature_config(variant: str, size: int) -> Config:
    """The configuration of a folder's run, for square images of `size` pixels. Blocks know their place."""
    config = Config()
    config.data.protocol = "inspection"
    apply(config, variant)
    config.data.height = config.data.width = size
    config.model.place_weight = abs(config.model.place_weight)
    return config


def make_smooth_images(count: int, size: int) -> np.ndarray:
    """Waves of random directions and colours, and noise: uint8 `[count, size, size, 3]`."""
    rng = np.random.default_rng(0)
    places = np.arange(size, dtype=np.float32) / size
    y, x = rng.uniform(-40, 40, (2, count, 1, 1, 3)).astype(np.float32)
    waves = np.sin(y * places[None, :, None, None] + x * places[None, None, :, None])
    noise = rng.standard_normal((count, size, size, 3), np.float32)
    return np.clip(128 + 70 * waves + 20 * noise, 0, 255).astype(np.uint8)


def make_frozen(config: Config) -> Any:
    """The frozen part of a state: the real weights, and as many items as the configuration asks for.

    The items are random blocks of made-up images. Where these have too few blocks, noise makes more of them.
    """
    import jax

    from daad_jax.method import features
    from daad_jax.training.fit import measure_scaling

    extractor, layers = features.needed_layers(config.model)
    params = extractor.load(layers)
    images = make_smooth_images(FITTED_IMAGES, config.data.height)
    rng, memories = np.random.default_rng(0), []
    for index, blocks in enumerate(jax.jit(features.make_block_reader(config))(params, images)):
        flat = np.asarray(blocks).reshape(-1, blocks.shape[-1])
        memory: dict[str, Any] = measure_scaling(flat, config.model.feature_scaling)
        if config.model.place_weight:
            memory["place"] = np.float32(config.model.place_weight)
        points = np.asarray(features.scale(blocks, memory))
        points = points.reshape(-1, points.shape[-1])
        items = points[rng.integers(len(points), size=config.model.memory_items[index])]
        noise = 0.3 * points.std(0) * rng.standard_normal(items.shape)
        memory |= {"items": (items + noise).astype(np.float32), "unit": np.float32(1)}
        memories.append(memory)
    return {"extractor": params, "memories": tuple(memories)}


def prepare_ours(config: Config, frozen: Any) -> Callable[[int], Callable[[], Any]]:
    startup.compile_quickly()
    import jax

    from daad_jax.runtime.compilation import options
    from daad_jax.scoring.distances import Variables, make_distances

    variables = jax.device_put(Variables(None, None, frozen))
    run = jax.jit(make_distances(config), compiler_options=options("cpu"))

    def prepare(count: int) -> Callable[[], Any]:
        images = jax.device_put(make_smooth_images(count, config.data.height))
        return lambda: jax.block_until_ready(run(variables, images))

    return prepare


def prepare_torch(config: Config, frozen: Any, channels_last: bool) -> Callable[[int], Callable[[], Any]]:
    import torch

    from benchmarks.torch_memory import TorchMemories

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    twin = TorchMemories(config, frozen, channels_last)

    def prepare(count: int) -> Callable[[], Any]:
        images = torch.from_numpy(make_smooth_images(count, config.data.height))
        return lambda: twin(images)

    return prepare


def compare(config: Config, frozen: Any) -> float:
    """The largest difference of R and of the map, relative to the largest value of each."""
    ours, (r, heat) = prepare_ours(config, frozen)(2)(), prepare_torch(config, frozen, False)(2)()
    pairs = ((r.numpy(), ours.reconstruction), (heat.numpy(), ours.reconstruction_map))
    return max(float(np.abs(a - np.asarray(b)).max() / np.abs(b).max()) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="default: all")
    chosen = parser.parse_args()
    limit_cores(chosen.cores)
    for variant in chosen.variant or VARIANTS:
        config = make_feature_config(variant, chosen.size)
        frozen = make_frozen(config)
        difference = compare(config, frozen)
        print(f"{variant}: results differ by at most {difference:.1e}", flush=True)
        if not difference <= MAX_DIFFERENCE:
            raise SystemExit("the engines do not compute the same, so their times do not compare")
        engines = {
            OURS: partial(prepare_ours, config, frozen),
            "torch": partial(prepare_torch, config, frozen, False),
            "torch channels_last": partial(prepare_torch, config, frozen, True),
        }
        best = measure(engines, COUNTS, chosen.rounds)
        cores = len(os.sched_getaffinity(0))
        print(f"{variant}, {chosen.size} px, images/s (best of {chosen.rounds} rounds), {cores} cores")
        show(best)


if __name__ == "__main__":
    main()

"""Images per second of EfficientNet-Lite0's features: ours beside PyTorch's, with the same weights.

    python -m benchmarks.feature_extraction [--rounds 20] [--size 224] [--layer 15] [--cores 2]

Each engine has a process of its own, and the engines take turns. PyTorch runs in both memory formats, and the
faster one counts. The table shows the best call of each engine, because other programs of the machine can
only slow a call down. `--cores 1` compares the engines fairly also where other programs keep the rest busy.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from benchmarks.workload import make_images
from daad_jax.runtime import startup

EXTRACTOR = "efficientnet_lite0"
OURS, TORCH, TORCH_LAST = ENGINES = ("daad_jax", "torch", "torch channels_last")
COUNTS = (1, 16)  # images of a call
PAUSE_S = 0.2  # before a round: the threads of the engine that ran before stop spinning in this time
ROUND_S = 0.3  # of calls in a round, at least one


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


def _serve(connection: Connection, engine: str, size: int, layer: int) -> None:
    """Runs in the engine's process: answers each number of images with the seconds of one call."""
    prepare = (
        _prepare_ours(size, layer) if engine == OURS else _prepare_torch(size, layer, engine == TORCH_LAST)
    )
    calls = {count: prepare(count) for count in COUNTS}
    for call in calls.values():
        call()
    connection.send(None)
    while count := connection.recv():
        call = calls[count]
        call()  # not timed: the processor's caches held another engine's data until now
        best, start = float("inf"), time.perf_counter()
        while True:
            before = time.perf_counter()
            call()
            after = time.perf_counter()
            best = min(best, after - before)
            if after - start > ROUND_S:
                break
        connection.send(best)


def measure(rounds: int, size: int, layer: int) -> dict[tuple[str, int], float]:
    """The seconds of the fastest call of each engine, for each number of images."""
    context, connections, processes = multiprocessing.get_context("spawn"), {}, []
    for engine in ENGINES:
        connections[engine], child = context.Pipe()
        processes.append(context.Process(target=_serve, args=(child, engine, size, layer), daemon=True))
        if engine == OURS:  # our commands ask for large memory pages
            os.environ["GLIBC_TUNABLES"] = startup.LARGE_PAGES
        processes[-1].start()
        os.environ.pop("GLIBC_TUNABLES", None)
        connections[engine].recv()
    best = {(engine, count): float("inf") for engine in ENGINES for count in COUNTS}
    for _ in range(rounds):
        for engine, count in best:
            time.sleep(PAUSE_S)
            connections[engine].send(count)
            best[engine, count] = min(best[engine, count], connections[engine].recv())
    for connection, process in zip(connections.values(), processes):
        connection.send(0)
        process.join()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=224, help="of the images in pixels")
    parser.add_argument("--cores", type=int, default=0, help="that an engine may use; 0: all")
    parser.add_argument("--layer", type=int, default=15, help="the last block that is computed")
    chosen = parser.parse_args()
    if chosen.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-chosen.cores :])  # the engines inherit it
    best = measure(chosen.rounds, chosen.size, chosen.layer)
    print(
        f"{EXTRACTOR} to block {chosen.layer}, {chosen.size} px, images/s (best of {chosen.rounds} rounds), "
        f"{len(os.sched_getaffinity(0))} cores"
    )
    for count in COUNTS:
        speed = {engine: count / best[engine, count] for engine in ENGINES}
        ratio = speed[OURS] / max(speed[TORCH], speed[TORCH_LAST])
        shown = ", ".join(f"{engine} {value:.1f}" for engine, value in speed.items())
        print(f"{count:2d} images: {shown}; ours is {ratio:.2f} times the faster PyTorch")


if __name__ == "__main__":
    main()

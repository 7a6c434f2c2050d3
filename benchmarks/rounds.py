"""Lets engines take turns, each in its own process, and finds the fastest call of each.

Other programs of the machine can only slow a call down, so the fastest one counts.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection

from daad_jax.runtime import startup

OURS = "daad_jax"
PAUSE_S = 0.2  # before a round: the threads of the engine that ran before stop spinning in this time
ROUND_S = 0.3  # of calls in a round, at least one

# What a process runs to begin with: it returns a function from a number of images to the call that is timed.
Prepare = Callable[[], Callable[[int], Callable[[], object]]]


def _serve(connection: Connection, prepare_engine: Prepare, counts: Sequence[int]) -> None:
    """Runs in the engine's process: answers each number of images with the seconds of one call."""
    prepare = prepare_engine()
    calls = {count: prepare(count) for count in counts}
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


def measure(
    engines: Mapping[str, Prepare], counts: Sequence[int], rounds: int
) -> dict[tuple[str, int], float]:
    """The seconds of the fastest call of each engine, for each number of images.

    Args:
        engines: the engines, by name; the functions must be picklable. `OURS` uses large memory pages, as our
            commands do.
        counts: numbers of images.
        rounds: how often each engine has its turn with each number.
    """
    context, connections, processes = multiprocessing.get_context("spawn"), {}, []
    for engine, prepare in engines.items():
        connections[engine], child = context.Pipe()
        processes.append(context.Process(target=_serve, args=(child, prepare, counts), daemon=True))
        if engine == OURS:
            os.environ["GLIBC_TUNABLES"] = startup.LARGE_PAGES
        processes[-1].start()
        os.environ.pop("GLIBC_TUNABLES", None)
        child.close()
        connections[engine].recv()
    best = {(engine, count): float("inf") for engine in engines for count in counts}
    for _ in range(rounds):
        for engine, count in best:
            time.sleep(PAUSE_S)
            connections[engine].send(count)
            best[engine, count] = min(best[engine, count], connections[engine].recv())
    for connection, process in zip(connections.values(), processes):
        connection.send(0)
        process.join()
    return best


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that all such measurements have."""
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=224, help="of the images in pixels")
    parser.add_argument("--cores", type=int, default=0, help="that an engine may use; 0: all")


def limit_cores(cores: int) -> None:
    """Limits this process, and the engines that it starts, to so many cores; 0: all."""
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def show(best: Mapping[tuple[str, int], float]) -> None:
    """Prints images per second for each number of images, and how ours compares with the fastest other."""
    engines, counts = (list(dict.fromkeys(keys)) for keys in zip(*best))
    for count in counts:
        speed = {engine: count / best[engine, count] for engine in engines}
        ratio = speed[OURS] / max(value for engine, value in speed.items() if engine != OURS)
        shown = ", ".join(f"{engine} {value:.1f}" for engine, value in speed.items())
        print(f"{count:2d} images: {shown}; ours is {ratio:.2f} times the faster PyTorch")

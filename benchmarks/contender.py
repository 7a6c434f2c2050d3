"""One engine in a process of its own, which takes rounds when it is told to.

Its process keeps peak memory, thread pools and compilers of the engines apart; waiting costs nothing.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from daad_jax import pages
from daad_jax.config import Config

PAUSE = 0.3  # seconds, in which the threads of the engine before stop spinning
ENGINES = ("daad_jax", "torch", "torch.compile")
LARGE = "large pages"  # in the name of an engine that has them
Task = Literal["step", "score"]


@dataclass(frozen=True)
class Job:
    """`task` on uint8 images of `shape` = (B, H, W, C).

    Scoring takes `chunk` images at once; 0: as many as ours chooses.
    """

    engine: str
    task: Task
    config: Config
    shape: tuple[int, int, int, int]
    chunk: int
    cache: str  # folder of the engine's compiled programs


class Contender:
    """The parent's end. `ready` is the seconds from the start of the process to the first result."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        start = time.perf_counter()
        self._process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        with _as_started(job):
            self._process.start()
        theirs.close()
        self._connection.recv()
        self.ready = time.perf_counter() - start

    def round(self) -> float:
        """Seconds that one more run of the task takes."""
        time.sleep(PAUSE)
        self._connection.send(True)
        return self._connection.recv()

    def end(self) -> dict[str, float]:
        """Peak memory in bytes and, of a step in PyTorch, the operations of its convolutions and products."""
        self._connection.send(False)
        found = self._connection.recv()
        self._process.join()
        return found


@contextmanager
def _as_started(job: Job) -> Iterator[None]:
    """Our commands ask for large pages by themselves (`daad_jax/pages.py`), PyTorch's user has to."""
    before = os.environ.pop("GLIBC_TUNABLES", None)
    if job.engine == "daad_jax" or LARGE in job.engine:
        os.environ["GLIBC_TUNABLES"] = pages.SETTING
    yield
    os.environ.pop("GLIBC_TUNABLES", None)
    if before is not None:
        os.environ["GLIBC_TUNABLES"] = before


def _serve(connection: Connection, job: Job) -> None:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = job.cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = job.cache
    sys.stderr.flush()
    run, count = (_ours if job.engine == "daad_jax" else _twin)(job)
    run()
    connection.send(None)
    while connection.recv():
        run()  # its memory and the caches were another engine's a moment ago
        start = time.perf_counter()
        run()
        connection.send(time.perf_counter() - start)
    connection.send({"peak": _peak_memory()} | count())


def _peak_memory() -> float:
    """Of this process, in bytes. getrusage would count what its parent had when it started this one."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024.0 * int(line.split()[1])


def _images(job: Job) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, job.shape, np.uint8)


def _ours(job: Job) -> tuple[Callable[[], Any], Callable[[], dict[str, float]]]:
    import jax

    from daad_jax import parallel, state
    from daad_jax.scorer import Scorer, variables_of
    from daad_jax.step import make_train_step

    images, current = _images(job), state.create(job.config)

    def nothing() -> dict[str, float]:
        return {}

    if job.task == "score":
        scorer = Scorer(job.config, job.chunk)
        placed = scorer.place(variables_of(current))
        return lambda: [*scorer.measure(placed, scorer.cut(images))], nothing
    mapped = parallel.choose(1, len(images))
    step = mapped.compile_step(make_train_step(job.config))
    current = mapped.replicate(current)

    def run() -> None:
        nonlocal current
        current, metrics = step(current, mapped.put(images))
        jax.block_until_ready((current, metrics))

    return run, nothing


def _twin(job: Job) -> tuple[Callable[[], Any], Callable[[], dict[str, float]]]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.torch_daad import Twin

    twin, images = Twin(job.config, "torch.compile" in job.engine), torch.from_numpy(_images(job))
    if job.task == "score":
        return lambda: [[x.numpy() for x in twin.score(part)] for part in images.split(job.chunk)], dict

    def run() -> None:
        twin.zero_grad()
        twin.step(images)

    def count() -> dict[str, float]:
        if "torch.compile" in job.engine:
            return {}
        with FlopCounterMode(display=False) as counter:
            run()
        return {"operations": float(counter.get_total_flops())}

    return run, count

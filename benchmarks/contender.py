"""One engine in a process of its own, which takes rounds when it is told to.

Its process keeps peak memory, thread pools and compilers of the engines apart; waiting costs nothing.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from benchmarks.workload import images, timed
from daad_jax import pages
from daad_jax.config import Config

PAUSE = 0.3  # seconds, in which the threads of the engine before stop spinning
ENGINES = ("daad_jax", "torch", "torch.compile")
LARGE = "large pages"  # in the name of an engine that has them
Task = Literal["step", "score"]


@dataclass(frozen=True)
class Job:
    """`task` on `count` images of the configuration's size.

    Scoring takes `chunk` images at once; 0: as many as ours chooses.
    """

    engine: str
    task: Task
    config: Config
    count: int
    chunk: int
    cache: str  # folder of the engine's compiled programs


class Contender:
    """The parent's end. `ready` is the seconds from the start of the process to the first result."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        start = time.perf_counter()
        self._process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        with mock.patch.dict(os.environ):
            os.environ.pop("GLIBC_TUNABLES", None)
            # Our commands ask for large pages by themselves (`daad_jax/pages.py`), PyTorch's user has to.
            if job.engine == "daad_jax" or LARGE in job.engine:
                os.environ["GLIBC_TUNABLES"] = pages.SETTING
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


def _serve(connection: Connection, job: Job) -> None:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = job.cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = job.cache
    run, count = (_ours if job.engine == "daad_jax" else _twin)(job)
    run()
    connection.send(None)
    while connection.recv():
        run()  # its memory and the caches were another engine's a moment ago
        connection.send(timed(run))
    connection.send({"peak": _peak_memory()} | count())


def _peak_memory() -> float:
    """Of this process, in bytes. getrusage would count what its parent had when it started this one."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024.0 * int(line.split()[1])


Prepared = tuple[Callable[[], Any], Callable[[], dict[str, float]]]  # a run, and what to say at the end


def _ours(job: Job) -> Prepared:
    from benchmarks.alone import step_of
    from daad_jax.scorer import Scorer, variables_of
    from daad_jax.state import create

    batch = images(job.count, job.config.data.height)
    if job.task == "step":
        return step_of(job.config, batch), dict
    scorer = Scorer(job.config, job.chunk)
    placed = scorer.place(variables_of(create(job.config)))
    return lambda: [*scorer.measure(placed, scorer.cut(batch))], dict


def _twin(job: Job) -> Prepared:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.torch_daad import Twin

    twin = Twin(job.config, "torch.compile" in job.engine)
    batch = torch.from_numpy(images(job.count, job.config.data.height))
    if job.task == "score":
        return lambda: [[x.numpy() for x in twin.score(part)] for part in batch.split(job.chunk)], dict

    def run() -> None:
        twin.zero_grad()
        twin.step(batch)

    def count() -> dict[str, float]:
        if "torch.compile" in job.engine:
            return {}
        with FlopCounterMode(display=False) as counter:
            run()
        return {"operations": float(counter.get_total_flops())}

    return run, count

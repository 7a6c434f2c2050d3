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
from daad_jax.config import Config
from daad_jax.runtime import startup

PAUSE = 0.3  # seconds, in which the threads of the engine before stop spinning
ENGINES = ("daad_jax", "torch", "torch.compile")
LARGE = "large pages"  # in the name of an engine that has them
Task = Literal["step", "score"]
FLAGS = os.environ.get("XLA_FLAGS", "")  # as the user gave them


@dataclass(frozen=True)
class Job:
    """`task` on `count` images of the configuration's size, on the "cpu" or the "gpu".

    Scoring takes `chunk` images at once; 0: as many as ours chooses. A round does it `times` times, and
    waits for the last: work for a GPU is queued, and so it is in a training loop.
    """

    engine: str
    task: Task
    config: Config
    count: int
    chunk: int
    cache: str  # folder of the engine's compiled programs
    platform: str = "cpu"
    times: int = 1


class Contender:
    """The parent's end. `ready` is the seconds from the start of the process to the first result."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        start = time.perf_counter()
        self._process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        with mock.patch.dict(os.environ):
            os.environ.pop("GLIBC_TUNABLES", None)
            os.environ["XLA_FLAGS"] = FLAGS
            # Our commands turn large pages on themselves (`daad_jax/runtime/startup.py`); for PyTorch the
            # user does.
            if job.engine == "daad_jax" or LARGE in job.engine:
                os.environ["GLIBC_TUNABLES"] = startup.LARGE_PAGES
            self._process.start()
        theirs.close()
        self._connection.recv()
        self.ready = time.perf_counter() - start

    def round(self) -> float:
        """Seconds that the task takes, in one more round."""
        time.sleep(PAUSE)
        self._connection.send(True)
        return self._connection.recv()

    def end(self) -> dict[str, float]:
        """Peak memory in bytes (on a GPU, of its own memory) and, of a step in PyTorch, the operations of its
        convolutions and products."""
        self._connection.send(False)
        found = self._connection.recv()
        self._process.join()
        return found


def _serve(connection: Connection, job: Job) -> None:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = job.cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = job.cache
    run, wait, count = (_ours if job.engine == "daad_jax" else _twin)(job)

    def one_round() -> None:
        for _ in range(job.times):
            run()
        wait()

    run()
    wait()
    connection.send(None)
    while connection.recv():
        run()  # its memory and the caches were another engine's a moment ago
        wait()
        connection.send(timed(one_round) / job.times)
    connection.send(count())


def _peak_memory() -> float:
    """Of this process, in bytes. getrusage would count what its parent had when it started this one."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024.0 * int(line.split()[1])


# Starts a run, waits for all that were started, and what to say at the end.
Prepared = tuple[Callable[[], Any], Callable[[], Any], Callable[[], dict[str, float]]]


def _ours(job: Job) -> Prepared:
    startup.compile_quickly(trains=job.task == "step")  # as our commands do
    startup.trace_quickly()
    import jax

    from benchmarks.alone import step_of
    from daad_jax.method.state import create_state
    from daad_jax.scoring.scorer import Scorer, variables_of

    def count() -> dict[str, float]:
        of_gpu = jax.local_devices()[0].memory_stats() if job.platform == "gpu" else None
        return {"peak": float(of_gpu["peak_bytes_in_use"]) if of_gpu else _peak_memory()}

    batch = images(job.count, job.config.data.height)
    if job.task == "step":
        return *step_of(job.config, batch), count
    scorer = Scorer(job.config, job.chunk)
    placed = scorer.place(variables_of(create_state(job.config)))
    return lambda: [*scorer.distances(placed, scorer.split(batch))], lambda: None, count


def _twin(job: Job) -> Prepared:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.torch_daad import Twin

    on_gpu = job.platform == "gpu"
    device = "cuda" if on_gpu else "cpu"
    if on_gpu:
        torch.set_float32_matmul_precision("high")  # TF32, as XLA takes by itself
    twin = Twin(job.config, "torch.compile" in job.engine, device)
    batch = torch.from_numpy(images(job.count, job.config.data.height))

    def score() -> None:
        for part in batch.split(job.chunk):
            for found in twin.score(part.to(device)):
                found.cpu().numpy()

    def step() -> None:
        twin.zero_grad()
        twin.step(batch.to(device))

    def count() -> dict[str, float]:
        found = {"peak": float(torch.cuda.max_memory_allocated()) if on_gpu else _peak_memory()}
        if job.task == "score" or "torch.compile" in job.engine:
            return found
        with FlopCounterMode(display=False) as counter:
            step()
        return found | {"operations": float(counter.get_total_flops())}

    return score if job.task == "score" else step, torch.cuda.synchronize if on_gpu else lambda: None, count

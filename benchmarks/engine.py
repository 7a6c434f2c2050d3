"""An engine is one implementation (ours or PyTorch's) that runs in its own process.

The separate processes keep peak memory, thread pools and compilers of the engines apart. A process that waits
for its next round costs nothing.
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

from benchmarks.workload import make_images, time_call
from daad_jax.config import Config
from daad_jax.runtime import startup

PAUSE_S = 0.3  # before a round: the threads of the engine that ran before stop spinning in this time
ENGINES = ("daad_jax", "torch", "torch.compile")
LARGE_PAGES = "large pages"  # marks, in an engine's name, that its process has large memory pages
Task = Literal["step", "score"]
USER_XLA_FLAGS = os.environ.get("XLA_FLAGS", "")  # as the user set them, before this process adds its own


@dataclass(frozen=True)
class Job:
    """The work of one engine.

    A round repeats the task `times` times and waits for the last one only: work for a GPU is queued, as it is
    in a training loop.
    """

    engine: str
    task: Task
    config: Config
    count: int  # images of a task
    chunk: int  # images that scoring takes at once; 0: as many as our scorer chooses
    cache: str  # folder of the engine's compiled programs
    platform: str = "cpu"  # or "gpu"
    times: int = 1


class EngineProcess:
    """Starts an engine's process and lets it run rounds.

    `ready` holds the seconds from the start of the process to its first result.
    """

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child_connection = context.Pipe()
        start = time.perf_counter()
        self._process = context.Process(target=_serve, args=(child_connection, job), daemon=True)
        with mock.patch.dict(os.environ):
            os.environ.pop("GLIBC_TUNABLES", None)
            os.environ["XLA_FLAGS"] = USER_XLA_FLAGS
            # Our commands ask for large pages by themselves. A user of PyTorch has to set the variable.
            if job.engine == "daad_jax" or LARGE_PAGES in job.engine:
                os.environ["GLIBC_TUNABLES"] = startup.LARGE_PAGES
            self._process.start()
        child_connection.close()
        self._connection.recv()
        self.ready = time.perf_counter() - start

    def run_round(self) -> float:
        """Runs one more round and returns the seconds of one task."""
        time.sleep(PAUSE_S)
        self._connection.send(True)
        return self._connection.recv()

    def end(self) -> dict[str, float]:
        """Ends the process and returns what it measured of itself.

        Returns:
            `peak`, the peak memory in bytes (on a GPU, of the GPU's memory), and for a step of eager PyTorch
            `operations`, the number of operations of its convolutions and matrix products.
        """
        self._connection.send(False)
        measured = self._connection.recv()
        self._process.join()
        return measured


def _serve(connection: Connection, job: Job) -> None:
    """Prepares the task in the engine's process, and runs rounds until the parent process sends the end."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = job.cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = job.cache
    start_task, wait, measure_end = (_prepare_ours if job.engine == "daad_jax" else _prepare_torch)(job)

    def run_tasks() -> None:
        for _ in range(job.times):
            start_task()
        wait()

    start_task()
    wait()
    connection.send(None)
    while connection.recv():
        # One task is not timed: the processor's caches and the memory held another engine's data until now.
        start_task()
        wait()
        connection.send(time_call(run_tasks) / job.times)
    connection.send(measure_end())


def _peak_memory() -> float:
    """The peak memory of this process in bytes.

    getrusage would include the memory that the parent process had when it started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024.0 * int(line.split()[1])


# Three functions: one starts a task, one waits for all started tasks, one returns the result of `end`.
Prepared = tuple[Callable[[], Any], Callable[[], Any], Callable[[], dict[str, float]]]


def _prepare_ours(job: Job) -> Prepared:
    startup.compile_quickly(trains=job.task == "step")  # as our commands do
    startup.trace_quickly()
    import jax

    from benchmarks.step_costs import prepare_step
    from daad_jax.method.state import create_state
    from daad_jax.scoring.scorer import Scorer, variables_of

    def measure_end() -> dict[str, float]:
        gpu = jax.local_devices()[0].memory_stats() if job.platform == "gpu" else None
        return {"peak": float(gpu["peak_bytes_in_use"]) if gpu else _peak_memory()}

    batch = make_images(job.count, job.config.data.height)
    if job.task == "step":
        return *prepare_step(job.config, batch), measure_end
    scorer = Scorer(job.config, job.chunk)
    placed = scorer.place(variables_of(create_state(job.config)))
    return lambda: [*scorer.distances(placed, scorer.split(batch))], lambda: None, measure_end


def _prepare_torch(job: Job) -> Prepared:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.torch_daad import Twin

    on_gpu = job.platform == "gpu"
    device = "cuda" if on_gpu else "cpu"
    if on_gpu:
        torch.set_float32_matmul_precision("high")  # TF32, XLA's default
    twin = Twin(job.config, "torch.compile" in job.engine, device)
    batch = torch.from_numpy(make_images(job.count, job.config.data.height))

    def score() -> None:
        for part in batch.split(job.chunk):
            for output in twin.score(part.to(device)):
                output.cpu().numpy()

    def step() -> None:
        twin.zero_grad()
        twin.step(batch.to(device))

    def measure_end() -> dict[str, float]:
        measured = {"peak": float(torch.cuda.max_memory_allocated()) if on_gpu else _peak_memory()}
        if job.task == "score" or "torch.compile" in job.engine:
            return measured
        with FlopCounterMode(display=False) as counter:
            step()
        return measured | {"operations": float(counter.get_total_flops())}

    wait = torch.cuda.synchronize if on_gpu else lambda: None
    return score if job.task == "score" else step, wait, measure_end

"""Measures our speed and memory beside PyTorch's, and writes docs/performance.md.

    python -m benchmarks [PIECE ...]

step, memory, score, latency and start compare us with PyTorch; the engines take turns, and medians count.
parts, growth, input and (on a GPU) calls measure our training step alone. The default is all pieces. Without
PyTorch (pip install '.[bench]'), only our engine runs. `python -m benchmarks tpu --help`: what the TPU's
compiler says of our programs. `python -m benchmarks serve --help` loads the server, and `python -m
benchmarks deployments --help` compares exported files in other libraries. `python -m benchmarks untrained
--help` makes a run for images of another size. Results from a GPU are stored beside the processor's.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import step_costs
from benchmarks.engine import ENGINES, LARGE_PAGES, EngineProcess, Job, Task
from benchmarks.workload import make_config, make_images, time_call
from daad_jax import files, variants
from daad_jax.config import Config
from daad_jax.runtime import startup

WIDTH = 64
BATCH_SIZES = {32: 64, 128: 8, 256: 8}  # by image size in pixels
ITEMS = {32: 500, 128: 100, 256: 100}  # of each memory, by image size in pixels
CPU_STEPS = ((False, "float32"), (True, "float32"))  # (DAAD+ instead of DAAD, precision of products)
GPU_STEPS = ((True, "float32"), (True, "bfloat16"))
GPU_STEPS_PER_ROUND = 30
GPU_SCORED_BATCHES = 16  # a GPU scores so many batches of images at once
Record = dict[str, Any]
Rows = Iterator[tuple[str, Record]]  # the name of a row, and the measurements of every engine


class Plan(NamedTuple):
    """The engines, the number of rounds, and the batch size for every image size in pixels."""

    engines: list[str]
    rounds: int
    batch_sizes: dict[int, int]

    def same_chunk(self, chunk: int) -> dict[str, int]:
        """The same `Job.chunk` for every engine."""
        return dict.fromkeys(self.engines, chunk)


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def make_variant(size: int, plus: bool, precision: str = "float32") -> Config:
    """The configuration of DAAD+ or DAAD for an image size."""
    config = make_config(size, WIDTH, ITEMS[size])
    config.train.precision = precision
    variants.apply(config, "daad_plus" if plus else "daad")
    return config


def race(
    task: Task, config: Config, count: int, chunks: Record, rounds: int, times: int = 1
) -> dict[str, Record]:
    """Lets all engines run the same task in turns.

    Args:
        task: see `Job`.
        config: see `Job`.
        count: see `Job`.
        chunks: `Job.chunk` for every engine; its keys name the engines.
        rounds: how many times every engine has its turn.
        times: tasks of a round on a GPU, where one task is too short to be timed.

    Returns:
        For every engine `seconds` (of a task, for every round), `ready` (seconds to the first result) and the
        results of `EngineProcess.end`.
    """
    with tempfile.TemporaryDirectory() as cache:
        platform, times = ("gpu", times) if on_gpu() else ("cpu", 1)
        jobs = [  # the cache folder is a number: the compiler that torch.compile calls splits paths at spaces
            Job(engine, task, config, count, chunk, f"{cache}/{i}", platform, times)
            for i, (engine, chunk) in enumerate(chunks.items())
        ]
        if not on_gpu():
            for job in jobs:
                EngineProcess(job).end()  # fills the cache; compiling here would add to the peak memory
        # The engines start one after the other: on a GPU, XLA times kernels to choose among them.
        engines = {job.engine: EngineProcess(job) for job in jobs}
        seconds: dict[str, list[float]] = {engine: [] for engine in engines}
        for _ in range(rounds):
            for name, engine in engines.items():
                seconds[name].append(engine.run_round())
        return {
            name: {"seconds": seconds[name], "ready": engine.ready} | engine.end()
            for name, engine in engines.items()
        }


def matmul_speed() -> float:
    """Operations per second of a float32 product of two 2048 x 2048 matrices in XLA on this machine."""
    a, product = jnp.ones((2048, 2048)), jax.jit(jnp.matmul)

    def run() -> None:
        product(a, a).block_until_ready()

    run()
    return 2 * 2048**3 / statistics.median(time_call(run) for _ in range(9))


def measure_step(plan: Plan) -> Rows:
    for size, batch in plan.batch_sizes.items():
        for plus, precision in GPU_STEPS if on_gpu() else CPU_STEPS:
            name = f"{size} px, batch {batch}, {'DAAD+' if plus else 'DAAD'}"
            name += f", {precision}" if precision != "float32" else ""
            before = matmul_speed()
            config = make_variant(size, plus, precision)
            row = race("step", config, batch, plan.same_chunk(0), plan.rounds, GPU_STEPS_PER_ROUND)
            row["daad_jax"]["matmul"] = (before + matmul_speed()) / 2
            yield name, row


def measure_memory(plan: Plan) -> Rows:
    for size, batch in plan.batch_sizes.items():
        row = race("step", make_variant(size, True), batch, plan.same_chunk(0), 2)
        yield f"{size} px, batch {batch}, DAAD+", row


def measure_score(plan: Plan) -> Rows:
    for size, batch in plan.batch_sizes.items():
        config, batch = make_variant(size, True), batch * (GPU_SCORED_BATCHES if on_gpu() else 1)
        # Our scorer has one program, for a number of images that it chooses. PyTorch takes the whole batch.
        chunks = plan.same_chunk(batch) | {"daad_jax": 0}
        yield f"{size} px, {batch} images", race("score", config, batch, chunks, plan.rounds)


def measure_latency(plan: Plan) -> Rows:
    for size in plan.batch_sizes:
        row = race("score", make_variant(size, True), 1, plan.same_chunk(1), 20 * plan.rounds)
        yield f"{size} px, one image", row


def measure_start(plan: Plan) -> Rows:
    rows: Record = {kind: {e: {"seconds": []} for e in plan.engines} for kind in ("cold", "again")}
    for _ in range(plan.rounds):
        for engine in plan.engines:
            with tempfile.TemporaryDirectory() as cache:
                for row in rows.values():  # the first start fills the cache, the second one uses it
                    job = Job(engine, "step", make_variant(32, True), BATCH_SIZES[32], 0, cache)
                    process = EngineProcess(job)
                    process.end()
                    row[engine]["seconds"].append(process.ready)
        yield from rows.items()  # with the rounds so far


def measure_parts(plan: Plan) -> Rows:
    for size, batch in ((32, BATCH_SIZES[32]), (128, BATCH_SIZES[128])):
        rows = step_costs.measure_parts(make_variant(size, True), make_images(batch, size), plan.rounds)
        for name, row in rows.items():
            yield f"{size} px, batch {batch}: {name}", row


def measure_growth(plan: Plan) -> Rows:
    yield from step_costs.measure_growth(plan.rounds).items()


def measure_calls(plan: Plan) -> Rows:
    yield from step_costs.measure_steps_per_call(plan.rounds).items()


def measure_input(plan: Plan) -> Rows:
    yield from step_costs.measure_input_wait(10 * plan.rounds).items()


PIECES: dict[str, Callable[[Plan], Rows]] = {
    "step": measure_step, "memory": measure_memory, "score": measure_score,
    "latency": measure_latency, "start": measure_start,
    "parts": measure_parts, "growth": measure_growth, "calls": measure_calls,
    "input": measure_input,
}  # fmt: skip


def measure(pieces: list[str], plan: Plan, docs: Path) -> None:
    """Measures the pieces and stores every row at once, so that an interrupted run keeps its finished rows.

    Args:
        pieces: keys of `PIECES`.
        plan: what to measure.
        docs: the folder of performance.json, which is completed, and of the page, which is written again.
    """
    # Imported here, since the engines' processes import this file and do not need matplotlib.
    from benchmarks import performance_page

    docs.mkdir(parents=True, exist_ok=True)
    stored = docs / "performance.json"
    records = json.loads(stored.read_text()) if stored.is_file() else {}
    platform_records = records.setdefault(performance_page.group(), {})
    for piece in pieces:
        print(f"{piece}:", flush=True)
        # Rows of another machine or of other versions are dropped.
        if platform_records.get(piece, {}).get("versions") != (versions := performance_page.versions()):
            platform_records[piece] = {"versions": versions}
        for name, row in PIECES[piece](plan):
            print(f"  {name}: {performance_page.summary(piece, row)}", flush=True)
            # Rows of other engines are dropped, too.
            kept = {
                other_name: other
                for other_name, other in platform_records[piece].items()
                if other_name == "versions" or other.keys() == row.keys()
            }
            platform_records[piece] = kept | {name: row}
            files.write_text(stored, json.dumps(records, indent=1))
            performance_page.write(records, docs)


def main() -> None:
    if sys.argv[1:2] == ["tpu"]:
        from benchmarks import tpu_compiler

        return tpu_compiler.main(sys.argv[2:])
    if sys.argv[1:2] in (["serve"], ["deployments"], ["untrained"]):
        startup.restart_with_large_pages("benchmarks")
        startup.compile_quickly()
        from benchmarks import deployments, resized_run, serving_load

        commands = {"serve": serving_load, "deployments": deployments, "untrained": resized_run}
        return commands[sys.argv[1]].main(sys.argv[2:])
    startup.compile_quickly(trains=True)  # for this process; the engines set their own flags
    startup.restart_with_large_pages("benchmarks")
    # This process (which measures matrix products) and the engines share a GPU's memory. Without these
    # settings, XLA would try kernels with all memory that is free, and would keep it.
    os.environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3"}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(PIECES)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"one of {names}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every engine; default: %(default)s")
    parser.add_argument(
        "--sizes", type=int, nargs="+", choices=BATCH_SIZES, default=[*BATCH_SIZES],
        help="image sizes in pixels of step, memory, score and latency; default: all",
    )  # fmt: skip
    parser.add_argument(
        "--docs", type=Path, default=Path("docs"), help="folder for the results; default: %(default)s"
    )
    parser.add_argument(
        "--large_pages", action="store_true", help="give large memory pages to PyTorch, too (GLIBC_TUNABLES)"
    )
    arguments = parser.parse_args()
    for piece in arguments.pieces:
        if piece not in PIECES:
            parser.error(f"unknown piece {piece!r}; the pieces are {names}")
    with_torch = importlib.util.find_spec("torch") is not None
    if not with_torch:
        print(
            "PyTorch is not installed (pip install '.[bench]'): only our engine is measured", file=sys.stderr
        )
    engines = [e for e in ENGINES if with_torch or e == "daad_jax"]
    if arguments.large_pages:
        engines = [e if e == "daad_jax" else f"{e}, {LARGE_PAGES}" for e in engines]
    plan = Plan(engines, arguments.rounds, {size: BATCH_SIZES[size] for size in arguments.sizes})
    default_pieces = [piece for piece in PIECES if on_gpu() or piece != "calls"]
    measure(arguments.pieces or default_pieces, plan, arguments.docs)
    print(f"wrote {arguments.docs / 'performance.md'}")


if __name__ == "__main__":
    main()

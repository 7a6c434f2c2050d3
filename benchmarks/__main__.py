"""python -m benchmarks [PIECE...]: ours beside PyTorch, and docs/performance.md from what was measured.

Pieces are step, memory, score, latency, start, and of ours alone parts, growth, input and, on a GPU, calls
(default: all). Engines take turns; medians count. Without PyTorch (requirements-bench.txt) ours runs alone.
On a GPU the figures are that GPU's, and stand beside the processor's.
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

from benchmarks import alone
from benchmarks.contender import ENGINES, LARGE, Contender, Job, Task
from benchmarks.workload import configuration, images, timed
from daad_jax import files, variants
from daad_jax.config import Config
from daad_jax.runtime import startup

WIDTH = 64
SIZES = {32: 64, 128: 8, 256: 8}  # pixels: images of a batch
ITEMS = {32: 500, 128: 100, 256: 100}
CPU_STEPS = ((False, "float32"), (True, "float32"))  # DAAD or DAAD+, and the precision of products
GPU_STEPS = ((True, "float32"), (True, "bfloat16"))
GPU_TIMES = 30  # steps of a round
GPU_IMAGES = 16  # times as many are scored
Record = dict[str, Any]
Rows = Iterator[tuple[str, Record]]  # a name, and what was measured of every engine


class Plan(NamedTuple):
    """What to measure: `sizes` are those of `SIZES` that were asked for."""

    engines: list[str]
    rounds: int
    sizes: dict[int, int]

    def chunks(self, chunk: int) -> dict[str, int]:
        return dict.fromkeys(self.engines, chunk)


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def config_of(size: int, plus: bool, precision: str = "float32") -> Config:
    config = configuration(size, WIDTH, ITEMS[size])
    config.train.precision = precision
    variants.apply(config, "daad_plus" if plus else "daad")
    return config


def race(
    task: Task, config: Config, count: int, chunks: Record, rounds: int, times: int = 1
) -> dict[str, Record]:
    """Seconds of every round, peak bytes and seconds to the first result of every engine, side by side.

    On a GPU a round does the task `times` times, since one is over before it can be timed.
    """
    with tempfile.TemporaryDirectory() as cache:
        platform, times = ("gpu", times) if on_gpu() else ("cpu", 1)
        jobs = [  # a folder without spaces: the compiler that torch.compile calls splits its name there
            Job(engine, task, config, count, chunk, f"{cache}/{i}", platform, times)
            for i, (engine, chunk) in enumerate(chunks.items())
        ]
        if not on_gpu():
            for job in jobs:
                Contender(job).end()  # compiles, which takes memory of its own
        # One gets ready after the other: on a GPU, XLA chooses its kernels by what they take there.
        engines = {job.engine: Contender(job) for job in jobs}
        seconds: dict[str, list[float]] = {engine: [] for engine in engines}
        for _ in range(rounds):
            for name, engine in engines.items():
                seconds[name].append(engine.round())
        return {
            name: {"seconds": seconds[name], "ready": engine.ready} | engine.end()
            for name, engine in engines.items()
        }


def matmul_speed() -> float:
    """Operations a second of a float32 product of 2048^3 in this machine's XLA."""
    a, product = jnp.ones((2048, 2048)), jax.jit(jnp.matmul)

    def run() -> None:
        product(a, a).block_until_ready()

    run()
    return 2 * 2048**3 / statistics.median(timed(run) for _ in range(9))


def measure_step(plan: Plan) -> Rows:
    for size, batch in plan.sizes.items():
        for plus, precision in GPU_STEPS if on_gpu() else CPU_STEPS:
            name = f"{size} px, batch {batch}, {'DAAD+' if plus else 'DAAD'}"
            name += f", {precision}" if precision != "float32" else ""
            before = matmul_speed()
            found = race(
                "step", config_of(size, plus, precision), batch, plan.chunks(0), plan.rounds, GPU_TIMES
            )
            found["daad_jax"]["matmul"] = (before + matmul_speed()) / 2
            yield name, found


def measure_memory(plan: Plan) -> Rows:
    for size, batch in plan.sizes.items():
        found = race("step", config_of(size, True), batch, plan.chunks(0), 2)
        yield f"{size} px, batch {batch}, DAAD+", found


def measure_score(plan: Plan) -> Rows:
    for size, batch in plan.sizes.items():
        config, batch = config_of(size, True), batch * (GPU_IMAGES if on_gpu() else 1)
        # Ours has one program, for as many images as it chooses; PyTorch takes the batch as it is.
        chunks = plan.chunks(batch) | {"daad_jax": 0}
        yield f"{size} px, {batch} images", race("score", config, batch, chunks, plan.rounds)


def measure_latency(plan: Plan) -> Rows:
    for size in plan.sizes:
        found = race("score", config_of(size, True), 1, plan.chunks(1), 20 * plan.rounds)
        yield f"{size} px, one image", found


def measure_start(plan: Plan) -> Rows:
    found: Record = {kind: {e: {"seconds": []} for e in plan.engines} for kind in ("cold", "again")}
    for _ in range(plan.rounds):
        for engine in plan.engines:
            with tempfile.TemporaryDirectory() as cache:
                for row in found.values():
                    contender = Contender(Job(engine, "step", config_of(32, True), SIZES[32], 0, cache))
                    contender.end()
                    row[engine]["seconds"].append(contender.ready)
        yield from found.items()  # of the rounds so far


def measure_parts(plan: Plan) -> Rows:
    for size, batch in ((32, SIZES[32]), (128, SIZES[128])):
        measured = alone.parts(config_of(size, True), images(batch, size), plan.rounds)
        for name, row in measured.items():
            yield f"{size} px, batch {batch}: {name}", row


def measure_growth(plan: Plan) -> Rows:
    yield from alone.growth(plan.rounds).items()


def measure_calls(plan: Plan) -> Rows:
    yield from alone.calls(plan.rounds).items()


def measure_input(plan: Plan) -> Rows:
    yield from alone.input_wait(10 * plan.rounds).items()


PIECES: dict[str, Callable[[Plan], Rows]] = {
    "step": measure_step, "memory": measure_memory, "score": measure_score,
    "latency": measure_latency, "start": measure_start,
    "parts": measure_parts, "growth": measure_growth, "calls": measure_calls,
    "input": measure_input,
}  # fmt: skip


def measure(pieces: list[str], plan: Plan, docs: Path) -> None:
    """Every row is in `docs` as soon as it is measured, so that what ends a run leaves what came before."""
    from benchmarks import (
        performance_page as page,  # draws; the engines' processes import this file and need none of it
    )

    docs.mkdir(parents=True, exist_ok=True)
    stored = docs / "performance.json"
    records = json.loads(stored.read_text()) if stored.is_file() else {}
    here = records.setdefault("gpu" if on_gpu() else "cpu", {})
    for piece in pieces:
        print(f"{piece}:", flush=True)
        if here.get(piece, {}).get("versions") != (about := page.versions()):
            here[piece] = {"versions": about}
        for name, row in PIECES[piece](plan):
            print(f"  {name}: {page.summary(piece, row)}", flush=True)
            # Rows of another machine do not stand beside this one's, nor do those of other engines.
            kept = {n: r for n, r in here[piece].items() if n == "versions" or r.keys() == row.keys()}
            here[piece] = kept | {name: row}
            files.write_text(stored, json.dumps(records, indent=1))
            page.write(records, docs)


def main() -> None:
    startup.compile_quickly(trains=True)  # this process's; engines have their own
    startup.restart_with_large_pages("benchmarks")
    # A GPU's memory is everybody's: this process's, which measures products, and the engines'. XLA would
    # otherwise try kernels with all the scratch memory there is, and keep it.
    os.environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3"}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"of {', '.join(PIECES)}; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=[*SIZES], help="of a race, px")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--large_pages", action="store_true", help="for PyTorch too (GLIBC_TUNABLES)")
    chosen = parser.parse_args()
    for piece in chosen.pieces:
        if piece not in PIECES:
            parser.error(f"unknown piece {piece!r}; give some of {', '.join(PIECES)}")
    with_torch = importlib.util.find_spec("torch") is not None
    if not with_torch:
        print("PyTorch is not installed (requirements-bench.txt): ours runs alone", file=sys.stderr)
    engines = [e for e in ENGINES if with_torch or e == "daad_jax"]
    if chosen.large_pages:
        engines = [e if e == "daad_jax" else f"{e}, {LARGE}" for e in engines]
    plan = Plan(engines, chosen.rounds, {size: SIZES[size] for size in chosen.sizes})
    measure(chosen.pieces or [p for p in PIECES if on_gpu() or p != "calls"], plan, chosen.docs)
    print(f"wrote {chosen.docs / 'performance.md'}")


if __name__ == "__main__":
    main()

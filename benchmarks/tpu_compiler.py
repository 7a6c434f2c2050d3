"""Compiles our programs with the TPU's own compiler, on any machine, and says what bounds them.

    python -m benchmarks tpu [--recipes cifar10 folder] [--only scoring] [--chips v5e v4] [--docs docs]

No TPU takes part: libtpu (pip install '.[tpu-check]') describes the chips and compiles for them. The programs
are made by the code that a TPU VM runs. Compiling takes up to some minutes a program. A row is stored as soon
as it is measured.
"""

import argparse
import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks.compiled_text import estimated_cycles, main_memory_bytes
from benchmarks.tpu_section import CHIPS, bound_of, memory_share
from daad_jax import files
from daad_jax.config import Config
from daad_jax.method.state import abstract_state
from daad_jax.method.step import make_train_step, scan_steps
from daad_jax.recipes import load_recipe
from daad_jax.runtime.devices import AXIS, DeviceGroup
from daad_jax.runtime.startup import TPU_KERNEL_LIMIT
from daad_jax.scoring.distances import make_distances
from daad_jax.scoring.scorer import images_at_once, variables_of

Record = dict[str, Any]


# By name: the recipe, and the images of a training step on each chip.
RECIPES = {
    "mnist": ("mnist", 128),
    "cifar10": ("cifar10", 128),
    "folder": ("folder:images,daad_plus", 16),
    "mvtec_ad": ("mvtec_ad:bottle", 16),
    "solar_cells": ("solar_cells:mono", 16),
}
PRECISIONS = ("float32", "bfloat16")
STEPS_PER_CALL = 10
FULL_PRECISION_PASSES = 6  # of lax.Precision.HIGHEST
COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("
)


@dataclass(frozen=True)
class Program:
    """A program to compile: `lower` gives the lowered program; `images` is how many a chip works on.

    `passes` is in how many products of bfloat16 the chip computes a product of the program. The compiler's
    count of operations leaves the passes out (findings/tpu_compiler_counts_one_pass.sh). `options` are those
    that the compiler gets from the command that runs the program.
    """

    name: str
    images: int
    lower: Callable[[], Any]
    passes: int = 1
    options: dict[str, str] | None = None


def make_programs(config: Config, per_chip: int, chip: str, devices: list[Any]) -> Iterator[Program]:
    """The programs of a run on a TPU VM.

    Args:
        config: the configuration of the run; its batch size is replaced.
        per_chip: images of a training step on each chip.
        chip: its name, for the titles.
        devices: the chips that train together.
    """
    shape = (config.data.height, config.data.width, config.data.channels)
    abstract = abstract_state(config)
    options = dict([TPU_KERNEL_LIMIT])
    for count in (1, len(devices)):
        group = DeviceGroup(devices[:count])
        step = make_train_step(config, AXIS if count > 1 else None)
        precision = config.train.precision
        title = f"step, {precision}, {count} x {chip}, {per_chip * count} images"
        lower = partial(_lower_step, group, step, abstract, (per_chip, *shape))
        yield Program(title, per_chip, lower, options=options)
        if count > 1 and precision == "bfloat16":
            title = f"{STEPS_PER_CALL} steps a call, {precision}, {count} x {chip}, {per_chip * count} images"
            several = (STEPS_PER_CALL, per_chip, *shape)
            lower = partial(_lower_step, group, scan_steps(step), abstract, several)
            yield Program(title, STEPS_PER_CALL * per_chip, lower, options=options)
    if config.train.precision == "float32":
        at_once = images_at_once(config.data.height * config.data.width, "tpu")
        lower = partial(_lower_scoring, config, abstract, (at_once, *shape), devices[0])
        passes = FULL_PRECISION_PASSES if config.score.precision == "float32" else 1
        yield Program(f"scoring, 1 x {chip}, {at_once} images", at_once, lower, passes)


def _lower_step(group: DeviceGroup, step: Any, abstract: Any, batch: tuple[int, ...]) -> Any:
    """The training step, as `DeviceGroup.compile_ahead` lowers it."""
    count = len(group.devices)
    place = _on(group.devices[0]) if count == 1 else partial(_repeated, count)
    state = jax.tree.map(place, abstract)
    with mock.patch.object(DeviceGroup, "is_parallel", count > 1):
        compiled = group.compile_step(step)
    return compiled.lower(state, place(jax.ShapeDtypeStruct(batch, np.uint8)))


def _lower_scoring(config: Config, abstract: Any, batch: tuple[int, ...], device: Any) -> Any:
    variables = jax.tree.map(_on(device), jax.eval_shape(variables_of, abstract))
    images = _on(device)(jax.ShapeDtypeStruct(batch, np.uint8))
    return jax.jit(make_distances(config)).lower(variables, images)


def _on(device: Any) -> Callable[[Any], Any]:
    sharding = jax.sharding.SingleDeviceSharding(device)
    return lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _repeated(count: int, x: Any) -> Any:
    return jax.ShapeDtypeStruct((count, *x.shape), x.dtype)


def compile_program(program: Program, chip_name: str) -> Record:
    """Compiles a program and reads the compiler's own account of it.

    Returns:
        `compile_s`, and `compile_core_s` of all cores; of one chip and one call: `flop`, `bytes`,
        `main_memory_bytes`, `bytes_per_image`, `arguments`, `temporary` and `updated_in_place` (bytes of
        memory), `collectives`; and the milliseconds that the products and the bytes take at least,
        `products_ms` and `bytes_ms`; `estimated_ms`, the compiler's estimate; and `chip`, the name.
    """
    chip = CHIPS[chip_name]
    with mock.patch.object(jax, "default_backend", return_value="tpu"):
        lowered = program.lower()
    start, start_of_cores = time.perf_counter(), time.process_time()
    compiled = lowered.compile(program.options)
    seconds, core_seconds = time.perf_counter() - start, time.process_time() - start_of_cores
    text = compiled.as_text()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    flop, accessed = float(cost["flops"]), float(cost["bytes accessed"])
    return {
        "chip": chip_name,
        "compile_s": round(seconds, 1),
        "compile_core_s": round(core_seconds, 1),
        "flop": flop,
        "bytes": accessed,
        "main_memory_bytes": main_memory_bytes(text),
        "bytes_per_image": accessed / program.images,
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "updated_in_place": memory.alias_size_in_bytes,
        "collectives": len(COLLECTIVE.findall(text)),
        "products_ms": 1e3 * program.passes * flop / chip.products,
        "bytes_ms": 1e3 * accessed / chip.bandwidth,
        "estimated_ms": 1e3 * estimated_cycles(text) / chip.clock,
    }


def describe(row: Record) -> str:
    """A row in one line."""
    return (
        f"compiled in {row['compile_s']:.0f} s ({row['compile_core_s']:.0f} s of cores); "
        f"estimated {row['estimated_ms']:.2f} ms; {row['main_memory_bytes'] / 1e9:.2f} GB of main memory; "
        f"{row['flop'] / 1e9:.1f} GFLOP {row['products_ms']:.2f} ms, "
        f"{row['bytes'] / 1e9:.2f} GB {row['bytes_ms']:.2f} ms (bound by {bound_of(row)}), "
        f"{row['bytes_per_image'] / 1e6:.2f} MB an image, {memory_share(row):.1%} of the memory, "
        f"{row['collectives']} collectives"
    )


def measure(names: list[str], only: str, chips: list[str], precisions: list[str], docs: Path) -> None:
    """Compiles programs, prints a line for each, and stores each row in performance.json.

    Args:
        names: keys of `RECIPES`.
        only: a word that the names of the programs must have; "" for all.
        chips: keys of `CHIPS`.
        precisions: values of `train.precision`.
        docs: the folder of performance.json and of the page, which is written again.
    """
    from jax.experimental import topologies

    from benchmarks import performance_page

    versions = performance_page.versions() | {"libtpu": _libtpu_version()}
    stored = docs / "performance.json"
    for chip_name in chips:
        topology = CHIPS[chip_name].topology
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        for name in names:
            recipe, per_chip = RECIPES[name]
            for precision in precisions:
                config = load_recipe(recipe)
                config.train.precision = precision
                for program in make_programs(config, per_chip, chip_name, list(devices)):
                    if only not in program.name:
                        continue
                    row = compile_program(program, chip_name)
                    print(f"{name}, {program.name}: {describe(row)}", flush=True)
                    records = json.loads(stored.read_text()) if stored.is_file() else {}
                    rows = records.setdefault("tpu", {})
                    rows[f"{name}, {program.name}"] = row | {"versions": versions}
                    files.write_text(stored, json.dumps(records, indent=1))
                    performance_page.write(records, docs)


def _libtpu_version() -> str:
    import importlib.metadata

    return importlib.metadata.version("libtpu")


@contextlib.contextmanager
def quiet_libtpu() -> Iterator[None]:
    """Tells libtpu that no TPU is there; else the library asks the network for one, and complains."""
    before = dict(os.environ)
    os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost",
                   "TPU_WORKER_ID": "0", "TPU_SKIP_MDS_QUERY": "1", "TPU_MIN_LOG_LEVEL": "3"}  # fmt: skip
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=[*RECIPES], help="default: all")
    parser.add_argument("--only", default="", help="a word in the programs' names, for instance scoring")
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=["v5e"], help="default: v5e")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=[*PRECISIONS], help="default: both"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder for the results")
    given = parser.parse_args(arguments)
    with quiet_libtpu():
        measure(given.recipes, given.only, given.chips, given.precisions, given.docs)

"""Our step alone: what its parts cost, how long it waits for input, and what it grows with."""

import copy
import functools
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
import numpy as np

from benchmarks.workload import configuration, images, timed
from daad_jax.config import Config
from daad_jax.data.samples import Split
from daad_jax.method.restoration import to_unit
from daad_jax.method.state import abstract_state, build_generator, create_state, init_state
from daad_jax.method.step import make_train_step, scan_steps
from daad_jax.runtime import compilation
from daad_jax.runtime import devices as parallel
from daad_jax.training.feed import device_batches
from daad_jax.variants import apply

Record = dict[str, Any]
Call = Callable[[], None]
STEPS_PER_CALL = (1, 5, 20)


def step_of(config: Config, batch: np.ndarray, devices: int = 1) -> tuple[Call, Call]:
    """What starts one call (of `train.steps_per_call` steps), and what waits for all that were started."""
    mapped, at_once = parallel.choose(devices, len(batch)), config.train.steps_per_call
    expected = abstract_state(config)
    put: Callable[[np.ndarray], jax.Array] = mapped.put
    step, what = make_train_step(config, mapped.axis_name), batch
    if at_once > 1:
        put = functools.partial(mapped.put, batch_axis=1)
        step, what = scan_steps(step), np.stack([batch] * at_once)
    compiled = mapped.compile_ahead(step, expected, put(what))
    last = mapped.replicate(init_state(expected, config.seed)), None

    def start() -> None:
        nonlocal last
        last = compiled(last[0], put(what))

    return start, lambda: jax.block_until_ready(last)


def whole_step_of(config: Config, batch: np.ndarray, devices: int = 1) -> Call:
    """A function that takes one call of `step_of` and waits for it; its first call compiles."""
    start, wait = step_of(config, batch, devices)

    def run() -> None:
        start()
        wait()

    return run


def forward_of(config: Config, batch: np.ndarray) -> Call:
    """The generator's pass in training mode, without a gradient."""
    generator, state = build_generator(config), create_state(config).generator

    def reconstruct(variables: Any, batch: Any) -> Any:
        return generator.apply(variables, to_unit(batch), train=True, mutable=["batch_stats"])

    compiled = jax.jit(reconstruct, compiler_options=compilation.options(jax.default_backend()))
    variables = jax.device_put(state.variables)

    def run() -> None:
        jax.block_until_ready(compiled(variables, batch))

    return run


def alternating(runs: dict[str, Call], rounds: int) -> Record:
    for run in runs.values():
        run()  # all are compiled before any is timed
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            seconds[name].append(timed(run))
    return {name: {"daad_jax": {"seconds": values}} for name, values in seconds.items()}


def parts(config: Config, batch: np.ndarray, rounds: int) -> Record:
    """Seconds of the whole step (DAAD+) and of what is left of it without one part after the other."""
    runs = {"DAAD+, whole step": whole_step_of(config, batch)}
    for name, variant in (("no discriminator (DAAD)", "daad"), ("nor memories (AE+Skip)", "ae_skip")):
        simpler = copy.deepcopy(config)
        apply(simpler, variant)
        runs[name] = whole_step_of(simpler, batch)
    runs["the generator forward, with memories"] = forward_of(config, batch)
    return alternating(runs, rounds)


def growth(rounds: int) -> Record:
    """Seconds of a step (32 px, 16 images, width 32, 100 items, 1 device), one of these changed at a time."""

    @functools.cache  # what nothing is changed of stands in every group
    def step(size: int, width: int, items: int, devices: int) -> Call:
        return whole_step_of(configuration(size, width, items), images(16, size), devices)

    runs = {f"{size} px": step(size, 32, 100, 1) for size in (32, 64, 128)}
    runs |= {f"width {width}": step(32, width, 100, 1) for width in (16, 32, 64)}
    runs |= {f"{items} items": step(32, 32, items, 1) for items in (20, 100, 500, 2000)}
    most = jax.local_device_count()
    runs |= {f"{devices} devices": step(32, 32, 100, devices) for devices in (2, 4, 8) if devices <= most}
    return alternating(runs, rounds)


def calls(rounds: int) -> Record:
    """Seconds of a step of a small model (32 px, 64 images, width 16, 100 items), by steps a call."""
    most, found = max(STEPS_PER_CALL), {}
    config, batch = configuration(32, 16, 100), images(64, 32)
    runs: dict[str, Call] = {}
    for count in STEPS_PER_CALL:
        config.train.steps_per_call = count
        start, wait = step_of(config, batch)

        def run(start: Call = start, wait: Call = wait, count: int = count) -> None:
            for _ in range(most // count):
                start()
            wait()

        runs[f"{count} step{'s' * (count > 1)} a call"] = run
    for name, row in alternating(runs, rounds).items():
        found[name] = {"daad_jax": {"seconds": [s / most for s in row["daad_jax"]["seconds"]]}}
    return found


def input_wait(steps: int) -> Record:
    """Share of a run that the step waits for its batch, by the number of images in the data set."""

    config = configuration(32, 32, 100)
    config.data.flip_horizontal, config.data.shift = True, 2
    found: Record = {}
    for count in (1_000, 10_000, 100_000):
        split = Split(images(count, 32), np.zeros(count, np.int32), [], [])
        mapped = parallel.choose(1, 64)
        step = mapped.compile_step(make_train_step(config))
        state = mapped.replicate(create_state(config))
        waits: list[float] = []
        start = 0.0
        with closing(device_batches(config, mapped, split, 0)) as batches:  # type: ignore[type-var]
            for i in range(steps + 2):
                asked = time.perf_counter()
                batch = next(batches)
                if i == 2:  # compiled and warm
                    start = asked
                if i >= 2:
                    waits.append(time.perf_counter() - asked)
                state, metrics = step(state, batch)
                jax.block_until_ready(metrics)
        total = time.perf_counter() - start
        found[f"{count} images"] = {"daad_jax": {"seconds": [total / steps], "wait": sum(waits) / total}}
    return found

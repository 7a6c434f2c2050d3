"""Our training step alone: the cost of its parts, its growth, and how long it waits for input."""

import copy
import functools
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
import numpy as np

from benchmarks.workload import make_config, make_images, time_call
from daad_jax.config import Config
from daad_jax.data.samples import Split
from daad_jax.method.restoration import to_unit
from daad_jax.method.state import abstract_state, build_generator, create_state, init_state
from daad_jax.method.step import make_train_step, scan_steps
from daad_jax.runtime import compilation
from daad_jax.runtime import devices as device_groups
from daad_jax.variants import apply

Record = dict[str, Any]
Call = Callable[[], None]
STEPS_PER_CALL = (1, 5, 20)


def prepare_step(config: Config, batch: np.ndarray, devices: int = 1) -> tuple[Call, Call]:
    """Compiles a training step.

    Returns:
        A function that starts one call (of `train.steps_per_call` steps) on the batch, and a function that
        waits for all started calls.
    """
    mapped, steps_per_call = device_groups.choose(devices, len(batch)), config.train.steps_per_call
    abstract = abstract_state(config)
    put: Callable[[np.ndarray], jax.Array] = mapped.put
    step, inputs = make_train_step(config, mapped.axis_name), batch
    if steps_per_call > 1:
        put = functools.partial(mapped.put, batch_axis=1)
        step, inputs = scan_steps(step), np.stack([batch] * steps_per_call)
    compiled = mapped.compile_ahead(step, abstract, put(inputs))
    result = mapped.replicate(init_state(abstract, config.seed)), None

    def start() -> None:
        nonlocal result
        result = compiled(result[0], put(inputs))

    return start, lambda: jax.block_until_ready(result)


def prepare_whole_step(config: Config, batch: np.ndarray, devices: int = 1) -> Call:
    """A function that starts one call of `prepare_step` and waits for it. Its first call compiles."""
    start, wait = prepare_step(config, batch, devices)

    def run() -> None:
        start()
        wait()

    return run


def prepare_forward(config: Config, batch: np.ndarray) -> Call:
    """A function that runs the generator's forward pass in training mode, without a gradient."""
    generator, state = build_generator(config), create_state(config).generator

    def reconstruct(variables: Any, batch: Any) -> Any:
        return generator.apply(variables, to_unit(batch), train=True, mutable=["batch_stats"])

    assert state is not None
    compiled = jax.jit(reconstruct, compiler_options=compilation.options(jax.default_backend()))
    variables = jax.device_put(state.variables)

    def run() -> None:
        jax.block_until_ready(compiled(variables, batch))

    return run


def time_alternately(runs: dict[str, Call], rounds: int) -> Record:
    """The seconds of every run in every round. The runs take turns."""
    for run in runs.values():
        run()  # all runs are compiled before any is timed
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            seconds[name].append(time_call(run))
    return {name: {"daad_jax": {"seconds": values}} for name, values in seconds.items()}


def measure_parts(config: Config, batch: np.ndarray, rounds: int) -> Record:
    """The seconds of the whole DAAD+ step, and of steps from which one part after another is removed."""
    runs = {"DAAD+, whole step": prepare_whole_step(config, batch)}
    for name, variant in (("no discriminator (DAAD)", "daad"), ("nor memories (AE+Skip)", "ae_skip")):
        simpler = copy.deepcopy(config)
        apply(simpler, variant)
        runs[name] = prepare_whole_step(simpler, batch)
    runs["the generator forward, with memories"] = prepare_forward(config, batch)
    return time_alternately(runs, rounds)


def measure_growth(rounds: int) -> Record:
    """The seconds of a step whose size, width, items or devices differ from a base case, one at a time.

    The base case has 16 images of 32 px, width 32, 100 items and 1 device.
    """

    @functools.cache  # the base case belongs to every group, and is prepared once
    def prepare(size: int, width: int, items: int, devices: int) -> Call:
        return prepare_whole_step(make_config(size, width, items), make_images(16, size), devices)

    runs = {f"{size} px": prepare(size, 32, 100, 1) for size in (32, 64, 128)}
    runs |= {f"width {width}": prepare(32, width, 100, 1) for width in (16, 32, 64)}
    runs |= {f"{items} items": prepare(32, 32, items, 1) for items in (20, 100, 500, 2000)}
    available = jax.local_device_count()
    runs |= {f"{count} devices": prepare(32, 32, 100, count) for count in (2, 4, 8) if count <= available}
    return time_alternately(runs, rounds)


def measure_steps_per_call(rounds: int) -> Record:
    """The seconds of one step of a small model (32 px, 64 images, width 16, 100 items), by steps per call."""
    steps = max(STEPS_PER_CALL)
    config, batch = make_config(32, 16, 100), make_images(64, 32)
    runs: dict[str, Call] = {}
    for count in STEPS_PER_CALL:
        config.train.steps_per_call = count
        start, wait = prepare_step(config, batch)

        def run(start: Call = start, wait: Call = wait, count: int = count) -> None:
            for _ in range(steps // count):
                start()
            wait()

        runs[f"{count} step{'s' * (count > 1)} a call"] = run
    return {
        name: {"daad_jax": {"seconds": [seconds / steps for seconds in row["daad_jax"]["seconds"]]}}
        for name, row in time_alternately(runs, rounds).items()
    }


def measure_input_wait(steps: int) -> Record:
    """The share of the time that the step waits for its batch, by the number of images in the data set."""
    # Imported here, since the start of a step is timed with this file, and a step does not need the loop.
    from daad_jax.training.feed import device_batches

    config = make_config(32, 32, 100)
    config.data.flip_horizontal, config.data.shift = True, 2
    rows: Record = {}
    for count in (1_000, 10_000, 100_000):
        split = Split(make_images(count, 32), np.zeros(count, np.int32), [], [])
        mapped = device_groups.choose(1, 64)
        step = mapped.compile_step(make_train_step(config))
        state = mapped.replicate(create_state(config))
        waits: list[float] = []
        start = 0.0
        with closing(device_batches(config, mapped, split, 0)) as batches:  # type: ignore[type-var]
            for i in range(steps + 2):
                asked = time.perf_counter()
                batch = next(batches)
                if i == 2:  # the step is compiled and warm
                    start = asked
                if i >= 2:
                    waits.append(time.perf_counter() - asked)
                state, metrics = step(state, batch)
                jax.block_until_ready(metrics)
        total = time.perf_counter() - start
        rows[f"{count} images"] = {"daad_jax": {"seconds": [total / steps], "wait": sum(waits) / total}}
    return rows

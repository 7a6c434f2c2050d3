"""The training loop: from a configuration to a checkpoint that scores."""

import functools
import hashlib
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from daad_jax import config as config_lib
from daad_jax.config import Config
from daad_jax.data import datasets
from daad_jax.data.batches import batch_plans, group_batches, prefetch, train_batches
from daad_jax.data.samples import Split, Splits
from daad_jax.errors import UserError
from daad_jax.method.state import TrainState, abstract_state, init_state
from daad_jax.method.step import make_train_step, several
from daad_jax.runtime import devices as parallel
from daad_jax.runtime import processes
from daad_jax.scoring.anomaly_score import shortage
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.training import workdir as workdirs
from daad_jax.training.checkpoint import Checkpoints
from daad_jax.training.feed import take
from daad_jax.training.logs import Log, NoLog

# Calls on their way: the device need not wait for Python, nor a signal for the thirty that JAX would start.
AHEAD = 3


def train(config: Config, workdir: Path) -> None:
    """Trains to `config.train.steps`, from the newest checkpoint in `workdir` where there is one.

    Raises:
        UserError: bad input, or a loss that is not finite.
        SystemExit: SIGTERM or Ctrl-C came; what was done is saved.
    """
    _print(f"workdir: {workdir}")
    with ExitStack() as held:
        with processes.errors_end_all():
            mapped = parallel.choose(config.train.devices, config.train.batch_size)
            expected = abstract_state(config)
            if processes.is_first():
                held.enter_context(workdirs.claim_workdir(workdir, config))
            splits = datasets.load(config)
        with processes.errors_end_all():
            workdirs.require_claim(workdir)
        for note in splits.notes:
            _print(note)
        _print(
            f"{len(splits.train)} normal images to train on, {len(splits.calibration)} held out to "
            f"calibrate, {len(splits.test)} to test; {_describe(expected)}; "
            f"{len(mapped.devices) * jax.process_count()} {mapped.devices[0].platform} device(s)"
        )
        if few := shortage(len(splits.calibration), config.score.false_alarm_rate):
            _print(f"warning: {few}")
        step = _trained(config, workdir, mapped, expected, splits)
    _print(f"trained to step {step}; next: python evaluate.py --workdir {workdir}")


def _trained(
    config: Config, workdir: Path, mapped: parallel.DeviceGroup, expected: TrainState, splits: Splits
) -> int:
    """Trains what is left, and returns the step of the newest checkpoint."""
    with (
        processes.deferred_signals() as noted,
        closing(Checkpoints(workdir, config.train.max_to_keep, create=True)) as checkpoints,
    ):
        initial = None
        with processes.errors_end_all():
            if checkpoints.steps:
                initial, _, _ = checkpoints.restore()
                _print(f"resumed from step {int(initial.step)}")
        first_step = int(initial.step) if initial else 0
        digest = hashlib.sha256(config_lib.to_json(config).encode()).hexdigest()[:12]
        processes.require_same(f"step {first_step} of configuration {digest}")
        with processes.errors_end_all():
            if processes.is_first():
                checkpoints.set_aside_after(first_step)
        with processes.errors_end_all():
            checkpoints.reload()
        processes.require_same(f"checkpoints {checkpoints.steps}")
        if first_step >= config.train.steps:
            return first_step
        step_fn = _compiled(config, mapped, expected)
        batches = fed(config, mapped, splits.train, first_step)
        with processes.errors_end_all():
            log = (
                Log(workdir, first_step, config.train.steps, config.train.batch_size)
                if processes.is_first()
                else NoLog()
            )
        with closing(log), closing(batches) as ready:  # type: ignore[type-var]
            state = mapped.replicate(initial or init_state(expected, config.seed))
            initial = None  # as large as what trains: parameters and moments
            held_out = splits.calibration.images
            _loop(config, mapped, step_fn, state, first_step, ready, checkpoints, log, held_out, noted)
    return config.train.steps


def _compiled(
    config: Config, mapped: parallel.DeviceGroup, expected: TrainState
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """What takes `steps_per_call` steps: it is being compiled when this returns."""
    step, at_once = make_train_step(config, mapped.axis_name), config.train.steps_per_call
    shape = (config.data.height, config.data.width, config.data.channels)
    batch = np.zeros((config.train.batch_size // jax.process_count(), *shape), np.uint8)
    if at_once == 1:
        return mapped.compile_ahead(step, expected, mapped.put(batch))
    return mapped.compile_ahead(several(step), expected, mapped.put_several(np.stack([batch] * at_once)))


def fed(config: Config, mapped: parallel.DeviceGroup, split: Split, first_step: int) -> Iterator[Any]:
    """The batches of every call from `first_step` on, on their devices."""
    at_once, process = config.train.steps_per_call, (jax.process_index(), jax.process_count())
    data, seed, batch_size = config.data, config.seed, config.train.batch_size
    put: Callable[[Any], Any] = mapped.put if at_once == 1 else mapped.put_several
    batches: Iterator[Any] = train_batches(split, data, seed, batch_size, first_step, process)
    if mapped.fits_resident(len(split) * data.height * data.width * data.channels):
        put = mapped.put_resident(
            np.asarray(split.images[:]), functools.partial(take, config=data), several=at_once > 1
        )
        batches = batch_plans(len(split), data, seed, batch_size, first_step)
    return prefetch(batches if at_once == 1 else group_batches(batches, at_once), put)


def _loop(
    config: Config,
    mapped: parallel.DeviceGroup,
    step_fn: Callable[[Any, Any], Any],
    state: Any,
    first_step: int,
    batches: Iterator[Any],
    checkpoints: Checkpoints,
    log: NoLog,
    held_out: np.ndarray,
    noted: list[int],
) -> None:
    at_once = config.train.steps_per_call
    scorer = Scorer(config)
    pending: list[Any] = []
    last = config.train.steps

    for step in range(first_step + at_once, last + 1, at_once):
        state, metrics = step_fn(state, next(batches))
        pending.append(metrics)
        jax.block_until_ready(pending[-AHEAD:][0])
        saving = step % config.train.checkpoint_every == 0 or step == last
        logging = step % config.train.log_every == 0 or saving
        # Asked once a step: a signal that comes later than this is the next step's.
        stop = processes.agreed_signal(noted, meeting=logging)
        saving = saving or bool(stop)
        if logging or stop:
            values = [one for m in pending for one in _each(mapped.first(m), at_once)]
            _refuse_non_finite(values, step - len(values), checkpoints)
            mean = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
            log.write(step, mean)
            _warn_of_collapse(mean, config, log)
            pending = []
        if saving:
            log.pause()
            host = mapped.first(state)
            checkpoints.save(host, config, scorer.calibrate(variables_of(host), held_out))
            log.resume()
        if stop:
            checkpoints.wait()
            name = signal.Signals(stop).name
            log.say(f"stopped by {name}, saved at step {step}; the same command resumes")
            raise SystemExit(128 + stop)


def _each(metrics: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The metrics of every step of a call that took `count`."""
    if count == 1:
        return [metrics]
    return [{key: value[i] for key, value in metrics.items()} for i in range(count)]


def _refuse_non_finite(values: list[Any], before: int, checkpoints: Checkpoints) -> None:
    for offset, metrics in enumerate(values):
        bad = [k for k, v in metrics.items() if not math.isfinite(v)]
        if bad:
            checkpoints.wait()
            kept = checkpoints.steps
            where = (
                f"the last good checkpoint is {checkpoints.folder / str(kept[-1])}"
                if kept
                else "no checkpoint was saved before"
            )
            raise UserError(
                f"step {before + offset + 1}: {bad[0]} is not finite; {where}; try a smaller "
                "config.train.learning_rate"
            )


def _warn_of_collapse(metrics: dict[str, float], config: Config, log: NoLog) -> None:
    """Every query of every recent batch on one and the same item: the memory says one thing."""
    for scale, items in enumerate(config.model.memory_items, 1):
        used = metrics.get(f"memory{scale}/items_in_use")
        if used is not None and items > 1 and used * items < 1 + 1e-6:
            log.say(
                f"warning: memory{scale} has collapsed: 1 of its {items} items is on top for every "
                "block; fewer items, another config.model.division or temperature may help"
            )


def _describe(state: TrainState) -> str:
    def size(network: Any) -> str:
        return f"{sum(leaf.size for leaf in jax.tree.leaves(network.params)) / 1e6:.2f} M"

    text = f"generator {size(state.generator)} parameters"
    return text + (f", discriminator {size(state.discriminator)}" if state.discriminator else "")


def _print(line: str) -> None:
    if processes.is_first():
        print(line, flush=True)

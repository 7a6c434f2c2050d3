"""The training loop: from a configuration to a checkpoint that scores."""

import hashlib
import math
import signal
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from daad_jax import config as config_lib
from daad_jax.buckets import open_place
from daad_jax.config import Config
from daad_jax.data import near_duplicates
from daad_jax.data.account import format_table
from daad_jax.data.samples import Split, Splits
from daad_jax.method.state import TrainState, abstract_state, init_state
from daad_jax.runtime import devices, processes
from daad_jax.runtime.devices import DeviceGroup
from daad_jax.runtime.memory_limit import require_memory
from daad_jax.scoring.anomaly_score import Calibration, shortage
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.terminal import say
from daad_jax.training import fit, run_data, suspects
from daad_jax.training.checkpoint import SMALLER_RATE, Checkpoints
from daad_jax.training.logs import FileLog, RunLog, SilentLog
from daad_jax.training.program import StepProgram
from daad_jax.training.workdir import claim_workdir, find_claim, require_claim
from daad_jax.validation import validate


@dataclass(frozen=True)
class _Run:
    """The objects that stay the same during a training."""

    config: Config
    workdir: Path
    group: DeviceGroup
    abstract: TrainState  # shapes and types of the state
    splits: Splits
    claim: tuple[int, int]  # of the workdir


@dataclass(frozen=True)
class TrainingResult:
    """A finished training: its step, and how many images trained, were held out, and can be tested."""

    step: int
    train_images: int
    held_out_images: int
    test_images: int


def train(
    config: Config,
    workdir: str | Path,
    *,
    data: Any = None,
    fresh_hold_out: bool = False,
    check: bool = False,
) -> TrainingResult:
    """Trains to `config.train.steps`, from the newest checkpoint in `workdir` if there is one.

    It may run in any thread. Signals are handled in the main thread only: SIGTERM and Ctrl-C then save first.

    Args:
        config: the configuration, for instance from `load_recipe`.
        workdir: the folder of the run; it is made if it does not exist.
        data: the images, if they are in memory. `Splits` stay as they are. An array `[N, h, w]` or
            `[N, h, w, C]`, or an iterable of what `Detector.score` takes (paths, bytes, arrays, Pillow
            images), has good images only, and a share of them is held out. A generator is consumed, and only
            the prepared images stay in memory. `config.data.source` becomes "memory". To resume, give the
            same data again.
        fresh_hold_out: whether a run goes on although its images have changed since the last training. A
            share of the new images is held out, but no image that has trained.
        check: whether all files are read again, and decoded again if one has changed without a new time or
            size.

    Returns:
        The step and the numbers of images. Everything else is in the workdir, see `Detector.load`.

    Raises:
        UserError: bad input, or a loss that is not finite.
        SystemExit: SIGTERM or Ctrl-C came, and the state is saved.
    """
    if data is not None:
        config = replace(config, data=replace(config.data, source="memory"))
    validate(config)
    workdir = open_place(workdir)
    _print(f"workdir: {workdir}")
    with ExitStack() as stack:
        # Claim the workdir, and open the data.
        with processes.errors_end_all():
            group = devices.choose(config.train.devices, config.train.batch_size)
            _require_memory(config, group)
            if processes.is_first():
                stack.enter_context(claim_workdir(workdir, config))
            # Every process reads data.json here, before the first one writes it below.
            splits = run_data.load_splits(workdir, config, data, typed_now=True, check=check)
        about_new_images = ""
        with processes.errors_end_all():
            claim = find_claim(workdir)
            if processes.is_first():
                about_new_images = run_data.claim_data(workdir, config, splits, fresh_hold_out)
        # The size and the range that were found belong to the run; `config.json` has the user's values.
        config = replace(config, data=splits.data)
        with processes.errors_end_all():
            validate(config)
            abstract = abstract_state(config)
        names = "\0".join(splits.calibration.names).encode("utf-8", "replace")
        digest = hashlib.sha256(names).hexdigest()[:12]
        processes.require_same(f"images {splits.normal_digest}, held out {digest}")
        # Print the table of images, the sizes and the number of steps.
        _print(*format_table(splits.account.rows).splitlines())
        notes = [*splits.notes, about_new_images]
        if processes.is_first():
            notes += near_duplicates.warn(splits, config.data.group)
        for note in filter(None, notes):
            _print(note)
        _print(
            f"images: {len(splits.train)} for training, {len(splits.calibration)} held out for the "
            f"threshold, {len(splits.test)} for testing"
        )
        count = len(group.devices) * jax.process_count()
        _print(f"{_describe(abstract)}; running on {count} {group.devices[0].platform.upper()} device(s)")
        if rounding := describe_products(config, group.devices[0].platform):
            _print(rounding)
        held_out, are_groups = splits.calibration.group_count, splits.calibration.groups is not None
        if warning := shortage(held_out, config.score.false_alarm_rate, are_groups):
            _print(f"warning: {warning}")
        step = _train_rest(_Run(config, workdir, group, abstract, splits, claim))
    if not config.uses_coreset:
        _print(f"trained to step {step}")
    return TrainingResult(step, len(splits.train), len(splits.calibration), len(splits.test))


def _require_memory(config: Config, group: DeviceGroup) -> None:
    """Raises UserError if the batches of training, or of scoring at the first save, cannot fit the memory."""
    Scorer(config)
    if not config.uses_coreset:
        size = config.train.batch_size
        count = len(group.devices) * jax.process_count()
        require_memory(f"config.train.batch_size = {size}", size // count, config)


def _train_rest(run: _Run) -> int:
    """Trains the steps that are left, and returns the step of the newest checkpoint."""
    config, workdir = run.config, run.workdir
    with (
        processes.deferred_signals() as signals,
        closing(Checkpoints(workdir, config.train.max_to_keep, create=True)) as checkpoints,
    ):
        # Restore the newest checkpoint.
        restored = None
        with processes.errors_end_all():
            if checkpoints.steps:
                restored, stored, _ = checkpoints.restore()
                run_data.require_same_size(workdir, stored, config)
                _print(f"resumed from step {int(restored.step)}")
        first_step = int(restored.step) if restored else 0
        # All processes must go on from the same step, with the same configuration and checkpoints.
        digest = hashlib.sha256(config_lib.to_json(config).encode()).hexdigest()[:12]
        processes.require_same(f"step {first_step} of configuration {digest}")
        with processes.errors_end_all():
            if processes.is_first():
                checkpoints.set_aside_after(first_step)
        with processes.errors_end_all():
            checkpoints.reload()
        processes.require_same(f"checkpoints {checkpoints.steps}")
        if config.uses_coreset:
            return _fit(run, checkpoints, first_step)
        if first_step >= config.train.steps:
            _print(f"the run has config.train.steps = {config.train.steps} steps already; nothing is trained")
            return first_step
        # Compile the step in a thread, and make the initial state meanwhile.
        _print("compiling the training step; the first progress follows, on a CPU after up to a minute")
        program = StepProgram(config, run.group, run.abstract)
        log: RunLog = SilentLog()
        with processes.errors_end_all():
            if processes.is_first():
                log = FileLog(workdir, first_step, config.train.steps, config.train.batch_size)
        with closing(log):
            if restored is None:
                restored = init_state(run.abstract, config.seed)
                if config.model.features:
                    restored = replace(
                        restored,
                        features=fit.prepare_features(config, run.splits.train, processes.is_first()),
                    )
            state = run.group.replicate(restored)
            restored = None  # the numpy copy is as large as the state
            _loop(run, program, state, first_step, checkpoints, log, signals)
    return config.train.steps


def _fit(run: _Run, checkpoints: Checkpoints, fitted_step: int) -> int:
    """Fills the memories with blocks of the training images, and returns the step of the checkpoint."""
    if fitted_step:
        _print("the memories of this run are filled already; nothing is done")
        return fitted_step
    with processes.errors_end_all():
        fitted = fit.fit(run.config, run.splits, _print, processes.is_first())
        calibration = _calibrate(Scorer(fitted.config), fitted.state, run.splits.calibration)
        require_claim(run.workdir, run.claim)
    checkpoints.save(fitted.state, fitted.config, calibration)
    _name_suspects(run, fitted.distances)
    return int(fitted.state.step)


def _calibrate(scorer: Scorer, state: TrainState, held_out: Split) -> Calibration:
    return scorer.calibrate(variables_of(state), held_out.images, held_out.groups, held_out.grids)


def _name_suspects(run: _Run, distances: np.ndarray) -> None:
    """Writes the least normal training images into the workdir, and names the first."""
    if processes.is_first():
        ranked = suspects.rank_suspects(run.splits.train.names, distances)
        suspects.write_suspects(run.workdir, ranked)
        _print(suspects.describe_suspects(ranked))


def _loop(
    run: _Run,
    program: StepProgram,
    state: Any,
    first_step: int,
    checkpoints: Checkpoints,
    log: RunLog,
    signals: list[int],
) -> None:
    """Trains from `first_step` to the end, and logs, saves and stops on the way."""
    config = run.config
    scorer = Scorer(config)
    pending: list[Any] = []  # metrics of the calls since the last log line
    with closing(program.run(state, run.splits.train, first_step)) as calls:  # type: ignore[type-var]
        del state  # it is donated to the first call
        for step, state, metrics in calls:
            pending.append(metrics)
            is_saving = step % config.train.checkpoint_every == 0 or step == config.train.steps
            is_logging = step % config.train.log_every == 0 or is_saving
            # Ask once a step: a signal that comes later belongs to the next step.
            stop = processes.agreed_signal(signals, meeting=is_logging)
            if is_logging or stop:
                # Report the training metrics.
                each_step = [values for m in pending for values in program.metrics_of_steps(m)]
                _refuse_non_finite(each_step, step - len(each_step), checkpoints)
                mean = {k: float(np.mean([values[k] for values in each_step])) for k in each_step[0]}
                log.write(step, mean)
                _warn_of_collapse(mean, config, log)
                pending = []
            if is_saving or stop:
                # Calibrate on held-out images, and save.
                log.pause()
                host = run.group.fetch(state)
                with processes.errors_end_all():
                    require_claim(run.workdir, run.claim)
                    calibration = _calibrate(scorer, host, run.splits.calibration)
                checkpoints.save(host, config, calibration)
                if step == config.train.steps and processes.is_first():
                    trained = run.splits.train
                    scores = scorer.scores(variables_of(host), calibration, trained.images)
                    _name_suspects(run, trained.largest(scores))
                log.resume()
            if stop:
                checkpoints.wait()
                name = signal.Signals(stop).name
                log.say(f"stopped by {name}, saved at step {step}; the same command resumes")
                raise SystemExit(128 + stop)


def _refuse_non_finite(each_step: list[Any], before: int, checkpoints: Checkpoints) -> None:
    for offset, metrics in enumerate(each_step):
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            checkpoints.refuse(before + offset + 1, f"{bad[0]} is not finite", SMALLER_RATE)


def _warn_of_collapse(metrics: dict[str, float], config: Config, log: RunLog) -> None:
    """Warns if all queries of all recent batches read the same item: the memory has then collapsed."""
    for scale, items in enumerate(config.model.memory_items, 1):
        share_in_use = metrics.get(f"memory{scale}/items_in_use")
        if share_in_use is not None and items > 1 and share_in_use * items < 1 + 1e-6:
            log.say(
                f"warning: memory{scale} has collapsed: 1 of its {items} items is on top for every "
                "block; fewer items, another config.model.division or temperature may help"
            )


def _describe(state: TrainState) -> str:
    def size(network: Any) -> str:
        return f"{sum(leaf.size for leaf in jax.tree.leaves(network.params)) / 1e6:.2f} M"

    if state.generator is None:
        counts = (str(len(memory["items"])) for memory in state.features["memories"])
        return f"memories of at most {', '.join(counts)} items"
    text = f"parameters: {size(state.generator)} in the generator"
    return text + (f", {size(state.discriminator)} in the discriminator" if state.discriminator else "")


def describe_products(config: Config, platform: str) -> str:
    """Says how the products in training and in scoring are rounded; "" where all of them are float32.

    Args:
        config: the configuration of the run.
        platform: the platform of the devices: "cpu", "gpu" or "tpu".
    """
    of_device = devices.ROUNDING.get(platform, "float32")
    set_by_user = jax.config.values["jax_default_matmul_precision"]
    in_training = "bfloat16" if config.train.precision == "bfloat16" else set_by_user or of_device
    in_scoring = of_device if config.score.precision == "device" else "float32"
    if config.uses_coreset or {in_training, in_scoring} == {"float32"}:
        return ""
    return (
        f"products: {in_training} in training (config.train.precision = {config.train.precision!r}), "
        f"{in_scoring} in scoring (config.score.precision = {config.score.precision!r})"
    )


def _print(*lines: str) -> None:
    if processes.is_first():
        say(*lines)

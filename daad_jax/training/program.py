"""The compiled training steps of a run. Nothing outside of this file and feed.py counts steps per call."""

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import jax
import numpy as np

from daad_jax.config import Config
from daad_jax.data.samples import Split
from daad_jax.method.state import TrainState
from daad_jax.method.step import make_train_step, scan_steps
from daad_jax.runtime.devices import DeviceGroup
from daad_jax.training.feed import device_batches

# JAX would start some thirty calls before the first is done. With three the device need not wait for Python,
# and a signal waits for three calls at most.
CALLS_IN_FLIGHT = 3


class StepProgram:
    """Takes training steps on devices, `config.train.steps_per_call` of them by one call.

    Compilation starts at once, in a thread; the first call waits for the end of the compilation.

    Args:
        config: a validated configuration.
        group: the devices.
        abstract: shapes and types of the state, see `abstract_state`.
    """

    def __init__(self, config: Config, group: DeviceGroup, abstract: TrainState) -> None:
        self._config, self._group = config, group
        self._steps_per_call = config.train.steps_per_call
        step = make_train_step(config, group.axis_name)
        image = (config.data.height, config.data.width, config.data.channels)
        batch = np.zeros((config.train.batch_size // jax.process_count(), *image), config.data.prepared_type)
        if self._steps_per_call == 1:
            self._call = group.compile_ahead(step, abstract, group.put(batch))
        else:
            batches = group.put(np.stack([batch] * self._steps_per_call), batch_axis=1)
            self._call = group.compile_ahead(scan_steps(step), abstract, batches)

    def run(self, state: Any, split: Split, first_step: int) -> Iterator[tuple[int, Any, Any]]:
        """Trains to `config.train.steps`.

        Args:
            state: a replicated state, see `DeviceGroup.replicate`. It is donated.
            split: the training images.
            first_step: the steps that were done before.

        Yields:
            After each call: the steps that are done, the state, and the call's metrics for
            `metrics_of_steps`. The last two may still be in the making.
        """
        in_flight: deque[Any] = deque(maxlen=CALLS_IN_FLIGHT)
        batches = device_batches(self._config, self._group, split, first_step)
        done = first_step
        with closing(batches):  # type: ignore[type-var]
            while done < self._config.train.steps:
                state, metrics = self._call(state, next(batches))
                done += self._steps_per_call
                in_flight.append(metrics)
                jax.block_until_ready(in_flight[0])
                yield done, state, metrics

    def metrics_of_steps(self, metrics: Any) -> list[dict[str, Any]]:
        """The metrics of every step of a call, as numpy numbers."""
        fetched = self._group.fetch(metrics)
        if self._steps_per_call == 1:
            return [fetched]
        return [{key: value[i] for key, value in fetched.items()} for i in range(self._steps_per_call)]

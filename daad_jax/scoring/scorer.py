"""The one way from uint8 images to R, L and their maps, on all devices of this process."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from daad_jax.config import Config
from daad_jax.method import restoration
from daad_jax.method.state import TrainState
from daad_jax.models.memory import with_inverse_lengths
from daad_jax.runtime.devices import Scoring
from daad_jax.scoring.anomaly_score import Calibration, calibrate
from daad_jax.scoring.distances import Measured, Variables, make_measure

HEAT_PIXELS = 2**24  # of held-out images whose maps are kept at once to calibrate the heat map
FEWEST_HEATS = 16


def variables_of(state: TrainState) -> Variables:
    """What scoring needs of a training state."""
    generator = with_inverse_lengths(state.generator.variables)
    return generator, state.discriminator.variables if state.discriminator else None


def images_at_once(pixels: int, backend: str) -> int:
    """How many images of so many pixels, in all of their turns, a device scores best at once.

    Few read all weights for little, many only make a single image wait, and take memory. An accelerator works
    on more at once than a processor.
    """
    enough = 2**16 if backend == "cpu" else 2**18
    return min(max(8, enough // pixels), 1024)


class Scorer:
    """Compiled for a configuration, for any variables.

    There is one program, for one number of images a device; fewer are filled up. A program for
    another number would sum in another order, and the last digits of a score would depend on the
    images that it came with.
    """

    def __init__(self, config: Config, batch_size: int | None = None) -> None:
        self._config = config
        self._scoring = Scoring(make_measure(config))
        pixels = config.data.height * config.data.width * restoration.turns(config.train.restore)
        at_once = batch_size or config.score.batch_size or images_at_once(pixels, jax.default_backend())
        self.batch_size = at_once * self._scoring.devices

    def place(self, variables: Variables) -> Any:
        """`variables` on the devices, as `measure` takes them."""
        return self._scoring.place(variables)

    def measure(self, placed: Any, batches: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Measured]]:
        """Every batch, uint8 `[b, H, W, C]` with 1 to `batch_size` images, and what it shows (numpy).

        The next batch is taken and started before one is fetched, so that nobody waits.
        """
        started: deque[tuple[np.ndarray, Any]] = deque()
        for batch in batches:
            fill = self.batch_size - len(batch)
            padded = np.concatenate([batch, np.repeat(batch[-1:], fill, axis=0)]) if fill else batch
            started.append((batch, self._scoring(placed, padded)))
            if len(started) > 1:
                yield self._fetch(*started.popleft())
        while started:
            yield self._fetch(*started.popleft())

    def cut(self, images: Any) -> Iterator[np.ndarray]:
        """Batches for `measure` from images `[N, H, W, C]` (anything that slices into arrays)."""
        for start in range(0, len(images), self.batch_size):
            yield np.asarray(images[start : start + self.batch_size])

    def calibrate(self, variables: Variables, held_out: Any) -> Calibration:
        """The calibration from held-out normal images, uint8 `[N, H, W, C]`."""
        size = self._config.data.height * self._config.data.width
        every = -(-len(held_out) // max(FEWEST_HEATS, HEAT_PIXELS // size))
        r, alignment, r_maps, l_maps = [], [], [], []
        first = 0
        for batch, measured in self.measure(self.place(variables), self.cut(held_out)):
            r.append(measured.reconstruction)
            alignment.append(measured.alignment)
            kept = slice(-first % every, None, every)  # of all held-out images every `every`-th
            r_maps.append(measured.reconstruction_map[kept].copy())  # a view would keep all of them
            l_maps.append(measured.alignment_map[kept].copy())
            first += len(batch)
        return calibrate(
            np.concatenate(r).astype(np.float64),
            np.concatenate(alignment).astype(np.float64),
            np.concatenate(r_maps),
            np.concatenate(l_maps),
            self._config.score.gamma,
            self._config.score.false_alarm_rate,
        )

    def _fetch(self, batch: np.ndarray, outputs: Any) -> tuple[np.ndarray, Measured]:
        return batch, Measured(*(x[: len(batch)] for x in self._scoring.fetch(outputs)))

"""Scores images of 8 or 16 bits on all devices of this process, in batches of one size."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from daad_jax.config import Config
from daad_jax.method import restoration
from daad_jax.method.state import TrainState
from daad_jax.models.memory import with_inverse_lengths
from daad_jax.runtime.devices import ParallelFunction, count_cores
from daad_jax.runtime.memory_limit import require_memory
from daad_jax.scoring.anomaly_score import Calibration, calibrate
from daad_jax.scoring.distances import Distances, Variables, make_distances
from daad_jax.scoring.tile_results import Grid, join_tiles

CALIBRATION_MAP_PIXELS = 2**24  # pixels of the held-out maps that calibrate the heat map, all together
MIN_CALIBRATION_MAPS = 16
PIXELS_AT_ONCE_CPU, PIXELS_AT_ONCE_ACCELERATOR = 2**16, 2**18
MIN_IMAGES_AT_ONCE, MAX_IMAGES_AT_ONCE = 8, 1024
CORES_FOR_AN_IMAGE = 2  # of a CPU, to read the features of one
Batches = Iterable[tuple[np.ndarray, Distances]]  # images and their distances


def variables_of(state: TrainState) -> Variables:
    """Selects the part of a state that scoring needs."""
    return Variables(
        generator=with_inverse_lengths(state.generator.variables) if state.generator else None,
        discriminator=state.discriminator.variables if state.discriminator else None,
        features=state.features,
    )


def images_at_once(pixels: int, backend: str) -> int:
    """Chooses how many images a device scores at once.

    Small batches waste the cost of reading all weights. Large batches delay single images and take memory.
    An accelerator works on more pixels at once than a CPU.

    Args:
        pixels: the pixels of an image with all its degraded copies.
        backend: "cpu", "gpu" or "tpu".
    """
    enough = PIXELS_AT_ONCE_CPU if backend == "cpu" else PIXELS_AT_ONCE_ACCELERATOR
    return min(max(MIN_IMAGES_AT_ONCE, enough // pixels), MAX_IMAGES_AT_ONCE)


def choose_batch_size(config: Config, backend: str, cores: int | None = None) -> int:
    """Chooses how many images a device scores at once, unless `config.score.batch_size` is given.

    On a CPU, a frozen network reads one image as fast as each of several: 68, 66, 65 and 65 ms an image in
    batches of 1, 2, 4 and 8 (two cores, 224 px). Single images therefore wait for no others, as long as few
    cores share the work.

    Args:
        config: the configuration of the run.
        backend: "cpu", "gpu" or "tpu".
        cores: how many cores of the CPU each device has; None: as many as this machine gives.
    """
    if config.score.batch_size:
        return config.score.batch_size
    if config.model.features and backend == "cpu":
        cores = count_cores() if cores is None else cores
        return min(max(1, cores // CORES_FOR_AN_IMAGE), MIN_IMAGES_AT_ONCE)
    pixels = config.data.height * config.data.width * restoration.copy_count(config.train.restore)
    return images_at_once(pixels, backend)


class BatchedFunction:
    """A function of (variables, images), compiled for batches of one size on all devices.

    There is one program, for one batch size, and smaller batches are filled up. A program for another size
    would add in another order. The last digits of a score would then depend on the other images of its batch.

    Args:
        function: takes variables and images `[B, H, W, C]`, and returns a tree of arrays `[B, ...]`.
        images_per_device: how many images a device gets at once.
    """

    def __init__(self, function: Callable[[Any, jax.Array], Any], images_per_device: int) -> None:
        self._function = ParallelFunction(function)
        self.batch_size = images_per_device * self._function.device_count

    def place(self, variables: Variables) -> Any:
        """Puts `variables` on the devices, as `run` takes them."""
        return self._function.place(variables)

    def run(self, placed: Any, batches: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Any]]:
        """Yields every batch with its outputs as numpy arrays.

        The next batch is taken and started before the outputs of one are fetched, so that neither the device
        nor the reader of the images waits.

        Args:
            placed: what `place` returned.
            batches: uint8 or uint16 `[b, H, W, C]`, b from 1 to `batch_size`.
        """
        started: deque[tuple[np.ndarray, Any]] = deque()
        for batch in batches:
            missing = self.batch_size - len(batch)
            padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
            started.append((batch, self._function(placed, padded)))
            if len(started) > 1:
                yield self._fetch(*started.popleft())
        while started:
            yield self._fetch(*started.popleft())

    def split(self, images: Any) -> Iterator[np.ndarray]:
        """Batches for `run` from images `[N, H, W, C]` (anything that slices into arrays)."""
        for start in range(0, len(images), self.batch_size):
            yield np.asarray(images[start : start + self.batch_size])

    def _fetch(self, batch: np.ndarray, outputs: Any) -> tuple[np.ndarray, Any]:
        return batch, jax.tree.map(lambda x: x[: len(batch)], self._function.fetch(outputs))


class Measured(NamedTuple):
    """The distances of N held-out images, or of the T tiles of N images, see `anomaly_score.calibrate`."""

    reconstruction: np.ndarray
    alignment: np.ndarray
    reconstruction_maps: Sequence[np.ndarray] | np.ndarray
    alignment_maps: Sequence[np.ndarray] | np.ndarray
    first_tiles: np.ndarray | None = None


class Scorer:
    """Computes the distances of images by one compiled program for a configuration and any variables.

    Args:
        config: the configuration of the run.
        batch_size: how many images a device scores at once; None: `config.score.batch_size`.

    Raises:
        UserError: a batch cannot fit into the memory.
    """

    def __init__(self, config: Config, batch_size: int | None = None) -> None:
        self._config = config
        per_device = batch_size or choose_batch_size(config, jax.default_backend())
        key = "the batch size" if batch_size else f"config.score.batch_size = {per_device}"
        require_memory(key, per_device, config)
        self._distances = BatchedFunction(make_distances(config), per_device)

    @property
    def batch_size(self) -> int:
        """How many images are scored at once, over all devices."""
        return self._distances.batch_size

    def place(self, variables: Variables) -> Any:
        """Puts `variables` on the devices, as `distances` takes them."""
        return self._distances.place(variables)

    def distances(self, placed: Any, batches: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Distances]]:
        """Yields every batch `[b, H, W, C]` with 1 <= b <= `batch_size`, and its distances (numpy)."""
        return self._distances.run(placed, batches)

    def split(self, images: Any) -> Iterator[np.ndarray]:
        """Batches for `distances` from images `[N, H, W, C]` (anything that slices into arrays)."""
        return self._distances.split(images)

    def scores(self, variables: Variables, calibration: Calibration, images: Any) -> np.ndarray:
        """Computes A(x) of images, uint8 or uint16 `[N, H, W, C]` -> float64 `[N]`."""
        parts = [
            calibration.score(distances.reconstruction, distances.alignment)
            for _, distances in self.distances(self.place(variables), self.split(images))
        ]
        return np.concatenate(parts).astype(np.float64)

    def measure(self, variables: Variables, held_out: Any, grids: Sequence[Grid] | None = None) -> Measured:
        """Measures the distances of held-out normal images.

        Args:
            variables: the variables of the run's networks.
            held_out: the images, uint8 or uint16 `[N, H, W, C]`; or their tiles, image after image,
                `[T, H, W, C]`.
            grids: the tiles of each of the N images; None if the images are not cut into tiles.
        """
        batches = self.distances(self.place(variables), self.split(held_out))
        if grids is None:
            return self._measure_images(batches, len(held_out))
        return self._measure_tiles(batches, grids)

    def calibrate_measured(self, found: Measured, groups: np.ndarray | None = None) -> Calibration:
        """Makes the calibration from distances.

        Args:
            found: the distances that `measure` returned.
            groups: equal integers for images that belong together, `[N]`; None if each image is for itself.
        """
        score = self._config.score
        return calibrate(
            found.reconstruction,
            found.alignment,
            found.reconstruction_maps,
            found.alignment_maps,
            score.gamma,
            score.false_alarm_rate,
            groups,
            found.first_tiles,
        )

    def calibrate(
        self,
        variables: Variables,
        held_out: Any,
        groups: np.ndarray | None = None,
        grids: Sequence[Grid] | None = None,
    ) -> Calibration:
        """Makes the calibration from held-out normal images, see `measure` and `calibrate_measured`."""
        return self.calibrate_measured(self.measure(variables, held_out, grids), groups)

    def _measure_images(self, batches: Batches, count: int) -> Measured:
        """Measures all images: both distances of each, and the maps of every few images."""
        stride = self._map_stride(count, self._config.data.height * self._config.data.width)
        r, alignment, r_maps, l_maps = [], [], [], []
        first = 0
        for batch, distances in batches:
            r.append(distances.reconstruction)
            alignment.append(distances.alignment)
            chosen = slice(-first % stride, None, stride)  # every `stride`-th of all held-out images
            r_maps.append(distances.reconstruction_map[chosen].copy())  # a view would keep all maps
            l_maps.append(distances.alignment_map[chosen].copy())
            first += len(batch)
        return Measured(
            np.concatenate(r).astype(np.float64),
            np.concatenate(alignment).astype(np.float64),
            np.concatenate(r_maps),
            np.concatenate(l_maps),
        )

    def _measure_tiles(self, batches: Batches, grids: Sequence[Grid]) -> Measured:
        r, alignment, r_maps, l_maps = [], [], [], []
        stride = 1
        for number, image in enumerate(join_tiles(batches, grids)):
            r.append(image.reconstruction)
            alignment.append(image.alignment)
            if not number:
                stride = self._map_stride(len(grids), image.reconstruction_map.size)
            if number % stride == 0:
                r_maps.append(image.reconstruction_map)
                # At gamma 1 the map of L does not count, and maps of large images take memory.
                l_maps.append(image.alignment_map if self._config.score.gamma < 1 else np.zeros((1, 1)))
        first_tiles = np.cumsum([0, *(len(of_image) for of_image in r)])[:-1]
        return Measured(np.concatenate(r), np.concatenate(alignment), r_maps, l_maps, first_tiles)

    @staticmethod
    def _map_stride(count: int, pixels: int) -> int:
        """Returns n: every n-th of `count` maps sets the scale of the heat map. `pixels` is a map's size."""
        return -(-count // max(MIN_CALIBRATION_MAPS, CALIBRATION_MAP_PIXELS // pixels))

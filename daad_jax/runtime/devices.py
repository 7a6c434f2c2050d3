"""The only file that knows devices: jit on one, pmap on many, the same code for several processes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from daad_jax.errors import UserError
from daad_jax.runtime.compilation import options

AXIS = "devices"


@dataclass(frozen=True)
class DeviceGroup:
    """A function of (replicated tree, batch) compiled for some devices."""

    devices: Sequence[jax.Device]  # of this process

    @property
    def axis_name(self) -> str | None:
        """Of the mapped axis; None on one device."""
        return AXIS if self.many else None

    @property
    def many(self) -> bool:
        return len(self.devices) * jax.process_count() > 1

    def compile_step(self, step: Callable[[Any, jax.Array], Any]) -> jax.stages.Wrapped:
        """`step(state, batch) -> (state, metrics)` with the state donated."""
        if not self.many:
            return jax.jit(step, donate_argnums=0, compiler_options=options(self.devices[0].platform))
        devices = None if jax.process_count() > 1 else self.devices
        return jax.pmap(step, axis_name=AXIS, donate_argnums=0, devices=devices)

    def compile_ahead(
        self, step: Callable[[Any, jax.Array], Any], state: Any, batch: jax.Array
    ) -> Callable[[Any, Any], Any]:
        """`compile_step`, begun at once beside what else is to be done; the first call waits for it.

        Args:
            step: see `compile_step`.
            state: shapes and types of its state, on no device.
            batch: a batch where `put` or `put_several` puts it.
        """
        compiled = self.compile_step(step)
        if jax.process_count() > 1:  # which may have to compile in the same order
            return compiled
        if self.many:
            count = len(self.devices)
            state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), state)
        pool = ThreadPoolExecutor(1, "compile")
        program = pool.submit(lambda: compiled.lower(state, batch).compile())
        pool.shutdown(wait=False)
        return lambda *arguments: program.result()(*arguments)

    def replicate(self, tree: Any) -> Any:
        """A copy of `tree` on every device, owned by the caller (it may be donated)."""
        if self.many:
            return _replicate(tree, self.devices)
        (device,) = self.devices

        def owned(x: Any) -> jax.Array:
            # A processor reads a numpy array where it lies, may_alias or not, if that is a multiple of 64
            # bytes. It is not its own then, and the first step would copy it. A device's array is copied.
            y = jax.device_put(x, device, may_alias=False)
            theirs = isinstance(x, np.ndarray) and device.platform == "cpu"
            if theirs and y.unsafe_buffer_pointer() == x.ctypes.data:
                y = jax.device_put(y, device, may_alias=False)
            return y.block_until_ready()  # or `x` might be changed before it is read

        return jax.tree.map(owned, tree)

    def first(self, tree: Any) -> Any:
        """One device's copy of a replicated tree, as numpy arrays."""
        if not self.many:
            return jax.device_get(tree)
        # Other processes' copies cannot be read from here; ours can, without a gather.
        return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)

    def put(self, batch: np.ndarray) -> jax.Array:
        """This process' part of a global batch, cut over its devices: `[b, ...]` -> `[n, b/n, ...]`."""
        if not self.many:
            return jax.device_put(batch, self.devices[0])
        return jax.device_put(_cut(batch, len(self.devices)), _sharding(self.devices))

    def put_several(self, batches: np.ndarray) -> jax.Array:
        """`put` for K batches: `[K, b, ...]` -> `[n, K, b/n, ...]`, or as they are on one device."""
        if not self.many:
            return self.put(batches)
        return jax.device_put(_cut_several(batches, len(self.devices)), _sharding(self.devices))

    def fits_resident(self, size: int) -> bool:
        """Whether `size` bytes are better kept on every device than brought there piece by piece: on an
        accelerator, in an eighth of its memory at most. A processor has them already, and what several
        processes hold is not all there is."""
        limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in self.devices]
        return self.devices[0].platform != "cpu" and jax.process_count() == 1 and 8 * size <= min(limits)

    def put_resident(
        self, images: np.ndarray, take: Callable[[jax.Array, Any], jax.Array], several: bool
    ) -> Callable[[Any], jax.Array]:
        """Puts all images on every device, for what stands for `put`, or for `put_several`.

        Args:
            images: `[N, ...]`.
            take: from them and a tree of `[b, ...]` (or `[K, b, ...]`) to a batch, or K.
            several: of K.
        """
        if not self.many:
            placed, taking = self.put(images), jax.jit(take)
            return lambda order: taking(placed, self.put(order))
        placed, mapped = _replicate(images, self.devices), jax.pmap(take, devices=self.devices)
        cut = _cut_several if several else _cut
        return lambda order: mapped(placed, jax.tree.map(lambda x: cut(x, len(self.devices)), order))


def choose(requested: int, batch_size: int) -> DeviceGroup:
    """Devices of this process for a global batch.

    Args:
        requested: local devices to use; 0: all.
        batch_size: over all devices and processes.

    Raises:
        UserError: more devices than there are, or a batch that they cannot share evenly.
    """
    local = jax.local_devices()
    if requested > len(local):
        raise UserError(
            f"config.train.devices = {requested}: this process has {len(local)} {local[0].platform} device(s)"
        )
    devices = local[: requested or len(local)]
    if jax.process_count() > 1 and len(devices) < len(local):
        raise UserError(
            f"config.train.devices = {requested}: with several processes all devices take part; use 0"
        )
    total = len(devices) * jax.process_count()
    if batch_size % total:
        raise UserError(
            f"config.train.batch_size = {batch_size}: must be a multiple of the {total} devices "
            f"(the nearest is {max(total, round(batch_size / total) * total)}, or set config.train.devices)"
        )
    return DeviceGroup(devices)


class Scoring:
    """A function of (variables, batch) without a state, compiled for all devices of this process."""

    def __init__(self, function: Callable[[Any, jax.Array], Any]) -> None:
        self._devices = jax.local_devices()
        self._run = (
            jax.jit(function, compiler_options=options(self._devices[0].platform))
            if self.devices == 1
            else jax.pmap(function, devices=self._devices)
        )

    @property
    def devices(self) -> int:
        """Their number; batches must be a multiple of it."""
        return len(self._devices)

    def place(self, variables: Any) -> Any:
        """`variables` as `__call__` takes them, put on every device once."""
        if self.devices == 1:
            return jax.device_put(variables, self._devices[0])
        return _replicate(variables, self._devices)

    def __call__(self, placed: Any, batch: np.ndarray) -> Any:
        """Starts on a numpy batch `[b, ...]`, and returns before the results are there."""
        return self._run(placed, batch if self.devices == 1 else _cut(batch, self.devices))

    def fetch(self, outputs: Any) -> Any:
        """The results of a call as numpy arrays `[b, ...]`."""
        arrays = jax.device_get(outputs)
        return arrays if self.devices == 1 else jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)


def _cut(batch: np.ndarray, parts: int) -> np.ndarray:
    return batch.reshape(parts, -1, *batch.shape[1:])


def _cut_several(batches: np.ndarray, parts: int) -> np.ndarray:
    return np.stack(np.split(batches, parts, axis=1))


def _replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    copy = jax.pmap(lambda _, x: x, in_axes=(0, None), devices=devices)
    return copy(np.zeros(len(devices), np.int8), jax.device_get(tree))


def _sharding(devices: Sequence[jax.Device]) -> Any:
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

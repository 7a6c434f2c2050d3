"""Places arrays on devices and compiles functions for them: jit on one device, pmap on many.

The same code serves several processes.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from daad_jax.errors import UserError
from daad_jax.runtime.compilation import options

AXIS = "devices"
# For each platform: the type to which a product rounds its float32 operands, unless the program asks for
# more.
ROUNDING = {"tpu": "bfloat16", "gpu": "tensorfloat32"}


def count_cores() -> int:
    """Returns how many cores of the CPU each device of this process has; 0 if devices share a core."""
    return (os.cpu_count() or 1) // jax.local_device_count()


@dataclass(frozen=True)
class DeviceGroup:
    """The devices of this process. They train together with the devices of the other processes of the run."""

    devices: Sequence[jax.Device]

    @property
    def axis_name(self) -> str | None:
        """The name of the mapped axis; None on one device."""
        return AXIS if self.is_parallel else None

    @property
    def is_parallel(self) -> bool:
        """True if a step runs on more than one device, over all processes."""
        return len(self.devices) * jax.process_count() > 1

    def compile_step(self, step: Callable[[Any, jax.Array], Any]) -> jax.stages.Wrapped:
        """Returns `step(state, batch) -> (state, metrics)`, compiled on its first call. Donates the state."""
        if not self.is_parallel:
            return jax.jit(step, donate_argnums=0, compiler_options=options(self.devices[0].platform))
        devices = None if jax.process_count() > 1 else self.devices
        return jax.pmap(step, axis_name=AXIS, donate_argnums=0, devices=devices)

    def compile_ahead(
        self, step: Callable[[Any, jax.Array], Any], state: Any, batch: jax.Array
    ) -> Callable[[Any, Any], Any]:
        """Compiles `step` in a thread that starts at once; the first call waits for the thread.

        Args:
            step: the step, as in `compile_step`.
            state: the shapes and types of the state, on no device.
            batch: a batch as `put` returns it.
        """
        compiled = self.compile_step(step)
        if jax.process_count() > 1:  # several processes may have to compile in the same order
            return compiled
        if self.is_parallel:
            count = len(self.devices)
            state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), state)
        pool = ThreadPoolExecutor(1, "compile")
        program = pool.submit(lambda: compiled.lower(state, batch).compile())
        pool.shutdown(wait=False)
        return lambda *arguments: program.result()(*arguments)

    def replicate(self, tree: Any) -> Any:
        """Copies `tree` to every device. The copy belongs to the caller, who may donate it."""
        if self.is_parallel:
            return _replicate(tree, self.devices)
        (device,) = self.devices

        def owned(x: Any) -> jax.Array:
            # On a CPU, JAX uses the memory of a numpy array without a copy if its address is a multiple of 64
            # bytes, even with may_alias=False. The array is then not ours, and the first step would copy it.
            # A second device_put copies, because its input is already an array of the device.
            y = jax.device_put(x, device, may_alias=False)
            theirs = isinstance(x, np.ndarray) and device.platform == "cpu"
            if theirs and y.unsafe_buffer_pointer() == x.ctypes.data:
                y = jax.device_put(y, device, may_alias=False)
            return y.block_until_ready()  # otherwise `x` might change before the device reads it

        return jax.tree.map(owned, tree)

    def fetch(self, tree: Any) -> Any:
        """Returns one device's copy of a replicated tree, as numpy arrays."""
        if not self.is_parallel:
            return jax.device_get(tree)
        # A process can read only its own copies, and needs no gather for these.
        return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)

    def put(self, batch: np.ndarray, batch_axis: int = 0) -> jax.Array:
        """Puts this process's part of a global batch on its n devices. Each device gets an equal share.

        Args:
            batch: the part, `[b, ...]`, or `[K, b, ...]` with `batch_axis` 1.
            batch_axis: the axis of the examples.

        Returns:
            `[n, b/n, ...]` or `[n, K, b/n, ...]`. On one device, `batch` in its own shape.
        """
        if not self.is_parallel:
            return jax.device_put(batch, self.devices[0])
        return jax.device_put(_cut(batch, len(self.devices), batch_axis), _sharding(self.devices))

    def fits_resident(self, size: int) -> bool:
        """Returns whether `size` bytes should be copied to every device once.

        True on an accelerator if the bytes fit in an eighth of its memory. False on a CPU, because a CPU uses
        the memory of the host. False with several processes, because each process has only a part of the
        images.
        """
        limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in self.devices]
        return self.devices[0].platform != "cpu" and jax.process_count() == 1 and 8 * size <= min(limits)

    def put_resident(
        self, images: np.ndarray, gather: Callable[[jax.Array, Any], jax.Array], batch_axis: int = 0
    ) -> Callable[[Any], jax.Array]:
        """Puts all images on every device, and returns a function that replaces `put`.

        Args:
            images: all images, `[N, ...]`.
            gather: a function of the images and a plan that returns the batch. A plan is a tree of arrays
                `[b, ...]` (or `[K, b, ...]`).
            batch_axis: the axis of the examples, as in `put`.
        """
        if not self.is_parallel:
            placed, gathering = self.put(images), jax.jit(gather)
            return lambda plan: gathering(placed, self.put(plan))
        placed, mapped = _replicate(images, self.devices), jax.pmap(gather, devices=self.devices)
        parts = len(self.devices)
        return lambda plan: mapped(placed, jax.tree.map(lambda x: _cut(x, parts, batch_axis), plan))


def choose(requested: int, batch_size: int) -> DeviceGroup:
    """Chooses the devices of this process for a global batch.

    Args:
        requested: the number of local devices to use; 0: all.
        batch_size: the number of images in a batch, over all devices and processes.

    Raises:
        UserError: the process has fewer devices than requested, or the devices cannot share the batch evenly.
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


class ParallelFunction:
    """A function of (variables, batch) without a state, compiled for all devices of this process."""

    def __init__(self, function: Callable[[Any, jax.Array], Any]) -> None:
        self._devices = jax.local_devices()
        self._compiled = (
            jax.jit(function, compiler_options=options(self._devices[0].platform))
            if self.device_count == 1
            else jax.pmap(function, devices=self._devices)
        )

    @property
    def device_count(self) -> int:
        """The number of devices. The size of a batch must be a multiple of this number."""
        return len(self._devices)

    def place(self, variables: Any) -> Any:
        """Puts `variables` on every device once, as `__call__` takes them."""
        if self.device_count == 1:
            return jax.device_put(variables, self._devices[0])
        return _replicate(variables, self._devices)

    def __call__(self, placed: Any, batch: np.ndarray) -> Any:
        """Starts the function on a numpy batch `[b, ...]`, and returns before the results are ready."""
        return self._compiled(placed, batch if self.device_count == 1 else _cut(batch, self.device_count))

    def fetch(self, outputs: Any) -> Any:
        """Waits for the results of a call, and returns them as numpy arrays `[b, ...]`."""
        arrays = jax.device_get(outputs)
        if self.device_count == 1:
            return arrays
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)


def _cut(batch: np.ndarray, parts: int, axis: int = 0) -> np.ndarray:
    """Cuts an axis into equal parts: `[b, ...]` -> `[parts, b / parts, ...]`."""
    if axis == 0:  # without a copy
        return batch.reshape(parts, -1, *batch.shape[1:])
    return np.stack(np.split(batch, parts, axis=axis))


def _replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    copy = jax.pmap(lambda _, x: x, in_axes=(0, None), devices=devices)
    return copy(np.zeros(len(devices), np.int8), jax.device_get(tree))


def _sharding(devices: Sequence[jax.Device]) -> Any:
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

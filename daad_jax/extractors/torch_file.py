"""Reads tensors from a PyTorch file of the format before 2020 (torch 1.5 and earlier), without PyTorch.

Such a file holds five pickles: a magic number, the version of the format, facts about the machine, the saved
object, and the list of storage keys. Then follow, for each key, the number of values (int64) and the values.
A pickle can name any Python function. This reader knows four names, and replaces PyTorch's functions by its
own. It refuses a file with any other name, so no code of the file runs.

Source of the format: `torch/serialization.py`, function `_legacy_load`.
"""

import collections
import hashlib
import io
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.errors import UserError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
FORMAT_VERSION = 1001
COUNT_BYTES = 8  # the number of values in front of each storage


class _Refused(Exception):
    """The file cannot be used; the message says why."""


@dataclass(frozen=True)
class _Storage:
    """Values that follow the pickles in the file."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count values."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    """Takes the place of PyTorch's `_rebuild_tensor_v2`."""
    shape, strides = tuple(size), tuple(stride)
    numbers = (offset, *shape, *strides)
    if not all(type(number) is int and number >= 0 for number in numbers) or len(shape) != len(strides):
        raise _Refused("a tensor of it is described in an unknown way")
    last = offset + sum((length - 1) * step for length, step in zip(shape, strides))
    # The second limit keeps a small file from asking for much memory, by strides of 0.
    if not isinstance(storage, _Storage) or last >= storage.count or math.prod(shape) > storage.count:
        raise _Refused("a tensor of it is larger than its storage")
    return _Tensor(storage, offset, shape, strides)


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    """Unpickles the four allowed names only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _Refused(f"it names {module}.{name}, which this reader does not allow")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype) or type(count) is not int or count < 0:
            raise _Refused("a storage of it is described in an unknown way")
        return _Storage(str(key), dtype, count)


def load_tensors(file: Path, sha256: str) -> dict[str, np.ndarray]:
    """Returns the tensors of a file, by name. The file is parsed only if its checksum is right.

    Args:
        file: a file that `torch.save` wrote from a dictionary of tensors.
        sha256: the SHA-256 of the whole file, in hexadecimal digits.

    Raises:
        UserError: the file cannot be read, or its checksum is another one.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{file}: its SHA-256 is not {sha256[:16]}..., so these are not the expected weights; "
            "install the package that holds the file again"
        )
    return parse_tensors(content, str(file))


def parse_tensors(content: bytes, name: str) -> dict[str, np.ndarray]:
    """Returns the tensors in the bytes of a file. Runs no code in the bytes.

    Args:
        content: all bytes of the file.
        name: the name of the file, for errors.

    Returns:
        The float32 and int64 arrays by name, each with a copy of its values.

    Raises:
        UserError: the bytes are damaged, have another format, or contain a name that is not allowed.
    """
    try:
        return _parse(content)
    except _Refused as error:
        raise UserError(
            f"{name}: refused, because {error}; use the file as its authors published it"
        ) from error
    # A damaged pickle may raise any error.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{name}: not a PyTorch file of the old format, or damaged ({reason})") from error


def _parse(content: bytes) -> dict[str, np.ndarray]:
    """Reads the tensors of a file. The five pickles build nothing but tensors."""
    stream = io.BytesIO(content)
    magic, version, _, saved, keys = (_Unpickler(stream).load() for _ in range(5))
    if (magic, version) != (MAGIC_NUMBER, FORMAT_VERSION):
        raise _Refused("it does not start with the marks of this format")
    if not isinstance(saved, dict) or not all(isinstance(tensor, _Tensor) for tensor in saved.values()):
        raise _Refused("it holds something else than a dictionary of tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in saved.values()}
    if not isinstance(keys, list) or sorted(storages) != sorted(map(str, keys)):
        raise _Refused("its list of storages is not complete")
    place, values = stream.tell(), {}
    for key in map(str, keys):
        storage = storages[key]
        start, place = place + COUNT_BYTES, place + COUNT_BYTES + storage.count * storage.dtype.itemsize
        count = int.from_bytes(content[start - COUNT_BYTES : start], "little")
        if count != storage.count or place > len(content):
            raise _Refused("it ends too early or its storages have other sizes")
        values[key] = np.frombuffer(content, storage.dtype, count, start)
    return {str(name): _view(values[tensor.storage.key], tensor) for name, tensor in saved.items()}


def _view(values: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """Returns the values of a tensor. `_rebuild_tensor` has checked that they lie within the storage."""
    steps = [step * values.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, steps).copy()

"""Reads weights from a safetensors file: a path, or the name of a model on the Hugging Face hub."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.errors import UserError

SUFFIX = ".safetensors"
HUB_FILE = "model.safetensors"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
INSTALL = "install it with: pip install 'daad_jax[features]'"


class Weights:
    """The tensors of one file. `read` checks and reads one tensor.

    Args:
        weights: "PATH.safetensors" or "OWNER/NAME", see `config.model.feature_weights`.
        network: the name of the network, for errors.
        example: the name of a fitting model on the hub, for errors.

    Raises:
        UserError: there is no such file, it cannot be fetched or read, or a package is missing.
    """

    def __init__(self, weights: str, network: str, example: str) -> None:
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError as error:
            raise UserError(f"{network} needs the package safetensors; {INSTALL}") from error
        self._network, self._example = network, example
        self._file = self._find(weights)
        try:
            self._tensors: Any = safe_open(self._file, framework="numpy")
        except (SafetensorError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self._file}: cannot be read as safetensors ({reason}); give a {SUFFIX} file of {network}"
            ) from error
        self._names = set(self._tensors.keys())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a tensor as float32.

        Raises:
            UserError: the file has no such tensor, or the tensor has another shape, or a type that is no
                float.
        """
        remedy = f"give the weights of {self._network}, such as {self._example}"
        if name not in self._names:
            raise UserError(f"{self._file}: the tensor {name!r} is missing; {remedy}")
        view = self._tensors.get_slice(name)
        found = tuple(view.get_shape())
        if found != shape:  # compared before any value is read
            raise UserError(f"{self._file}: the tensor {name!r} has shape {found}, not {shape}; {remedy}")
        if view.get_dtype() not in ("F16", "F32", "F64"):
            raise UserError(
                f"{self._file}: the tensor {name!r} has the type {view.get_dtype()}; save it as float32"
            )
        return np.asarray(self._tensors.get_tensor(name), np.float32)

    def _find(self, weights: str) -> Path:
        """Returns the file that `weights` names. A hub model is fetched, or found in the hub's own cache."""
        if not weights:
            raise UserError(
                f"{self._network} comes without weights; set config.model.feature_weights to the path of a "
                f"{SUFFIX} file or to the name of a model on the Hugging Face hub, such as {self._example}"
            )
        path = Path(weights).expanduser()
        if path.is_file():
            return path
        if weights.endswith(SUFFIX) or not HUB_NAME.fullmatch(weights):
            raise UserError(
                f"config.model.feature_weights={weights!r}: no such file; give the path of a {SUFFIX} file "
                f"or the name of a model on the Hugging Face hub, such as {self._example}"
            )
        return _fetch(weights)


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(f"{name} is fetched by the package huggingface_hub; {INSTALL}") from error
    try:
        return Path(hf_hub_download(name, HUB_FILE))
    # The package also raises errors of other libraries. Every error means that the file was not fetched.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: cannot be fetched from the Hugging Face hub ({reason}); check the name and the "
            f"connection, or download its {HUB_FILE} on another machine and give the path of that file"
        ) from error

"""Named data sets through TFDS: its own `mnist` and `cifar10`, and our `solar_cells` and `mvtec_ad`."""

import difflib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from daad_jax.config import DataConfig
from daad_jax.data.folder import CATEGORIES
from daad_jax.data.samples import Sample, Samples
from daad_jax.errors import UserError

NAMES = ("mnist", "cifar10", "solar_cells/mono", "solar_cells/poly", "solar_cells/all")


def open_named(config: DataConfig) -> Samples:
    """Opens a TFDS data set, and prepares it first where that was not done.

    Raises:
        UserError: an unknown name, or what is missing to prepare it, with the remedy.
    """
    import tensorflow_datasets as tfds  # slow to import, and not needed for folders

    logging.set_verbosity(logging.ERROR)  # TFDS recommends OpenCV and TensorFlow at every call

    from daad_jax.data import builders

    directory = config.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    directory = os.path.expanduser(directory)
    name, _, variant = config.name.partition("/")
    if name == "solar_cells":
        builder: Any = builders.solar_cells(variant or "mono", directory)
    elif name == "mvtec_ad":
        builder = builders.mvtec_ad(variant, directory, _mvtec_root(config.path, variant))
    elif name in ("mnist", "cifar10"):
        builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    else:
        known = (*NAMES, *(f"mvtec_ad/{c}" for c in CATEGORIES))
        near = difflib.get_close_matches(config.name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise UserError(f"config.data.name = {config.name!r}: no such data set; {hint}")
    if not builder.data_path.exists():
        if name not in ("mnist", "cifar10"):  # TFDS's bars are for downloads; ours take seconds
            tfds.disable_progress_bar()
        _prepare(builder, name, directory)
    sources = builder.as_data_source()
    labels = builder.info.features["label"].names
    identity = f"tfds {builder.info.full_name} {builder.data_path}"
    train, test = (_samples(sources[s], s, labels) for s in ("train", "test"))
    return Samples(identity=identity, train=train, test=test, classes=tuple(labels))


def _samples(source: Sequence[Any], split: str, labels: list[str]) -> list[Sample]:
    # Labels decide the protocol, so they are read now; pixels when the cache asks.
    return [_sample(source, i, f"{split}/{i:05d}", labels) for i in range(len(source))]


def _sample(source: Any, index: int, name: str, labels: list[str]) -> Sample:
    example = source[index]
    mask = example.get("mask")
    return Sample(
        name=str(_text(example.get("name"), name)),
        kind=_text(example.get("kind"), labels[int(example["label"])]),
        load=lambda: np.asarray(example["image"]),
        load_mask=None if mask is None or not mask.any() else lambda: (mask[..., 0] > 0).astype(np.uint8),
    )


def _text(value: Any, default: str) -> str:
    if value is None:
        return default
    return value.decode() if isinstance(value, bytes) else str(value)


def _mvtec_root(path: str, category: str) -> Path:
    if category not in CATEGORIES:
        near = difflib.get_close_matches(category, CATEGORIES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CATEGORIES)}"
        raise UserError(f"config.data.name = 'mvtec_ad/{category}': no such category; {hint}")
    root = path or os.environ.get("DAAD_MVTEC_DIR", "")
    if not root:
        raise UserError(
            "mvtec_ad: where is it? Download MVTec AD and set config.data.path or DAAD_MVTEC_DIR to "
            "the folder that holds its categories"
        )
    return Path(root)


def _prepare(builder: Any, name: str, directory: str) -> None:
    if name in ("mnist", "cifar10") and importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{name}: not prepared in {directory}, and TFDS needs TensorFlow to prepare it: pip "
            "install tensorflow (or point TFDS_DATA_DIR to a directory where it is prepared)"
        )
    print(f"preparing {builder.info.full_name} in {directory} (once)", flush=True)
    try:
        builder.download_and_prepare()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{name}: cannot be prepared in {directory}: {error}") from error

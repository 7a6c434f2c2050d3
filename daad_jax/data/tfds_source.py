"""Opens the data sets of the catalogue through TFDS, with its own builders and with ours."""

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from daad_jax.config import DataConfig
from daad_jax.data.catalogue import DataSet, find_data_set
from daad_jax.data.images import decode
from daad_jax.data.samples import GOOD, Sample, Samples
from daad_jax.errors import UserError

AT_ONCE = 64  # encoded examples in memory while they are listed
FEW_BYTES = 4096  # of an encoded image: it stays in memory, since reading it again takes longer than decoding


def open_named(config: DataConfig) -> Samples:
    """Opens a TFDS data set of the catalogue, and prepares it first where that was not done.

    Raises:
        UserError: what is missing to prepare it, with the remedy.
    """
    import tensorflow_datasets as tfds  # slow to import, and not needed for folders

    logging.set_verbosity(logging.ERROR)  # TFDS recommends OpenCV and TensorFlow at every call
    importlib.import_module("daad_jax.data.tfds_builders")  # TFDS knows our builders from here on

    directory = _directory(config)

    def build() -> Any:
        return tfds.builder(config.name, data_dir=directory, file_format="array_record")

    builder = build()
    if not builder.data_path.exists():
        _prepare(builder, config, directory)
        builder = build()
    folder = Path(builder.data_path)
    stamps = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(folder.iterdir())]

    def read() -> tuple[list[Sample], list[Sample]]:
        # Encoded images pass as they are, and all but tiny ones are read again: a set may exceed the memory.
        raw = {k: tfds.decode.SkipDecoding() for k in ("image", "mask") if k in builder.info.features}
        sources = builder.as_data_source(decoders=raw)
        kinds = builder.info.features["label"].names
        train, test = (_samples(sources[s], s, kinds, config.channels) for s in ("train", "test"))
        return train, test

    return Samples(f"tfds {builder.info.full_name} {folder} {stamps}", read)


def available_subjects(data_set: DataSet, config: DataConfig) -> tuple[str, ...]:
    """The classes or parts whose images are here: prepared in the TFDS directory, or as original files.

    A data set without a folder of original files counts as here, because TFDS or our builder fetches it.
    """
    if not data_set.folder_variable:
        return data_set.subjects
    directory = _directory(config)
    originals = _originals_folder(data_set, config.path, directory)
    return tuple(
        part
        for part in data_set.parts
        if (originals / part / "train").is_dir() or (Path(directory) / data_set.name / part).is_dir()
    )


def _samples(source: Any, split: str, kinds: list[str], channels: int) -> list[Sample]:
    found: list[Sample] = []
    for start in range(0, len(source), AT_ONCE):
        indices = range(start, min(start + AT_ONCE, len(source)))
        for i, example in zip(indices, source.__getitems__(indices)):
            found.append(_sample(source, i, example, f"{split}/{i:05d}", kinds, channels))
    return found


def _sample(
    source: Any, index: int, example: dict[str, Any], default: str, kinds: list[str], channels: int
) -> Sample:
    name = _text(example.get("name"), default)
    kind = _text(example.get("kind"), kinds[int(example["label"])])
    tiny = example["image"] if len(example["image"]) <= FEW_BYTES else None

    def load_mask() -> np.ndarray:
        return (decode(source[index]["mask"], 1, name)[..., 0] > 127).astype(np.uint8)

    return Sample(
        name=name,
        kind=kind,
        load=lambda: decode(tiny or source[index]["image"], channels, name),
        load_mask=load_mask if "mask" in example and kind != GOOD else None,
    )


def _text(value: Any, default: str) -> str:
    if value is None:
        return default
    return value.decode() if isinstance(value, bytes) else str(value)


def _prepare(builder: Any, config: DataConfig, directory: str) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.util import DownloadError

    name, settings = config.name, dict[str, Any]()
    data_set = find_data_set(name)
    if data_set.needs_tensorflow:
        if importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                f"{name}: not prepared in {directory}, and TFDS needs TensorFlow to prepare it: pip "
                "install tensorflow (or point TFDS_DATA_DIR to a directory where it is prepared)"
            )
    else:
        tfds.disable_progress_bar()  # TFDS's bars are for downloads; ours take seconds
    if data_set.folder_variable:
        originals = _find_originals(data_set, config.path, directory)
        settings["download_config"] = tfds.download.DownloadConfig(manual_dir=str(originals))
    print(f"preparing {builder.info.full_name} in {directory} (once)", flush=True)
    try:
        builder.download_and_prepare(**settings)
    except (OSError, DownloadError) as error:
        if builder.data_path.exists():  # whole: another process was faster
            return
        raise UserError(
            f"{name}: cannot be prepared in {directory}: {str(error)[:200]}; try again, or point "
            "TFDS_DATA_DIR to a directory where it is prepared"
        ) from error


def _directory(config: DataConfig) -> str:
    chosen = config.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return os.path.expanduser(chosen)


def _originals_folder(data_set: DataSet, path: str, directory: str) -> Path:
    """The folder of original files: as configured, as the environment says, or TFDS's own place for them."""
    chosen = path or os.environ.get(data_set.folder_variable, "")
    return Path(chosen).expanduser() if chosen else Path(directory) / "downloads" / "manual"


def _find_originals(data_set: DataSet, path: str, directory: str) -> Path:
    """Returns the folder of original files. Raises UserError if the folder has no part of the data set."""
    folder = _originals_folder(data_set, path, directory)
    if not any((folder / part / "train").is_dir() for part in data_set.parts):
        raise UserError(
            f"{data_set.name}: not in {folder}; download {data_set.title} and set config.data.path or "
            f"{data_set.folder_variable} to the folder that holds its {data_set.plural} "
            f"({', '.join(data_set.parts[:2])}, ...)"
        )
    return folder

"""Opens the data sets of the catalogue through TFDS, with its own builders and with ours."""

import hashlib
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from daad_jax.config import DataConfig
from daad_jax.data.catalogue import DataSet, find_data_set
from daad_jax.data.decoding import Picture, decode
from daad_jax.data.images import to_pixels
from daad_jax.data.samples import GOOD, TEST, TRAIN, Listing, Sample, Source
from daad_jax.errors import UserError

EXAMPLES_PER_READ = 64  # encoded examples that are in memory at once while a data set is listed
# Encoded images up to this size stay in memory, because reading them again takes longer than decoding.
MAX_KEPT_BYTES = 4096


def open_tfds(config: DataConfig) -> Source:
    """Opens a data set of the catalogue through TFDS, and prepares the data set first if necessary.

    Raises:
        UserError: the data set cannot be prepared; the message says what is missing and how to get it.
    """
    import tensorflow_datasets as tfds  # slow to import, and folders do not need it

    logging.set_verbosity(logging.ERROR)  # TFDS recommends OpenCV and TensorFlow at every call
    importlib.import_module("daad_jax.data.tfds_builders")  # registers our builders with TFDS

    directory = _directory(config)

    def build() -> Any:
        return tfds.builder(config.name, data_dir=directory, file_format="array_record")

    builder = build()
    if not builder.data_path.exists():
        _prepare(builder, config, directory)
        builder = build()
    folder = Path(builder.data_path)
    stamps = [_stamp(file) for file in sorted(folder.iterdir())]

    def read() -> Listing:
        # TFDS hands out the encoded images; we decode them, so that every image enters in the same way.
        decoders = {k: tfds.decode.SkipDecoding() for k in ("image", "mask") if k in builder.info.features}
        parts = builder.as_data_source(decoders=decoders)
        class_names = builder.info.features["label"].names
        samples = [sample for p in (TRAIN, TEST) for sample in _list_samples(parts[p], p, class_names)]
        return Listing(samples, [])

    return Source(f"tfds {builder.info.full_name} {folder} {stamps}", read)


def _stamp(file: Path) -> tuple[str, int, int, int, int]:
    """What changes when a file is written or replaced, also if its size and its time are then set back."""
    status = file.stat()
    return file.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


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


def _list_samples(part: Any, part_name: str, class_names: list[str]) -> list[Sample]:
    """Lists a part of a data set; `part` is a TFDS data source of encoded examples."""
    samples: list[Sample] = []
    for start in range(0, len(part), EXAMPLES_PER_READ):
        indices = range(start, min(start + EXAMPLES_PER_READ, len(part)))
        for i, example in zip(indices, part.__getitems__(indices)):
            samples.append(_make_sample(part, i, example, part_name, class_names))
    return samples


def _make_sample(
    part: Any,
    index: int,
    example: dict[str, Any],
    part_name: str,
    class_names: list[str],
) -> Sample:
    name = _to_text(example.get("name"), f"{part_name}/{index:05d}")
    kind = _to_text(example.get("kind"), class_names[int(example["label"])])
    # Large images are read again when they are decoded: all together may exceed the memory.
    kept = example["image"] if len(example["image"]) <= MAX_KEPT_BYTES else None

    def load() -> tuple[Picture, str]:
        content = kept or part[index]["image"]
        return decode(content, name), hashlib.sha256(content).hexdigest()

    def load_mask() -> tuple[np.ndarray, dict[str, str]]:
        pixels = to_pixels(decode(part[index]["mask"], name), 1)[..., 0]
        return (pixels > 0).astype(np.uint8), {}

    return Sample(name, part_name, kind, load, load_mask if "mask" in example and kind != GOOD else None)


def _to_text(value: Any, default: str) -> str:
    if value is None:
        return default
    return value.decode() if isinstance(value, bytes) else str(value)


def _prepare(builder: Any, config: DataConfig, directory: str) -> None:
    """Has TFDS download a data set, or read its original files, and write its own files."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.util import DownloadError

    name, settings = config.name, dict[str, Any]()
    data_set = find_data_set(name)
    if data_set.needs_tensorflow:
        if importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                f"{name}: this data set is not prepared in {directory}, and TFDS needs TensorFlow to prepare "
                "it; run pip install tensorflow, or set TFDS_DATA_DIR to a directory where the data set is "
                "prepared"
            )
    else:
        tfds.disable_progress_bar()  # our builders download nothing and take seconds
    if data_set.folder_variable:
        originals = _find_originals(data_set, config.path, directory)
        settings["download_config"] = tfds.download.DownloadConfig(manual_dir=str(originals))
    print(f"Preparing {builder.info.full_name} in {directory} for this and all later runs.", flush=True)
    try:
        builder.download_and_prepare(**settings)
    except (OSError, DownloadError) as error:
        if builder.data_path.exists():  # another process has prepared the data set in the meantime
            return
        raise UserError(
            f"{name}: TFDS cannot prepare this data set in {directory} ({str(error)[:200]}); try again, or "
            "set TFDS_DATA_DIR to a directory where the data set is prepared"
        ) from error


def _directory(config: DataConfig) -> str:
    """The directory of prepared data sets: as configured, $TFDS_DATA_DIR, or TFDS's default."""
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

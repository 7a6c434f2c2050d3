"""Opens the named data sets through TFDS: its own `mnist` and `cifar10`, our `solar_cells` and `mvtec_ad`."""

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from daad_jax.config import DataConfig
from daad_jax.data.catalogue import CATEGORIES, CLASSES
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


def categories_at_hand(config: DataConfig) -> tuple[str, ...]:
    """Categories of MVTec AD that can be opened: prepared in the TFDS directory, or to be prepared."""
    directory = Path(_directory(config))
    root = _mvtec_folder(config.path, str(directory))
    return tuple(
        category
        for category in CATEGORIES
        if (root / category / "train").is_dir() or (directory / "mvtec_ad" / category).is_dir()
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
    if name in CLASSES:
        if importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                f"{name}: not prepared in {directory}, and TFDS needs TensorFlow to prepare it: pip "
                "install tensorflow (or point TFDS_DATA_DIR to a directory where it is prepared)"
            )
    else:
        tfds.disable_progress_bar()  # TFDS's bars are for downloads; ours take seconds
    if name.startswith("mvtec_ad/"):
        root = _mvtec_root(config.path, directory)
        settings["download_config"] = tfds.download.DownloadConfig(manual_dir=str(root))
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


def _mvtec_folder(path: str, directory: str) -> Path:
    """The folder of categories: as configured, $DAAD_MVTEC_DIR, or where TFDS keeps manual downloads."""
    chosen = path or os.environ.get("DAAD_MVTEC_DIR", "")
    return Path(chosen).expanduser() if chosen else Path(directory) / "downloads" / "manual"


def _mvtec_root(path: str, directory: str) -> Path:
    """Raises UserError where there is no category in the folder of categories."""
    root = _mvtec_folder(path, directory)
    if not any((root / category / "train").is_dir() for category in CATEGORIES):
        raise UserError(
            f"mvtec_ad: not in {root}; download MVTec AD and set config.data.path or DAAD_MVTEC_DIR to "
            "the folder that holds its categories (bottle, cable, ...)"
        )
    return root

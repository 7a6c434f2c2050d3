"""Opens data sets through TFDS: our catalogue, and any other set with one image and one class label."""

import hashlib
import importlib
import importlib.util
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from daad_jax.buckets import is_in_bucket, open_place
from daad_jax.config import DataConfig
from daad_jax.data.catalogue import DATA_SETS, DataSet, find_data_set
from daad_jax.data.decoding import Picture, decode
from daad_jax.data.deep_pixels import find_pixel_type
from daad_jax.data.images import to_pixels
from daad_jax.data.locations import tfds_directory
from daad_jax.data.samples import GOOD, TEST, TRAIN, Listing, Sample, Source
from daad_jax.errors import UserError, did_you_mean
from daad_jax.terminal import say

EXAMPLES_PER_READ = 64  # this many encoded examples are in memory while a data set is listed
# Encoded images up to this size stay in memory, because reading them again takes longer than decoding.
MAX_KEPT_BYTES = 4096
# NAME or NAME/CONFIG, also with a version. TFDS would read more from a name: arguments of the builder, and
# addresses of code to download.
NAME = re.compile(r"[A-Za-z]\w*(/[^:=,/]+)?(:\d+\.\d+\.\d+)?")
TEST_SPLITS = ("test", "validation")  # the first one that exists and has labels is tested


@dataclass(frozen=True)
class _Features:
    """The features of an example that we use.

    `has_kinds` is True if a text says what each image shows, as in our own builders. Otherwise the class
    label says it.
    """

    image: str
    label: str
    class_names: list[str]
    has_kinds: bool
    has_masks: bool


def open_tfds(config: DataConfig) -> Source:
    """Opens a data set through TFDS, and prepares the data set first if necessary.

    Raises:
        UserError: there is no such data set, it is no set of images with classes, it cannot be prepared, or
            its files cannot be read; the message says what to do.
    """
    # Prepare the data set if it is not prepared yet.
    builder = _make_builder(config)
    if not builder.data_path.exists():
        directory = tfds_directory(config)
        if is_in_bucket(directory):
            raise UserError(
                f"{config.name}: this data set is not prepared in {directory}, and TFDS cannot prepare it in "
                "a bucket; prepare it in a folder (--config.data.data_dir=FOLDER), then copy it: gcloud "
                f"storage cp -r FOLDER/{builder.name} {directory.rstrip('/')}/"
            )
        _prepare(builder, config, directory)
        builder = _make_builder(config)
    features = _find_features(builder, config.name)
    stamps = [_stamp(file) for file in sorted(builder.data_path.iterdir())]

    def read() -> Listing:
        # TFDS returns encoded images, and we decode them, so that all images are decoded in the same way.
        import tensorflow_datasets as tfds

        encoded = [features.image] + ["mask"] * features.has_masks
        try:
            parts = builder.as_data_source(decoders={name: tfds.decode.SkipDecoding() for name in encoded})
        except NotImplementedError as error:  # TFDS reads this format only with TensorFlow
            raise UserError(_explain_format(builder, config.name)) from error
        if "train" not in parts:
            raise UserError(
                f"{config.name}: this data set has no split 'train' to train on; it has {', '.join(parts)}"
            )
        test = next(
            (name for name in TEST_SPLITS if name in parts and _is_labelled(parts[name], features)), ""
        )
        samples = _list_samples(parts["train"], TRAIN, TRAIN, features, config.max_pixels)
        samples += _list_samples(parts[test], TEST, test, features, config.max_pixels) if test else []
        return Listing(samples, [])

    return Source(f"tfds {builder.info.full_name} {builder.data_path} {stamps}", read)


def tfds_classes(config: DataConfig) -> tuple[str, ...]:
    """Returns the class names of a data set, in the order of their labels; () if it has kinds instead.

    Nothing is downloaded.

    Raises:
        UserError: there is no such data set, or it is no set of images with classes.
    """
    if config.name.partition("/")[0] in DATA_SETS:
        return find_data_set(config.name).classes
    features = _find_features(_make_builder(config), config.name)
    return () if features.has_kinds else tuple(features.class_names)


def _make_builder(config: DataConfig) -> Any:
    """Makes the builder of a data set. The data set need not be prepared.

    Raises:
        UserError: TFDS knows no such data set, and none is prepared in the directory.
    """
    import tensorflow_datasets as tfds  # slow to import, and folders do not need it

    logging.set_verbosity(logging.ERROR)  # TFDS recommends OpenCV and TensorFlow at every call
    importlib.import_module("daad_jax.data.tfds_builders")  # registers our builders with TFDS
    name, directory = config.name, tfds_directory(config)
    if not NAME.fullmatch(name):
        raise UserError(
            f"config.data.name = {name!r}: this is no name of a TFDS data set; give NAME or NAME/CONFIG, for "
            "instance --config tfds:NAME:CLASS"
        )
    open_place(directory)  # raises an error if the directory is a bucket that cannot be used
    try:
        try:
            return tfds.builder(name, data_dir=directory, file_format="array_record")
        except ValueError:  # perhaps the data set is prepared in another format
            return tfds.builder(name, data_dir=directory)
    except tfds.core.registered.DatasetNotFoundError as error:
        known = {*DATA_SETS, *tfds.list_builders(with_community_datasets=False)}
        match = did_you_mean(name.partition("/")[0], sorted(known))
        hint = f"{match} " if match.startswith("did") else ""
        raise UserError(
            f"config.data.name = {name!r}: no such data set; {hint}TFDS does not know it, and it is not "
            f"prepared in {directory} (config.data.data_dir or TFDS_DATA_DIR)"
        ) from error
    except Exception as error:  # a builder is foreign code, and may raise any error
        raise UserError(
            f"config.data.name = {name!r}: TFDS cannot open this data set ({_first_line(error)}); correct "
            "the name, or set config.data.data_dir or TFDS_DATA_DIR to the directory where it is prepared"
        ) from error


def _find_features(builder: Any, name: str) -> _Features:
    """Chooses the features by their types.

    Raises:
        UserError: there is not exactly one image and one class label, or the pixels are no integers.
    """
    import tensorflow_datasets as tfds

    types = tfds.features
    of_builder = builder.info.features
    # Sort the features, because their order changes from process to process in a prepared data set.
    features = dict(sorted(of_builder.items())) if isinstance(of_builder, types.FeaturesDict) else {}
    has_kinds = isinstance(features.get("kind"), types.Text)
    has_masks = has_kinds and isinstance(features.get("mask"), types.Image)
    images = [
        key
        for key, feature in features.items()
        if isinstance(feature, types.Image)
        and not isinstance(feature, types.LabeledImage)
        and not (has_masks and key == "mask")
    ]
    labels = [key for key, feature in features.items() if isinstance(feature, types.ClassLabel)]
    for found, what in ((images, "image"), (labels, "class label")):
        if len(found) != 1:
            count = f"{len(found)} features ({', '.join(found)}) are" if found else "no feature is"
            raise UserError(
                f"{name}: {count} of the type {what}, but exactly one must be; its features are "
                f"{', '.join(features) or of_builder}. Choose another data set, or save its images in a "
                "folder and give --config folder:PATH"
            )
    (image,), (label,) = images, labels
    if np.dtype(features[image].np_dtype).kind != "u":
        raise UserError(
            f"{name}: the pixels of {image!r} are of the type {np.dtype(features[image].np_dtype)}, but only "
            "integers can be read; choose another data set"
        )
    return _Features(image, label, list(features[label].names or ()), has_kinds, has_masks)


def _is_labelled(part: Any, features: _Features) -> bool:
    """Whether the first image of a part has a class. TFDS gives -1 to images without a class."""
    return bool(len(part)) and int(part[0][features.label]) >= 0


def _stamp(file: Any) -> tuple[str | float, ...]:
    """Returns name, size, times and inode of a file; name, size and time if the file is in a bucket."""
    if is_in_bucket(file):
        stat = file.stat()
        return file.name, stat.length, stat.mtime
    local = os.stat(file)  # `epath` would round the time to seconds
    return file.name, local.st_size, local.st_mtime_ns, local.st_ctime_ns, local.st_ino


def _explain_format(builder: Any, name: str) -> str:
    return (
        f"{name}: its files in {builder.data_path} are of the format {builder.info.file_format.value}, which "
        "can only be read from beginning to end, with TensorFlow; prepare the data set once more in another "
        "directory, by tfds build --file_format=array_record --data_dir=DIRECTORY, and set "
        "config.data.data_dir or TFDS_DATA_DIR to that directory"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def available_subjects(data_set: DataSet, config: DataConfig) -> tuple[str, ...]:
    """Returns the classes or parts whose images are here: prepared in the TFDS directory, or original files.

    A data set without a folder of original files is always here, because TFDS or our builder fetches it.
    """
    if not data_set.folder_variable:
        return data_set.subjects
    directory = tfds_directory(config)
    originals = _originals_folder(data_set, config.path, directory)
    return tuple(
        part
        for part in data_set.parts
        if (originals / part / "train").is_dir() or (epath.Path(directory) / data_set.name / part).is_dir()
    )


def _list_samples(part: Any, role: str, split: str, features: _Features, max_pixels: int) -> list[Sample]:
    """Lists a split of a data set for the part `role`; `part` is a TFDS data source of encoded examples."""
    samples: list[Sample] = []
    for start in range(0, len(part), EXAMPLES_PER_READ):
        indices = range(start, min(start + EXAMPLES_PER_READ, len(part)))
        for i, example in zip(indices, part.__getitems__(indices)):
            samples.append(_make_sample(part, i, example, role, f"{split}/{i:05d}", features, max_pixels))
    return samples


def _make_sample(
    part: Any,
    index: int,
    example: dict[str, Any],
    role: str,
    number: str,
    features: _Features,
    max_pixels: int,
) -> Sample:
    """Describes an example of TFDS. Its image and mask are decoded only when they are needed."""
    label = int(example[features.label])
    if label < 0:
        raise UserError(f"{number}: this image has no class (its label is {label}); choose another data set")
    name, kind = number, features.class_names[label]
    if features.has_kinds:
        name, kind = _to_text(example.get("name"), number), _to_text(example["kind"], kind)
    encoded = example[features.image]
    # Large images are read again when they are decoded, because all together may exceed the memory.
    kept = encoded if len(encoded) <= MAX_KEPT_BYTES else None

    def load() -> tuple[Picture, str]:
        content = kept or part[index][features.image]
        return decode(content, name, max_pixels=max_pixels), hashlib.sha256(content).hexdigest()

    def load_mask() -> tuple[np.ndarray, dict[str, str]]:
        pixels = to_pixels(decode(part[index]["mask"], name, max_pixels=max_pixels), 1)[..., 0]
        return (pixels > 0).astype(np.uint8), {}

    return Sample(
        name,
        role,
        kind,
        load,
        load_mask if features.has_masks and kind != GOOD else None,
        pixel_type=lambda: find_pixel_type(kept or part[index][features.image]),
    )


def _to_text(value: Any, default: str) -> str:
    if value is None:
        return default
    return value.decode() if isinstance(value, bytes) else str(value)


def _prepare(builder: Any, config: DataConfig, directory: str) -> None:
    """Has TFDS download a data set, or read its original files, and write its own files."""
    import tensorflow_datasets as tfds

    name, settings = config.name, dict[str, Any]()
    # A data set that is not in our catalogue comes from TFDS, or from a foreign builder.
    data_set = find_data_set(name) if name.partition("/")[0] in DATA_SETS else None
    is_tfds_own = type(builder).__module__.startswith("tensorflow_datasets.")
    if data_set.needs_tensorflow if data_set else is_tfds_own:
        if importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                f"{name}: this data set is not prepared in {directory}, and TFDS needs TensorFlow to prepare "
                "it; run pip install tensorflow, or set TFDS_DATA_DIR to a directory where the data set is "
                "prepared"
            )
    else:
        tfds.disable_progress_bar()  # our builders download nothing and take seconds
    if data_set and data_set.folder_variable:
        originals = _find_originals(data_set, config.path, directory)
        settings["download_config"] = tfds.download.DownloadConfig(manual_dir=str(originals))
    say(f"Preparing {builder.info.full_name} in {directory} for this and all later runs.")
    try:
        builder.download_and_prepare(**settings)
    except UserError:
        raise
    except Exception as error:  # a download, a disk or a foreign builder may raise any error
        if builder.data_path.exists():  # another process has prepared the data set meanwhile
            return
        raise UserError(
            f"{name}: TFDS cannot prepare this data set in {directory} ({str(error)[:200]}); try again, or "
            "set TFDS_DATA_DIR to a directory where the data set is prepared"
        ) from error


def _originals_folder(data_set: DataSet, path: str, directory: str) -> epath.Path:
    """Returns the folder of original files: as configured, from the environment, or TFDS's own place."""
    chosen = path or os.environ.get(data_set.folder_variable, "")
    return epath.Path(chosen).expanduser() if chosen else epath.Path(directory) / "downloads" / "manual"


def _find_originals(data_set: DataSet, path: str, directory: str) -> epath.Path:
    """Returns the folder of original files. Raises UserError if the folder has no part of the data set."""
    folder = _originals_folder(data_set, path, directory)
    if not any((folder / part / "train").is_dir() for part in data_set.parts):
        raise UserError(
            f"{data_set.name}: not in {folder}; download {data_set.title} and set config.data.path or "
            f"{data_set.folder_variable} to the folder that holds its {data_set.plural} "
            f"({', '.join(data_set.parts[:2])}, ...)"
        )
    return folder

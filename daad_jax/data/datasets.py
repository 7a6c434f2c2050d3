"""From a configuration to the three splits of a run."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.config import Config, DataConfig
from daad_jax.data import cache, protocol
from daad_jax.data.cache import Decoded
from daad_jax.data.folder_source import open_folder
from daad_jax.data.history import CALIBRATED, TRAINED, UNUSED, ContentIndex, History
from daad_jax.data.labelled_folder import open_labelled_folder
from daad_jax.data.memory_source import check_splits, collect_images
from daad_jax.data.samples import GOOD, NormalImage, Rows, Source, Split, Splits
from daad_jax.data.tfds_source import open_tfds, tfds_classes
from daad_jax.errors import UserError

MAX_FOLDERS_IN_NOTE = 10
MAX_REASONS_IN_NOTE = 5  # a note gives reasons for this many unreadable images, and counts the others


def load(config: Config, history: History | None = None) -> Splits:
    """Opens the source, decodes its images into the cache, and applies the protocol.

    The images stay on the disk (`Rows`). The test split is empty if the source has no test images.

    Args:
        config: of the run.
        history: what an earlier training of the run decided, see `History.cut`.

    Raises:
        UserError: see `open_folder`, `open_tfds`, `cache.load_decoded`, `protocol` and `History.cut`.
    """
    data = config.data
    if data.source == "memory":
        raise UserError(
            "config.data.source = 'memory': the images of this run were given in Python and are not stored; "
            "give train the same data again, or give evaluate a folder of test images with --data FOLDER"
        )
    classes = () if data.source == "folder" else tfds_classes(data)
    protocol.check(classes, data)  # before anything is downloaded
    decoded = cache.load_decoded(_open_source(data), data)
    labels = protocol.labels(decoded.kinds, classes, data)
    return _make_splits(decoded, labels, config, history)


def load_from_memory(given: Any, config: Config, history: History | None = None) -> Splits:
    """The splits of images that were given in Python.

    Args:
        given: `Splits`, which stay as they are, or anything that `memory_source.collect_images` takes: its
            images all count as normal, and a share of them is held out.
        config: of the run.
        history: what an earlier training of the run decided, see `History.cut`.

    Raises:
        UserError: see `check_splits`, `collect_images`, `protocol` and `History.cut`.
    """
    if isinstance(given, Splits):
        normal = check_splits(given, config.data)
        # Which images are held out is part of what is given.
        return replace(given, normal=normal, normal_digest=_digest(normal, with_roles=True))
    decoded = collect_images(given, config.data)
    return _make_splits(decoded, np.zeros(len(decoded.names), np.int8), config, history)


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images from outside of a run's own data.

    `test` are the images to test, and `sha256` has the SHA-256 of each one's file. `notes` are sentences for
    the user.
    """

    test: Split
    sha256: list[str]
    notes: list[str]


def load_test(config: Config, folder: Path, history: History | None = None) -> LabelledImages:
    """The labelled images of any folder, to test a run with.

    If the folder has a part to train on, only its test part is tested; otherwise all its images are. Images
    that have trained the run or were held out are left out, because they would flatter the figures.

    Args:
        config: of the run: its protocol, the size of the images, and what to do with unreadable ones.
        folder: see `open_labelled_folder`.
        history: of the run, if it is known.

    Raises:
        UserError: see `open_labelled_folder`, `cache.load_decoded` and `protocol`; or the folder's kinds are
            neither "good" and kinds of defects, nor classes of the run.
    """
    decoded = cache.load_decoded(open_labelled_folder(folder), config.data)
    labels = _label_kinds(decoded.kinds, config.data, folder)
    images = _describe_images(decoded, np.arange(len(labels)))
    unreadable = {index for index, _ in decoded.skipped}
    notes = _note_unreadable(decoded)
    left_out: set[int] = set(unreadable)
    for past, what in (
        (history.trained if history else [], "have trained this run"),
        (history.held_out if history else [], "were held out to set its threshold"),
    ):
        index = ContentIndex(past)
        known = {i for i, image in enumerate(images) if image in index} - left_out
        if known:
            notes.append(
                f"{len(known)} of the {len(images)} images of {folder} {what}, so they are not tested: they "
                "would make the figures look better than they are."
            )
        left_out |= known
    kept = np.array([i for i in range(len(images)) if i not in left_out], int)
    chosen = protocol.limit_per_label(labels[kept], config.data.limit_test, config.seed)
    if len(chosen) < len(kept):
        notes.append(
            f"{len(kept) - len(chosen)} images of {folder} are not tested, because this run has "
            f"config.data.limit_test = {config.data.limit_test} for each label."
        )
    kept = kept[chosen]
    return LabelledImages(
        _make_split(decoded, labels, kept, with_masks=True), [images[i].sha256 for i in kept], notes
    )


def _label_kinds(kinds: list[str], data: DataConfig, folder: Path) -> np.ndarray:
    """0 (normal) or 1 (anomalous) for images of a labelled folder, int8 `[N]`."""
    if data.protocol == "inspection" or GOOD in kinds:
        return protocol.labels(kinds, (), replace(data, protocol="inspection"))
    classes = tfds_classes(data) if data.source == "tfds" else ()
    if unknown := sorted(set(kinds) - set(classes)):
        raise UserError(
            f"{folder}: the sub-folder {unknown[0]!r} is no class of this run, and there is no sub-folder "
            f"{GOOD!r}; name the sub-folders after the classes, or put normal images into {GOOD!r}"
        )
    return protocol.labels(kinds, classes, data)


def _make_splits(decoded: Decoded, labels: np.ndarray, config: Config, history: History | None) -> Splits:
    data = config.data
    # Unreadable images are in no split.
    is_usable = np.ones(len(labels), bool)
    is_usable[[index for index, _ in decoded.skipped]] = False

    def cut_as_before(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        images = _describe_images(decoded, normal)
        return history.cut(images, _digest(images), data, config.seed) if history else None

    roles = protocol.assign(decoded.parts, labels, is_usable, data, config.seed, cut_as_before)
    normal = _describe_images(decoded, roles.normal)
    return Splits(
        train=_make_split(decoded, labels, roles.train, with_masks=False),
        calibration=_make_split(decoded, labels, roles.held_out, with_masks=False),
        test=_make_split(decoded, labels, roles.test, with_masks=True),
        notes=_make_notes(decoded, data),
        normal_digest=_digest(normal),
        normal=_with_roles(normal, roles),
    )


def _with_roles(normal: list[NormalImage], roles: protocol.Roles) -> list[NormalImage]:
    role_of = dict.fromkeys(roles.train.tolist(), TRAINED) | dict.fromkeys(
        roles.held_out.tolist(), CALIBRATED
    )
    return [
        replace(image, role=role_of.get(index, UNUSED)) for image, index in zip(normal, roles.normal.tolist())
    ]


def _describe_images(decoded: Decoded, indices: np.ndarray) -> list[NormalImage]:
    """What a run remembers of some images, without their roles."""
    sha256_of = {file.name: file.sha256 for file in decoded.files}

    def find_sha256(name: str) -> str:
        if name in sha256_of:
            return sha256_of[name]
        file, mark, page = name.rpartition("#")  # a page of a file
        return f"{sha256_of[file]}{mark}{page}" if sha256_of.get(file) else ""

    names, checksums = decoded.names, decoded.checksums
    return [NormalImage(names[i], checksums[i], find_sha256(names[i])) for i in indices]


def _open_source(data: DataConfig) -> Source:
    if data.source != "folder":
        return open_tfds(data)
    if not data.path:
        raise UserError(
            "config.data.path is empty; give the folder of images, for instance --config folder:PATH"
        )
    return open_folder(Path(data.path), data.mixed_channels)


def _make_split(decoded: Decoded, labels: np.ndarray, indices: np.ndarray, with_masks: bool) -> Split:
    return Split(
        images=Rows(decoded.images, indices),
        labels=labels[indices],
        kinds=[decoded.kinds[i] for i in indices],
        names=[decoded.names[i] for i in indices],
        masks=np.asarray(decoded.masks[indices]) if with_masks and decoded.masks is not None else None,
    )


def _digest(images: Sequence[NormalImage], with_roles: bool = False) -> str:
    """A digest of the names and pixels of some images. The folder of the images does not matter."""
    digest = hashlib.sha256()
    for image in images:
        text = f"{image.name}\0{image.checksum}\0" + (f"{image.role}\0" if with_roles else "")
        digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _make_notes(decoded: Decoded, data: DataConfig) -> list[str]:
    """Sentences about the images that were left out or changed, and about folders that all count as good."""
    notes: list[str] = []
    folders = Counter(str(Path(name).parent) for name in decoded.names)
    if data.source == "folder" and not (Path(data.path) / "train").is_dir() and len(folders) > 1:
        counts = [f"{name} ({count})" for name, count in folders.most_common(MAX_FOLDERS_IN_NOTE)]
        if len(folders) > len(counts):
            counts.append(f"and {len(folders) - len(counts)} more")
        notes.append(
            f"All images below {data.path} count as good: {', '.join(counts)}. If a folder holds anomalous "
            "images, give the folder of good images, or use the layout train/good, test/good and "
            "test/<defect type>."
        )
    notes += _note_unreadable(decoded)
    if data.fit != "exact":
        notes.append(
            f"Images of other sizes are brought to {data.height} x {data.width} pixels "
            f"(config.data.fit = {data.fit!r})."
        )
    return notes


def _note_unreadable(decoded: Decoded) -> list[str]:
    count = len(decoded.skipped)
    if not count:
        return []
    reasons = [reason for _, reason in decoded.skipped[:MAX_REASONS_IN_NOTE]]
    if count > len(reasons):
        reasons.append(f"and {count - len(reasons)} more")
    images = "1 image that" if count == 1 else f"{count} images that"
    return [f"Training and testing leave out {images} cannot be read: {'; '.join(reasons)}."]

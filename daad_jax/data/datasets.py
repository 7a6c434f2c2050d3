"""From a configuration to the three splits of a run."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from daad_jax.config import Config, DataConfig
from daad_jax.data import cache, protocol
from daad_jax.data.cache import Decoded
from daad_jax.data.catalogue import find_data_set
from daad_jax.data.folder_source import open_folder
from daad_jax.data.groups import describe, open_grouping
from daad_jax.data.samples import Rows, Source, Split, Splits
from daad_jax.data.tfds_source import open_tfds
from daad_jax.errors import UserError

MAX_FOLDERS_IN_NOTE = 10
MAX_REASONS_IN_NOTE = 5  # a note gives reasons for this many unreadable images, and counts the others


def load(config: Config, check: bool = False) -> Splits:
    """Opens the source, decodes its images into the cache, and applies the protocol.

    The images stay on the disk (`Rows`). The test split is empty if the source has no test images. `check` is
    for `cache.load_decoded`.

    Raises:
        UserError: see `find_data_set`, `open_folder`, `open_tfds`, `open_grouping`, `cache.load_decoded` and
            `protocol`.
    """
    data = config.data
    classes = () if data.source == "folder" else find_data_set(data.name).classes
    protocol.check(classes, data)  # before anything is downloaded
    grouping = open_grouping(data)
    source = _open_source(data)
    decoded = cache.load_decoded(source, data, check)
    labels = protocol.labels(decoded.kinds, classes, data)

    # Unreadable images are in no split.
    is_usable = np.ones(len(labels), bool)
    is_usable[[index for index, _ in decoded.skipped]] = False
    groups = grouping.group(decoded.names) if grouping else None
    numbers = groups.numbers if groups else None
    roles = protocol.assign(decoded.parts, labels, is_usable, data, config.seed, numbers)
    notes = _make_notes(decoded, data)
    if groups:
        notes += describe(groups, decoded.names, roles.normal, roles.held_out, data.group)
    return Splits(
        train=_make_split(decoded, labels, roles.train, numbers, with_masks=False),
        calibration=_make_split(decoded, labels, roles.held_out, numbers, with_masks=False),
        test=_make_split(decoded, labels, roles.test, numbers, with_masks=True),
        notes=notes,
        normal_digest=_digest(decoded, roles.normal, numbers),
    )


def _open_source(data: DataConfig) -> Source:
    if data.source != "folder":
        return open_tfds(data)
    if not data.path:
        raise UserError(
            "config.data.path is empty; give the folder of images, for instance --config folder:PATH"
        )
    return open_folder(Path(data.path), data.mixed_channels)


def _make_split(
    decoded: Decoded, labels: np.ndarray, indices: np.ndarray, groups: np.ndarray | None, with_masks: bool
) -> Split:
    return Split(
        images=Rows(decoded.images, indices),
        labels=labels[indices],
        kinds=[decoded.kinds[i] for i in indices],
        names=[decoded.names[i] for i in indices],
        masks=np.asarray(decoded.masks[indices]) if with_masks and decoded.masks is not None else None,
        groups=None if groups is None else groups[indices],
    )


def _digest(decoded: Decoded, indices: np.ndarray, groups: np.ndarray | None) -> str:
    """A digest of the names, pixels and groups of some images. The folder of the images does not matter."""
    digest = hashlib.sha256()
    for i in indices:
        digest.update(f"{decoded.names[i]}\0{decoded.checksums[i]}\0".encode("utf-8", "surrogateescape"))
    if groups is not None:  # a table of groups can change while the images stay
        digest.update(np.unique(groups[indices], return_inverse=True)[1].astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _make_notes(decoded: Decoded, data: DataConfig) -> list[str]:
    """Sentences about the images that were left out or changed, and about folders that all count as good."""
    notes = []
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
    if count := len(decoded.skipped):
        reasons = [reason for _, reason in decoded.skipped[:MAX_REASONS_IN_NOTE]]
        if count > len(reasons):
            reasons.append(f"and {count - len(reasons)} more")
        images = "1 image that" if count == 1 else f"{count} images that"
        notes.append(f"Training and testing leave out {images} cannot be read: {'; '.join(reasons)}.")
    if data.fit != "exact":
        notes.append(
            f"Images of other sizes are brought to {data.height} x {data.width} pixels "
            f"(config.data.fit = {data.fit!r})."
        )
    return notes

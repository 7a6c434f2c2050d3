"""From a configuration to the three splits of a run."""

import functools
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from daad_jax.config import Config, DataConfig
from daad_jax.data import account, cache, pixel_range, protocol
from daad_jax.data.cache import Decoded
from daad_jax.data.catalogue import find_data_set
from daad_jax.data.folder_source import open_folder
from daad_jax.data.protocol import Roles
from daad_jax.data.samples import TRAIN, Account, Rows, Source, Split, Splits
from daad_jax.data.tfds_source import open_tfds
from daad_jax.errors import UserError

MAX_REASONS_IN_NOTE = 5  # a note gives reasons for this many unreadable images, and counts the others


def load(config: Config) -> Splits:
    """Opens the source, decodes its images into the cache, and applies the protocol.

    The images stay on the disk (`Rows`). The test split is empty if the source has no test images.

    Raises:
        UserError: see `find_data_set`, `open_folder`, `open_tfds`, `cache.load_decoded` and `protocol`.
    """
    data = config.data
    classes = () if data.source == "folder" else find_data_set(data.name).classes
    protocol.check(classes, data)  # before anything is downloaded
    source = _open_source(data)
    source = replace(source, read=functools.cache(source.read))  # both of the following may list the samples
    data, range_notes = pixel_range.resolve(source, data, classes)
    decoded = cache.load_decoded(source, data)
    labels = protocol.labels(decoded.kinds, classes, data)

    # Unreadable images are in no split.
    is_usable = np.ones(len(labels), bool)
    is_usable[[index for index, _ in decoded.skipped]] = False
    roles = protocol.assign(decoded.parts, labels, is_usable, data, config.seed)
    return Splits(
        train=_make_split(decoded, labels, roles.train, with_masks=False),
        calibration=_make_split(decoded, labels, roles.held_out, with_masks=False),
        test=_make_split(decoded, labels, roles.test, with_masks=True),
        notes=range_notes + _make_notes(decoded, data, roles),
        normal_digest=_digest(decoded, roles.normal),
        account=_make_account(decoded, labels, roles),
        data=data,
    )


def _open_source(data: DataConfig) -> Source:
    if data.source != "folder":
        return open_tfds(data)
    if not data.path:
        raise UserError(
            "config.data.path is empty; give the folder of images, for instance --config folder:PATH"
        )
    return open_folder(Path(data.path), data)


def _make_split(decoded: Decoded, labels: np.ndarray, indices: np.ndarray, with_masks: bool) -> Split:
    return Split(
        images=Rows(decoded.images, indices),
        labels=labels[indices],
        kinds=[decoded.kinds[i] for i in indices],
        names=[decoded.names[i] for i in indices],
        masks=np.asarray(decoded.masks[indices]) if with_masks and decoded.masks is not None else None,
    )


def _digest(decoded: Decoded, indices: np.ndarray) -> str:
    """A digest of the names and pixels of some images. The folder of the images does not matter."""
    digest = hashlib.sha256()
    for i in indices:
        digest.update(f"{decoded.names[i]}\0{decoded.checksums[i]}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _make_account(decoded: Decoded, labels: np.ndarray, roles: Roles) -> Account:
    """What became of every file, or of every part of a source without files of its own."""
    is_used = np.zeros(len(labels), bool)
    is_used[np.concatenate([roles.train, roles.held_out, roles.test])] = True
    if not decoded.files:
        role_names = [account.role_of(part, not label) for part, label in zip(decoded.parts, labels)]
        images = Counter(zip(role_names, decoded.parts))
        used = Counter(key for key, flag in zip(zip(role_names, decoded.parts), is_used) if flag)
        return account.of_parts((*key, count, used[key]) for key, count in sorted(images.items()))
    known = {file.name for file in decoded.files}
    # A file with several images has samples "name#1", "name#2", ...
    files = [name if name in known else name.rpartition("#")[0] for name in decoded.names]
    skipped: dict[str, list[str]] = {}
    for index, reason in decoded.skipped:
        skipped.setdefault(files[index], []).append(reason)
    return account.of_files(decoded.files, skipped, Counter(f for f, flag in zip(files, is_used) if flag))


def _make_notes(decoded: Decoded, data: DataConfig, roles: Roles) -> list[str]:
    """Sentences about the images that were left out or changed, and about where test images come from."""
    notes = []
    moved = sum(decoded.parts[i] == TRAIN for i in roles.test)
    if moved:
        notes.append(
            f"No good image of {data.path} is for testing, so {moved} of the normal images are tested "
            f"instead and do not train (config.data.test_fraction = {data.test_fraction})."
        )
    if count := len(decoded.skipped):
        reasons = [reason for _, reason in decoded.skipped[:MAX_REASONS_IN_NOTE]]
        if count > len(reasons):
            reasons.append(f"and {count - len(reasons)} more")
        images = "1 image that" if count == 1 else f"{count} images that"
        notes.append(f"Training and testing leave out {images} cannot be read: {'; '.join(reasons)}.")
    if decoded.clipped:
        first = decoded.names[decoded.clipped[0]]
        notes.append(pixel_range.clipping_note(len(decoded.clipped), first, data))
    if data.fit != "exact":
        notes.append(
            f"Images of other sizes are brought to {data.height} x {data.width} pixels "
            f"(config.data.fit = {data.fit!r})."
        )
    return notes

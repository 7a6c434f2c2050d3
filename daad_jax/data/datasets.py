"""From a configuration to the three splits of a run."""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from daad_jax.config import Config, DataConfig
from daad_jax.data import account, cache, pixel_range, protocol
from daad_jax.data.cache import Decoded
from daad_jax.data.folder_source import open_folder
from daad_jax.data.folder_words import NORMAL, read_folder_name
from daad_jax.data.groups import describe, open_grouping
from daad_jax.data.history import CALIBRATED, TESTED, TRAINED, UNUSED, ContentIndex, History
from daad_jax.data.layouts import has_training_part
from daad_jax.data.memory_source import check_splits, collect_images
from daad_jax.data.protocol import Roles
from daad_jax.data.samples import HELD_OUT, TEST, TRAIN, Account, NormalImage, Rows, Source, Split, Splits
from daad_jax.data.tfds_source import open_tfds, tfds_classes
from daad_jax.errors import UserError

# Why an image of another test set is not tested. The texts follow a count.
NOT_FOR_TESTING = "for training, beside images for testing"
HAS_TRAINED, WAS_HELD_OUT = "have trained this run", "were held out to set its threshold"
MAX_REASONS_IN_NOTE = 5  # a note gives reasons for this many unreadable images, and counts the others


def load(config: Config, history: History | None = None, check: bool = False) -> Splits:
    """Opens the source, decodes its images into the cache, and applies the protocol.

    The images stay on the disk (`Rows`). The test split is empty if the source has no test images.

    Args:
        config: of the run.
        history: what an earlier training of the run decided, see `History.cut`.
        check: read all files again, see `cache.load_decoded`.

    Raises:
        UserError: see `open_folder`, `open_tfds`, `open_grouping`, `cache.load_decoded`, `protocol` and
            `History.cut`.
    """
    data = config.data
    if data.source == "memory":
        raise UserError(
            "config.data.source = 'memory': the images of this run were given in Python and are not stored; "
            "give train the same data again, or give evaluate a folder of test images with --data FOLDER"
        )
    classes = () if data.source == "folder" else tfds_classes(data)
    protocol.check(classes, data)  # before anything is downloaded
    open_grouping(data)  # a mistake there is said before the images are decoded
    source = _open_source(data)
    source = replace(source, read=functools.cache(source.read))  # both of the following may list the samples
    data, range_notes = pixel_range.resolve(source, data, classes, check)
    decoded = cache.load_decoded(source, data, check)
    labels = protocol.labels(decoded.kinds, classes, data)
    return _make_splits(decoded, labels, replace(config, data=data), history, range_notes)


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
        return replace(
            given,
            normal=normal,
            normal_digest=_digest(normal, with_roles=True),
            account=account.of_parts(_count_splits(given)),
            data=_data_of_splits(given, config.data),
        )
    decoded, data, range_notes = collect_images(given, config.data)
    labels = np.zeros(len(decoded.names), np.int8)
    return _make_splits(decoded, labels, replace(config, data=data), history, range_notes)


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images from outside of a run's own data.

    `test` are the images to test. `account` says what became of every file. `notes` are sentences for the
    user.
    """

    test: Split
    account: Account
    notes: list[str]


def load_test(
    config: Config, folder: Path, history: History | None = None, check: bool = False
) -> LabelledImages:
    """The labelled images of any folder, to test a run with.

    If the folder has a part to train on, only its test part is tested; otherwise all its images are. Images
    that have trained the run or were held out are left out, because they would flatter the figures.

    Args:
        config: of the run: its protocol, the size of the images, and what to do with unreadable ones.
        folder: in one of the layouts of docs/data.md. For a run with classes, its sub-folders may also be
            named after the classes.
        history: of the run, if it is known.
        check: read all files again, see `cache.load_decoded`.

    Raises:
        UserError: see `open_folder` and `cache.load_decoded`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: this folder does not exist; give a folder of labelled images")
    data = _name_classes(folder, config.data)
    decoded = cache.load_decoded(_open_labelled(folder, data), data, check)
    labels = protocol.labels(decoded.kinds, (), replace(data, protocol="inspection"))
    images = _describe_images(decoded, np.arange(len(labels)))
    notes = _note_unreadable(decoded) + _note_clipped(decoded, data)
    unreadable = {index for index, _ in decoded.skipped}
    reasons: dict[int, str] = {}
    if has_training_part([file.name for file in decoded.files]):
        reasons = {i: NOT_FOR_TESTING for i, part in enumerate(decoded.parts) if part != TEST}
    else:  # the good images are for testing, too
        is_good = (account.TRAINING, account.HELD_OUT)
        files = [replace(f, role=account.TEST_GOOD) if f.role in is_good else f for f in decoded.files]
        decoded = replace(decoded, files=files)
    for past, what in (
        (history.trained if history else [], HAS_TRAINED),
        (history.held_out if history else [], WAS_HELD_OUT),
    ):
        index = ContentIndex(past)
        known = {i for i, image in enumerate(images) if image in index} - unreadable - set(reasons)
        if known:
            notes.append(
                f"{len(known)} of the {len(images)} images of {folder} {what}, so they are not tested: they "
                "would make the figures look better than they are."
            )
        reasons |= dict.fromkeys(known, what)
    kept = np.array([i for i in range(len(images)) if i not in unreadable and i not in reasons], int)
    chosen = protocol.limit_per_label(labels[kept], config.data.limit_test, config.seed)
    if len(chosen) < len(kept):
        notes.append(
            f"{len(kept) - len(chosen)} images of {folder} are not tested, because this run has "
            f"config.data.limit_test = {config.data.limit_test} for each label."
        )
    kept = kept[chosen]
    nothing = np.zeros(0, int)
    tested = _make_account(decoded, labels, Roles(nothing, nothing, kept, nothing), reasons)
    return LabelledImages(_make_split(decoded, labels, kept, None, with_masks=True), tested, notes)


def _open_labelled(folder: Path, data: DataConfig) -> Source:
    """Opens a labelled folder; with the names of folders that the run was trained with, if they are there."""
    try:
        return open_folder(folder, data)
    except UserError:
        if not (data.normal or data.anomalous or data.masks):
            raise
    return open_folder(folder, replace(data, normal="", anomalous="", masks=""))


def _name_classes(folder: Path, data: DataConfig) -> DataConfig:
    """For a run with classes, says which sub-folders named after classes are normal."""
    if data.source != "tfds" or data.protocol == "inspection":
        return data
    classes = tfds_classes(data)
    names = {path.name for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_dir()}
    if any(read_folder_name(name).role == NORMAL for name in names):
        return data
    named = sorted(names & set(classes))
    is_anomalous = protocol.labels(named, classes, data)
    groups = [",".join(n for n, label in zip(named, is_anomalous) if label == wanted) for wanted in (0, 1)]
    return replace(data, normal=groups[0], anomalous=groups[1])


def _data_of_splits(given: Splits, data: DataConfig) -> DataConfig:
    """The configuration with the bits of images that were prepared in Python."""
    bits = 8 * given.train.images.dtype.itemsize
    return replace(data, bits=bits, range="type" if data.range == "auto" else data.range)


def _count_splits(given: Splits) -> Iterator[tuple[str, str, int, int]]:
    """The role, the name, and the numbers of images and of used images of each split, by label."""
    for name, part in (("train", TRAIN), ("calibration", HELD_OUT), ("test", TEST)):
        labels = np.asarray(getattr(given, name).labels)
        for label in (0, 1):
            if count := int((labels == label).sum()):
                yield account.role_of(part, not label), name, count, count


def _make_splits(
    decoded: Decoded, labels: np.ndarray, config: Config, history: History | None, range_notes: list[str]
) -> Splits:
    data = config.data
    # Unreadable images are in no split.
    is_usable = np.ones(len(labels), bool)
    is_usable[[index for index, _ in decoded.skipped]] = False
    grouping = open_grouping(data)
    groups = grouping.group(decoded.names) if grouping else None
    numbers = groups.numbers if groups else None

    def cut_as_before(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        if not history:
            return None
        images, of_normal = _describe_images(decoded, normal), None if numbers is None else numbers[normal]
        return history.cut(images, _digest(images, of_normal), data, config.seed, of_normal)

    was_used = was_tested = None
    if history:
        every_image = _describe_images(decoded, np.arange(len(labels)))
        was_used, was_tested = (
            np.array([image in index for image in every_image], bool)
            for index in map(ContentIndex, ([*history.trained, *history.held_out], history.tested))
        )
    roles = protocol.assign(
        decoded.parts, labels, is_usable, data, config.seed, numbers, cut_as_before, was_used, was_tested
    )
    normal = _describe_images(decoded, roles.normal)
    tested = _describe_images(decoded, np.array([i for i in roles.test if decoded.parts[i] == TRAIN], int))
    notes = range_notes + _make_notes(decoded, data, roles)
    if groups:
        notes += describe(groups, decoded.names, roles.normal, roles.held_out, data.group)
    return Splits(
        train=_make_split(decoded, labels, roles.train, numbers, with_masks=False),
        calibration=_make_split(decoded, labels, roles.held_out, numbers, with_masks=False),
        test=_make_split(decoded, labels, roles.test, numbers, with_masks=True),
        notes=notes,
        normal_digest=_digest(normal, None if numbers is None else numbers[roles.normal]),
        normal=[*_with_roles(normal, roles), *(replace(image, role=TESTED) for image in tested)],
        account=_make_account(decoded, labels, roles),
        data=data,
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
    return open_folder(Path(data.path), data)


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


def _digest(images: Sequence[NormalImage], groups: np.ndarray | None = None, with_roles: bool = False) -> str:
    """A digest of the names, pixels and groups of some images. The folder of the images does not matter."""
    digest = hashlib.sha256()
    for image in images:
        text = f"{image.name}\0{image.checksum}\0" + (f"{image.role}\0" if with_roles else "")
        digest.update(text.encode("utf-8", "surrogateescape"))
    if groups is not None:  # a table of groups can change while the images stay
        digest.update(np.unique(groups, return_inverse=True)[1].astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _make_account(
    decoded: Decoded, labels: np.ndarray, roles: Roles, reasons: Mapping[int, str] = MappingProxyType({})
) -> Account:
    """What became of every file, or of every part of a source without files of its own.

    `reasons` has, by index, why an image is not used; those without a reason here are beyond a limit.
    """
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
    used_files = Counter(file for file, flag in zip(files, is_used) if flag)
    return account.of_files(
        decoded.files, skipped, used_files, {files[i]: text for i, text in reasons.items()}
    )


def _make_notes(decoded: Decoded, data: DataConfig, roles: Roles) -> list[str]:
    """Sentences about the images that were left out or changed, and about where test images come from."""
    notes = []
    moved = sum(decoded.parts[i] == TRAIN for i in roles.test)
    if moved:
        notes.append(
            f"No good image of {data.path} is for testing, so {moved} of the normal images are tested "
            f"instead and do not train (config.data.test_fraction = {data.test_fraction})."
        )
    notes += _note_unreadable(decoded) + _note_clipped(decoded, data)
    if data.fit != "exact":
        notes.append(
            f"Images of other sizes are brought to {data.height} x {data.width} pixels "
            f"(config.data.fit = {data.fit!r})."
        )
    return notes


def _note_clipped(decoded: Decoded, data: DataConfig) -> list[str]:
    if not decoded.clipped:
        return []
    first = decoded.names[decoded.clipped[0]]
    return [pixel_range.clipping_note(len(decoded.clipped), first, data)]


def _note_unreadable(decoded: Decoded) -> list[str]:
    count = len(decoded.skipped)
    if not count:
        return []
    reasons = [reason for _, reason in decoded.skipped[:MAX_REASONS_IN_NOTE]]
    if count > len(reasons):
        reasons.append(f"and {count - len(reasons)} more")
    images = "1 image that" if count == 1 else f"{count} images that"
    return [f"Training and testing leave out {images} cannot be read: {'; '.join(reasons)}."]

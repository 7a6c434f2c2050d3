"""Makes the three splits of a run from a configuration."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from daad_jax.buckets import open_place
from daad_jax.config import Config, DataConfig
from daad_jax.data import account, aspect, cache, pixel_range, protocol
from daad_jax.data.cache import Decoded
from daad_jax.data.decoded_images import (
    describe_images,
    make_account,
    make_split,
    note_clipped,
    note_grey,
    note_size,
    note_unreadable,
)
from daad_jax.data.folder_source import open_folder
from daad_jax.data.groups import describe, open_grouping
from daad_jax.data.history import CALIBRATED, TESTED, TRAINED, UNUSED, ContentIndex, History
from daad_jax.data.memory_source import check_splits, collect_images
from daad_jax.data.protocol import Roles
from daad_jax.data.samples import HELD_OUT, TEST, TRAIN, NormalImage, Source, Splits
from daad_jax.data.tfds_source import open_tfds, tfds_classes
from daad_jax.errors import UserError


def load(config: Config, history: History | None = None, check: bool = False) -> Splits:
    """Opens the source, decodes its images into the cache, and applies the protocol.

    The images stay on the disk (`Rows`). The test split is empty if the source has no test images.

    Args:
        config: the configuration of the run.
        history: the decisions of an earlier training of the run, see `History.cut`.
        check: whether all files are read again, see `cache.load_decoded`.

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
    open_grouping(data)  # reports a mistake in the grouping before the images are decoded
    source = _open_source(data)
    source = replace(source, read=functools.cache(source.read))  # the following calls may list samples twice
    data, size_notes = aspect.resolve(source, data, classes)
    data, range_notes = pixel_range.resolve(source, data, classes, check)
    decoded = cache.load_decoded(source, data, check)
    labels = protocol.labels(decoded.kinds, classes, data)
    return _make_splits(decoded, labels, replace(config, data=data), history, size_notes + range_notes)


def load_from_memory(given: Any, config: Config, history: History | None = None) -> Splits:
    """Makes splits of images that come from Python.

    Args:
        given: `Splits`, which stay as they are, or anything that `memory_source.collect_images` takes. In
            the second case all images count as normal, and a share of them is held out.
        config: the configuration of the run.
        history: the decisions of an earlier training of the run, see `History.cut`.

    Raises:
        UserError: see `check_splits`, `collect_images`, `protocol` and `History.cut`.
    """
    if isinstance(given, Splits):
        if config.data.tiles:
            raise UserError(
                f"config.data.tiles = {config.data.tiles}: splits have images at the size of the model, so "
                "there is nothing to cut; give train a list of images as data, or set config.data.tiles = 0"
            )
        data = _data_of_splits(given, config.data)
        normal = check_splits(given, data)
        # The digest has the roles, because the caller has decided which images are held out.
        return replace(
            given,
            normal=normal,
            normal_digest=_digest(normal, with_roles=True),
            account=account.of_parts(_count_splits(given)),
            data=data,
        )
    decoded, data, notes = collect_images(given, config.data)
    labels = np.zeros(len(decoded.names), np.int8)
    return _make_splits(decoded, labels, replace(config, data=data), history, notes)


def _data_of_splits(given: Splits, data: DataConfig) -> DataConfig:
    """Returns the configuration with the bits of prepared images, and with their size if it is open."""
    images = given.train.images
    if data.fit == "aspect" and np.ndim(images) == 4:
        data = replace(data, height=images.shape[1], width=images.shape[2], fit="resize")
    bits = 8 * images.dtype.itemsize
    return replace(data, bits=bits, range="type" if data.range == "auto" else data.range)


def _count_splits(given: Splits) -> Iterator[tuple[str, str, int, int]]:
    """Yields the rows of the account, one for each split and label, see `account.of_parts`."""
    for name, part in (("train", TRAIN), ("calibration", HELD_OUT), ("test", TEST)):
        labels = np.asarray(getattr(given, name).labels)
        for label in (0, 1):
            if count := int((labels == label).sum()):
                yield account.role_of(part, not label), name, count, count


def _make_splits(
    decoded: Decoded, labels: np.ndarray, config: Config, history: History | None, found_notes: list[str]
) -> Splits:
    """Assigns every usable image to training, calibration or test, as `history` did if there is one."""
    data = config.data
    # Unreadable images are in no split.
    is_usable = np.ones(len(labels), bool)
    is_usable[[index for index, _ in decoded.skipped]] = False
    grouping = open_grouping(data)
    groups = grouping.group(decoded.names) if grouping else None
    numbers = groups.numbers if groups else None

    # Assign the roles, as an earlier training has decided if there was one.
    def cut_as_before(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        if not history:
            return None
        images, of_normal = describe_images(decoded, normal), None if numbers is None else numbers[normal]
        return history.cut(images, _digest(images, of_normal), data, config.seed, of_normal)

    was_used = was_tested = None
    if history:
        every_image = describe_images(decoded, np.arange(len(labels)))
        was_used, was_tested = (
            np.array([image in index for image in every_image], bool)
            for index in map(ContentIndex, ([*history.trained, *history.held_out], history.tested))
        )
    roles = protocol.assign(
        decoded.parts, labels, is_usable, data, config.seed, numbers, cut_as_before, was_used, was_tested
    )
    # Describe the images, for the user and for later trainings.
    normal = describe_images(decoded, roles.normal)
    tested = describe_images(decoded, np.array([i for i in roles.test if decoded.parts[i] == TRAIN], int))
    notes = found_notes + _make_notes(decoded, data, roles)
    if groups:
        notes += describe(groups, decoded.names, roles.normal, roles.held_out, data.group)
    return Splits(
        train=make_split(decoded, labels, roles.train, numbers, with_masks=False),
        calibration=make_split(decoded, labels, roles.held_out, numbers, with_masks=False),
        test=make_split(decoded, labels, roles.test, numbers, with_masks=True),
        notes=notes,
        normal_digest=_digest(normal, None if numbers is None else numbers[roles.normal]),
        normal=[*_with_roles(normal, roles), *(replace(image, role=TESTED) for image in tested)],
        account=make_account(decoded, labels, roles),
        data=data,
    )


def _with_roles(normal: list[NormalImage], roles: protocol.Roles) -> list[NormalImage]:
    role_of = dict.fromkeys(roles.train.tolist(), TRAINED) | dict.fromkeys(
        roles.held_out.tolist(), CALIBRATED
    )
    return [
        replace(image, role=role_of.get(index, UNUSED)) for image, index in zip(normal, roles.normal.tolist())
    ]


def _open_source(data: DataConfig) -> Source:
    if data.source != "folder":
        return open_tfds(data)
    if not data.path:
        raise UserError(
            "config.data.path is empty; give the folder of images, for instance --config folder:PATH"
        )
    return open_folder(open_place(data.path), data)


def _digest(images: Sequence[NormalImage], groups: np.ndarray | None = None, with_roles: bool = False) -> str:
    """Digests the names, pixels and groups of images. The folder of the images does not matter."""
    digest = hashlib.sha256()
    for image in images:
        text = f"{image.name}\0{image.checksum}\0" + (f"{image.role}\0" if with_roles else "")
        digest.update(text.encode("utf-8", "surrogateescape"))
    if groups is not None:  # a table of groups can change while the images stay
        digest.update(np.unique(groups, return_inverse=True)[1].astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _make_notes(decoded: Decoded, data: DataConfig, roles: Roles) -> list[str]:
    """Makes sentences about images that were left out or changed, and about the origin of test images."""
    notes = []
    moved = sum(decoded.parts[i] == TRAIN for i in roles.test)
    if moved:
        notes.append(
            f"No good image of {data.path} is for testing, so {moved} of the normal images are tested "
            f"instead and do not train (config.data.test_fraction = {data.test_fraction})."
        )
    return (
        notes
        + note_unreadable(decoded)
        + note_grey(decoded, data)
        + note_clipped(decoded, data)
        + note_size(decoded, data, roles.normal)
    )

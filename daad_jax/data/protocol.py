"""Decides which images are normal, which train and which are held out, from class names and groups alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data.samples import GOOD, HELD_OUT, TEST, TRAIN, Sample
from daad_jax.errors import UserError, did_you_mean

TEST_STREAM = 5  # seeds the random numbers here; batches.py uses other streams


def check(classes: tuple[str, ...], config: DataConfig) -> None:
    """Checks whether the protocol fits the source, before anything is opened.

    Raises:
        UserError: the protocol does not fit, or `config.normal_class` does not exist.
    """
    if config.protocol != "inspection":
        _class(config.normal_class, classes, config.protocol)
    elif classes and GOOD not in classes:
        raise UserError(
            "config.data.protocol = 'inspection': this source has classes and does not say which are "
            "good; set 'one_class' or 'leave_one_out', and config.data.normal_class"
        )


def labels(of_kinds: list[str], classes: tuple[str, ...], config: DataConfig) -> np.ndarray:
    """Returns 0 (normal) or 1 (anomalous) for images of these kinds, int8 `[N]`.

    Raises:
        UserError: see `check`.
    """
    kinds = np.array(of_kinds, dtype=object)
    if config.protocol == "inspection":
        return (kinds != GOOD).astype(np.int8)
    chosen = _class(config.normal_class, classes, config.protocol)
    is_chosen = (kinds == chosen).astype(np.int8)
    return is_chosen if config.protocol == "leave_one_out" else 1 - is_chosen


def normal_samples(samples: Sequence[Sample], classes: tuple[str, ...], config: DataConfig) -> list[Sample]:
    """Returns the normal training images among samples, including held-out ones.

    Raises:
        UserError: see `check`.
    """
    of_samples = labels([sample.kind for sample in samples], classes, config)
    return [s for s, label in zip(samples, of_samples) if s.part in (TRAIN, HELD_OUT) and not label]


@dataclass(frozen=True)
class Roles:
    """The indices of the images that train, are held out to calibrate, and are tested, in ascending order.

    `normal` are all normal images that train or are held out, or that a limit leaves out.
    """

    train: np.ndarray
    held_out: np.ndarray
    test: np.ndarray
    normal: np.ndarray


def assign(
    of_parts: list[str],
    labels: np.ndarray,
    is_usable: np.ndarray,
    config: DataConfig,
    seed: int,
    groups: np.ndarray | None = None,
    cut_as_before: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray] | None] | None = None,
    was_used: np.ndarray | None = None,
    was_tested: np.ndarray | None = None,
) -> Roles:
    """Decides what each of N images is for.

    Normal images of the part `HELD_OUT` are held out. Without this part, a share of the training images is
    held out. In the protocol "inspection", the test part may have anomalous images but no normal ones. Then
    a share of the normal training images (`config.test_fraction`) is tested and does not train.

    Args:
        of_parts: the part of each image.
        labels: 0 (normal) or 1 (anomalous), `[N]`.
        is_usable: False for images that cannot be read, bool `[N]`.
        config: has the shares and the limits.
        seed: the seed of the run.
        groups: equal integers for images that belong together, `[N]`; None: each image is for itself.
        cut_as_before: divides the indices of the normal images as an earlier training did, see `hold_out`.
            The function, or its result, is None if there was no earlier training.
        was_used: True for images that trained or were held out in an earlier training, `[N]`; None if there
            was none. Such an image does not move to the test images.
        was_tested: True for training images that an earlier training has moved to the test images, `[N]`.
            They stay there.

    Raises:
        UserError: fewer than two normal images, or groups of them, are for training.
    """
    parts = np.array(of_parts, dtype=object)
    normal = np.flatnonzero((parts == TRAIN) & is_usable & (labels == 0))
    given = np.flatnonzero((parts == HELD_OUT) & is_usable & (labels == 0))
    test = np.flatnonzero((parts == TEST) & is_usable)
    if config.protocol == "inspection" and len(test) and labels[test].all():
        is_new, tested = np.ones(len(parts), bool), normal[:0]
        if was_used is not None and was_tested is not None and was_used.any():
            is_new, tested = ~(was_used | was_tested), normal[was_tested[normal] & ~was_used[normal]]
        tested = np.concatenate([tested, _draw_test(normal, is_new, config, seed, groups)])
        normal = np.setdiff1d(normal, tested)
        test = np.sort(np.concatenate([test, tested]))
    if len(given) and len(normal):
        train, held_out = limit(normal, config.limit_train, seed), given
    else:
        decided = cut_as_before(normal) if cut_as_before else None
        of_normal = None if groups is None else _number(groups[normal])
        train, held_out = (normal[i] for i in decided or hold_out(len(normal), config, seed, of_normal))
    test = test[limit_per_label(labels[test], config.limit_test, seed)]
    return Roles(train, held_out, test, np.sort(np.concatenate([normal, given])))


def _draw_test(
    normal: np.ndarray, is_new: np.ndarray, config: DataConfig, seed: int, groups: np.ndarray | None
) -> np.ndarray:
    """Draws new normal images to be tested. At least two other normal images stay.

    Groups are drawn as a whole, and only if all their images are new.
    """
    if groups is not None:
        known = np.unique(groups[normal[~is_new[normal]]])
        is_new = is_new & ~np.isin(groups, known)
    free = normal[is_new[normal]]
    count = min(round(len(free) * config.test_fraction), max(0, len(normal) - 2))
    if len(free) == len(normal):
        count = min(max(1, count), max(0, len(normal) - 2))
    order = np.random.default_rng([seed, TEST_STREAM]).permutation(len(free))
    if groups is None:
        return np.sort(free[order[:count]])
    drawn = free[:0]
    of_free = list(dict.fromkeys(groups[free[order]].tolist()))
    most = len(of_free) - (2 if len(free) == len(normal) else 0)  # two groups stay: to train and to hold out
    for group in of_free[: max(0, most)]:
        if len(drawn) < count:
            drawn = np.concatenate([drawn, free[groups[free] == group]])
    return np.sort(drawn)


def limit(normal: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns at most `count` of the normal images (0: all), in their order."""
    order = np.random.default_rng([seed, 1]).permutation(len(normal))
    return np.sort(normal[order[:count]]) if count else normal


def hold_out(
    count: int, config: DataConfig, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divides `count` normal training images: some train, and the others are held out to calibrate.

    Groups are drawn by the seed, and held out as a whole until the share `config.calibration_fraction` of the
    images is reached. A limit on the number of images keeps the first ones of each side.

    Args:
        count: the number of images.
        config: has the share that is held out, and the limit.
        seed: the seed of the run.
        groups: the group of each image, 0, 1, ..., `[count]`; None: each image is a group of its own.

    Returns:
        The indices of the images that train, and of the held-out ones; at least one each. No group has
        images in both.

    Raises:
        UserError: fewer than two images, or fewer than two groups.
    """
    if count < 2:
        raise UserError(
            f"config.data: {count} normal training image(s); at least 2 are needed, one to train on "
            "and one held out to calibrate"
        )
    groups = np.arange(count) if groups is None else groups
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        raise UserError(
            f"config.data.group = {config.group!r}: all {count} normal training images are in one group; at "
            "least 2 groups are needed, one to train on and one held out to calibrate"
        )
    order_of_groups = np.random.default_rng([seed, 1]).permutation(len(sizes))
    order = np.argsort(np.argsort(order_of_groups)[groups], kind="stable")  # of images, group by group
    kept = min(count, max(2, config.limit_train)) if config.limit_train else count
    wanted = min(kept - 1, max(1, round(kept * config.calibration_fraction)))
    # Hold out groups until the wanted number of images is reached, but never the last group.
    ends = np.cumsum(sizes[order_of_groups])
    end = ends[min(int(np.searchsorted(ends, wanted)), len(sizes) - 2)]
    held_out, train = order[:end], order[end:]
    if config.limit_train:
        held_out = held_out[:wanted]
        train = train[: kept - len(held_out)]
    return np.sort(train), np.sort(held_out)


def limit_per_label(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Returns the indices of at most `limit` samples of each label (0: all), in their order."""
    if not limit:
        return np.arange(len(labels))
    order = np.random.default_rng([seed, 2]).permutation(len(labels))
    kept = [order[labels[order] == label][:limit] for label in (0, 1)]
    return np.sort(np.concatenate(kept))


def _number(groups: np.ndarray) -> np.ndarray:
    """Numbers the groups `[N]` as 0, 1, ... in the order in which they appear."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _class(name: str, classes: tuple[str, ...], protocol: str) -> str:
    if not classes:
        raise UserError(
            f"config.data.protocol = {protocol!r}: this source has no classes, it says itself which images "
            "are good; set 'inspection'"
        )
    if name in classes:
        return name
    if name.isdecimal() and int(name) < len(classes):
        return classes[int(name)]
    raise UserError(f"config.data.normal_class = {name!r}: no such class; {did_you_mean(name, classes)}")

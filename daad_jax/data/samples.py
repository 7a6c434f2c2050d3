"""What a source yields before any protocol: lazily decoded images with what is known of each."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One image. `load` decodes it to uint8 `[h, w, C]`, `load_mask` its mask to uint8 `[h, w]`."""

    name: str
    kind: str  # class name, or defect type (GOOD for normal ones)
    load: Callable[[], np.ndarray]
    load_mask: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class Samples:
    """A data set as its source has it. `identity` changes whenever its pixels could have."""

    identity: str
    train: list[Sample]
    test: list[Sample]
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """Images of one purpose.

    `images` uint8 `[N, H, W, C]`, `labels` `[N]` (0 normal, 1 anomalous), `kinds` and `names` of N
    entries, `masks` uint8 `[N, H, W]` of 0 and 1, or None where the source has none.
    """

    images: np.ndarray
    labels: np.ndarray
    kinds: list[str]
    names: list[str]
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "Split":
        """The examples at `indices`, with other `labels` (of those) where given."""
        return Split(
            self.images[indices],
            self.labels[indices] if labels is None else labels,
            [self.kinds[i] for i in indices],
            [self.names[i] for i in indices],
            None if self.masks is None else self.masks[indices],
        )


@dataclass(frozen=True)
class Splits:
    """What a run sees: normal images to train on, held-out normal ones, and the labelled test set."""

    train: Split
    calibration: Split
    test: Split
    notes: list[str]

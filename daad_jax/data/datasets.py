"""From a configuration to the three splits of a run."""

from pathlib import Path

import numpy as np

from daad_jax.config import Config
from daad_jax.data import cache, protocol
from daad_jax.data.folder import open_folder
from daad_jax.data.named import open_named
from daad_jax.data.samples import Split, Splits
from daad_jax.errors import UserError


def load(config: Config) -> Splits:
    """Opens the source, decodes it into the cache, and applies the protocol.

    The test split is empty where the source has no test images.

    Raises:
        UserError: see `open_folder`, `open_named`, `cache.decoded` and `protocol`.
    """
    data = config.data
    if data.source == "folder":
        if not data.path:
            raise UserError("config.data.path = '': give the folder of images")
        samples = open_folder(Path(data.path), data.channels, data.mixed_channels)
    else:
        samples = open_named(data)
    everything = samples.train + samples.test
    labels = protocol.labels(everything, samples.classes, data)
    if data.protocol == "inspection":
        labels[: len(samples.train)] = 0
    images, masks, skipped = cache.decoded(everything, samples.identity, data)

    notes = [f"skipped {len(skipped)} unreadable image(s): {reason}" for _, reason in skipped]
    usable = np.ones(len(everything), bool)
    usable[[index for index, _ in skipped]] = False
    if data.fit != "exact":
        notes.append(f"images are brought to {data.height} x {data.width} ({data.fit})")
    whole = Split(images, labels, [s.kind for s in everything], [s.name for s in everything], masks)
    is_train = np.arange(len(everything)) < len(samples.train)
    normal = np.flatnonzero(is_train & usable & (labels == 0))
    train, held = protocol.hold_out(len(normal), data, config.seed)
    tested = np.flatnonzero(~is_train & usable)
    tested = tested[protocol.limit_per_label(labels[tested], data.limit_test, config.seed)]
    return Splits(whole.take(normal[train]), whole.take(normal[held]), whole.take(tested), notes)

"""From a configuration to the three splits of a run."""

from pathlib import Path

import numpy as np

from daad_jax.config import Config, DataConfig
from daad_jax.data import cache, protocol
from daad_jax.data.cache import Decoded
from daad_jax.data.catalogue import find_data_set
from daad_jax.data.folder_source import open_folder
from daad_jax.data.samples import Rows, Samples, Split, Splits
from daad_jax.data.tfds_source import open_named
from daad_jax.errors import UserError

NAMED_IN_NOTES = 5  # unreadable images listed by reason; beyond, their number is enough


def load(config: Config) -> Splits:
    """Opens the source, decodes it into the cache, and applies the protocol.

    Images stay on the disk (`Rows`). The test split is empty where the source has no test images.

    Raises:
        UserError: see `find_data_set`, `open_folder`, `open_named`, `cache.decoded` and `protocol`.
    """
    data = config.data
    classes = () if data.source == "folder" else find_data_set(data.name).classes
    protocol.check(classes, data)  # before anything is downloaded
    source = _opened(data)
    found = cache.decoded(source, data)
    labels = protocol.labels(found.kinds, classes, data)

    usable = np.ones(len(labels), bool)
    usable[[index for index, _ in found.skipped]] = False
    is_train = np.arange(len(labels)) < found.train
    normal = np.flatnonzero(is_train & usable & (labels == 0))
    train, held = protocol.hold_out(len(normal), data, config.seed)
    tested = np.flatnonzero(~is_train & usable)
    tested = tested[protocol.limit_per_label(labels[tested], data.limit_test, config.seed)]
    return Splits(
        train=_split(found, labels, normal[train], masked=False),
        calibration=_split(found, labels, normal[held], masked=False),
        test=_split(found, labels, tested, masked=True),
        notes=_notes(found, config),
    )


def _opened(data: DataConfig) -> Samples:
    if data.source != "folder":
        return open_named(data)
    if not data.path:
        raise UserError("config.data.path = '': give the folder of images")
    return open_folder(Path(data.path), data.channels, data.mixed_channels)


def _split(found: Decoded, labels: np.ndarray, chosen: np.ndarray, masked: bool) -> Split:
    return Split(
        images=Rows(found.images, chosen),
        labels=labels[chosen],
        kinds=[found.kinds[i] for i in chosen],
        names=[found.names[i] for i in chosen],
        masks=None if found.masks is None or not masked else np.asarray(found.masks[chosen]),
    )


def _notes(found: Decoded, config: Config) -> list[str]:
    data, notes = config.data, []
    if found.skipped:
        shown = "; ".join(reason for _, reason in found.skipped[:NAMED_IN_NOTES])
        rest = len(found.skipped) - NAMED_IN_NOTES
        more = f"; and {rest} more" if rest > 0 else ""
        notes.append(f"skipped {len(found.skipped)} unreadable image(s): {shown}{more}")
    if data.fit != "exact":
        notes.append(f"images are brought to {data.height} x {data.width} ({data.fit})")
    return notes

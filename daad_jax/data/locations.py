"""Finds images by paths as the user typed them, and by absolute paths. URLs (`gs://...`) stay as they are."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from daad_jax.buckets import open_place
from daad_jax.config import DataConfig
from daad_jax.errors import UserError

DEFAULT_TFDS_DIRECTORY = "~/tensorflow_datasets"


def make_absolute(path: str) -> str:
    """Makes a path absolute, seen from the current directory; "" and URLs stay as they are."""
    # `epath.Path.absolute` and `resolve` take a URL for a relative path.
    return path if not path or "://" in path else os.path.abspath(os.path.expanduser(path))


def tfds_directory(config: DataConfig) -> str:
    """Returns the directory of prepared data sets: as configured, $TFDS_DATA_DIR, or TFDS's default."""
    chosen = config.data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_TFDS_DIRECTORY
    return chosen if "://" in chosen else os.path.expanduser(chosen)


def absolute_locations(config: DataConfig) -> dict[str, str]:
    """Returns the absolute paths that a run remembers, by their keys in `DataConfig`; "" stays ""."""
    if config.source == "memory":
        return {"path": "", "data_dir": ""}
    directory = tfds_directory(config) if config.source == "tfds" else ""
    return {"path": make_absolute(config.path), "data_dir": make_absolute(directory)}


def locate(config: DataConfig, remembered: Mapping[str, str], typed_now: bool) -> DataConfig:
    """Finds the images of a run again, possibly from another working directory.

    Args:
        config: the configuration of the run, with paths as the user typed them.
        remembered: `absolute_locations` at the last training.
        typed_now: whether the user typed the paths for this command. The current directory then comes first,
            otherwise the remembered places.

    Returns:
        The configuration with the paths where the images are. A path that is absolute stays as it is.

    Raises:
        UserError: a folder of images is at neither place; the message names both.
    """
    changes: dict[str, Any] = {}
    asked = {"path": config.path, "data_dir": config.data_dir or os.environ.get("TFDS_DATA_DIR", "")}
    for key, typed in asked.items():
        before = remembered.get(key, "")
        is_absolute = typed and make_absolute(typed) == os.path.expanduser(typed)
        if not before or is_absolute:
            continue
        if typed_now and typed and _exists(typed):
            continue
        if _exists(before):
            changes[key] = before
    found = replace(config, **changes)
    if config.source == "folder" and config.path and not typed_now and not _exists(found.path):
        places = dict.fromkeys(filter(None, (remembered.get("path"), make_absolute(config.path))))
        raise UserError(
            f"{' and '.join(places)}: the images of this run are not there; give evaluate the folder of test "
            "images with --data FOLDER, or put the images back"
        )
    return found


def _exists(path: str) -> bool:
    return open_place(os.path.expanduser(path)).exists()

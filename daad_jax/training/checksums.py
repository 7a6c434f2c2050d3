"""Names the leaves of a state by their paths, computes checksums, and finds values that are not finite."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from imagecodecs import deflate_crc32  # zlib has the same function, which is half as fast

CHUNK_BYTES = 2**22  # a leaf has a checksum for each chunk, so that threads share the work
Leaves = dict[str, Any]  # arrays, or their shapes and types


def name_leaves(tree: Any) -> Leaves:
    """Names the leaves of a tree, in its order, by their paths, such as "generator/params/stem/kernel"."""
    pairs, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def nest(leaves: Leaves) -> dict[str, Any]:
    """Makes nested dictionaries from named leaves: the inverse of `name_leaves`, up to the order."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    return tree


def describe_leaves(leaves: Leaves, check_values: bool = True) -> tuple[dict[str, Any], str]:
    """Reads all arrays once.

    Args:
        leaves: the arrays.
        check_values: whether the values are checked. Saved values were checked before they were saved.

    Returns:
        The type, the shape and the checksums of every array, for JSON: the CRC-32 of the bytes of each
        `CHUNK_BYTES` of the array, in the order of its rows. And the name of the first array with a value
        that is not finite; "" if all values are.
    """
    inspect = functools.partial(_inspect, check_values=check_values)
    arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    pieces = {name: _cut(array) for name, array in arrays.items()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # checksums and sums release the interpreter's lock
        in_threads = {name: pool.map(inspect, cut) for name, cut in pieces.items() if len(cut) > 1}
        # A thread costs more than a small array.
        inspected = {name: [*map(inspect, cut)] for name, cut in pieces.items() if len(cut) <= 1}
        inspected |= {name: [*results] for name, results in in_threads.items()}
    described = {
        name: {
            "type": str(array.dtype),
            "shape": list(array.shape),
            "crc32": [checksum for checksum, _ in inspected[name]],
        }
        for name, array in arrays.items()
    }
    bad = (name for name in arrays if not all(is_finite for _, is_finite in inspected[name]))
    return described, next(bad, "")


def _cut(array: np.ndarray) -> list[np.ndarray]:
    """The values of an array in pieces of `CHUNK_BYTES`, in the order of its rows."""
    flat, length = np.ascontiguousarray(array).reshape(-1), CHUNK_BYTES // array.itemsize
    return [flat[i : i + length] for i in range(0, len(flat), length)]


def _inspect(piece: np.ndarray, check_values: bool) -> tuple[int, bool]:
    """The CRC-32 of the bytes of `piece`, and whether all of its values are finite (True if not checked)."""
    checksum = deflate_crc32(piece.view(np.uint8).data)  # type: ignore[arg-type]  # it takes any buffer
    if not check_values:
        return checksum, True
    with np.errstate(all="ignore"):
        # A finite sum proves that all values are finite, and takes half the time. Large values may overflow.
        return checksum, bool(np.isfinite(piece.sum()) or np.isfinite(piece).all())


def find_difference(found: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Returns the first leaf with different descriptions by `describe_leaves`; "" if all are equal."""
    return next((name for name in [*found, *described] if found.get(name) != described.get(name)), "")


def digest(about: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a tree as JSON text with sorted keys and without spaces, in ASCII."""
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()

"""The leaves of a state under the names of their paths, their checksums, and whether all are numbers."""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

CHUNK_BYTES = 2**22  # a leaf has a checksum for each chunk, so that threads share the work
Leaves = dict[str, Any]  # arrays, or their shapes and types


def name_leaves(tree: Any) -> Leaves:
    """The leaves of a tree, in its order, by their paths, such as "generator/params/stem/kernel"."""
    pairs, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def nest(leaves: Leaves) -> dict[str, Any]:
    """Nested dictionaries, from which `name_leaves` makes the same names (in another order)."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    return tree


def describe_leaves(leaves: Leaves) -> dict[str, Any]:
    """The type, the shape and the checksums of every array, for JSON.

    The checksums are the CRC-32 of the bytes of each `CHUNK_BYTES` of the array, in the order of its rows.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # zlib releases the interpreter's lock

        def describe(leaf: Any) -> dict[str, Any]:
            array = np.asarray(leaf)
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            chunks = [content[i : i + CHUNK_BYTES] for i in range(0, len(content), CHUNK_BYTES)]
            sums = list((pool.map if len(chunks) > 1 else map)(zlib.crc32, chunks))
            return {"type": str(array.dtype), "shape": list(array.shape), "crc32": sums}

        return {name: describe(leaf) for name, leaf in leaves.items()}


def find_difference(leaves: Leaves, described: Mapping[str, Any]) -> str:
    """The name of the first leaf that is not what `describe_leaves` saw; "" if all are."""
    found = describe_leaves(leaves)
    return next((name for name in [*found, *described] if found.get(name) != described.get(name)), "")


def find_non_finite(leaves: Leaves) -> str:
    """The name of the first array with a value that is not finite; "" if all values are."""
    return next((name for name, leaf in leaves.items() if not np.isfinite(leaf).all()), "")


def digest(about: Mapping[str, Any]) -> str:
    """The SHA-256 of what JSON holds: of its text with sorted keys and without spaces, in ASCII."""
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()

"""Expands patterns of paths. A circle of links between folders ends here; `glob` would follow it for ever."""

import glob
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from daad_jax.data.walk import unlistable

ANY_FOLDERS = "**"  # matches a folder and all folders below it, but no hidden ones


def expand(pattern: str) -> list[str]:
    """Returns the paths that a pattern matches, sorted, each once.

    "**" follows a link to a folder only if no other path has led to this folder.

    Raises:
        UserError: a folder below "**" cannot be listed.
    """
    return sorted(set(_expand(Path(pattern).parts, "")))


def _expand(parts: Sequence[str], root: str) -> Iterator[str]:
    """Yields the matches below the folder `root` ("": the current one), as paths that begin with `root`."""
    if ANY_FOLDERS not in parts:
        matches = glob.iglob(os.path.join(*parts), root_dir=root or None)
        yield from (os.path.join(root, match) for match in matches)
        return
    place = parts.index(ANY_FOLDERS)
    before, after = parts[:place], parts[place + 1 :]
    for top in _expand(before, root) if before else [root]:
        if not os.path.isdir(top or "."):
            continue
        if not after:
            yield top or "."
            continue
        for folder in _folders_from(top):
            yield from _expand(after, folder)


def _folders_from(top: str) -> Iterator[str]:
    """Yields a folder and all folders below it. Links come last, and only if no other path led there."""
    reached: set[str] = set()
    folders, links = deque([top]), deque[str]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(folder or ".")
        if real in reached:
            continue
        reached.add(real)
        yield folder
        try:
            entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
        except FileNotFoundError:  # the folder was removed meanwhile
            continue
        except OSError as error:
            raise unlistable(error) from error
        for entry in entries:
            if not entry.name.startswith(".") and os.path.isdir(entry.path):
                (links if entry.is_symlink() else folders).append(os.path.join(folder, entry.name))

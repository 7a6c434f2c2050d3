"""Lists every file below a folder exactly once: as a candidate for an image, or left out with a reason."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daad_jax import buckets
from daad_jax.data.decoding import SUFFIXES
from daad_jax.data.headers import SIGNATURE_BYTES, has_image_signature
from daad_jax.errors import UserError

SYSTEM_FOLDERS = ("lost+found", "System Volume Information", "$RECYCLE.BIN")

# Why a file is left out. The texts follow a count in messages: "2 hidden".
HIDDEN = "hidden"
IN_SYSTEM_FOLDER = "in a system folder"
BROKEN_LINK = "broken link"
LISTED_FILE = "link to a file that is listed already"
LISTED_FOLDER = "link to a folder that is listed already"
LOOP = "link to a folder that contains it"
NOT_REGULAR = "not a regular file"
EMPTY = "empty file"
UNREADABLE = "cannot be opened"
NO_SIGNATURE = "not an image (no suffix)"


@dataclass(frozen=True)
class WalkedFile:
    """One file below a folder, or one link that is not followed.

    Attributes:
        path: where the file is.
        name: its path below the folder, with "/" between the parts.
        reason: why the file is left out; "" if it may be an image.
        stamp: numbers that change when somebody writes to the file: size, times of the last change of content
            and of properties (ns), and inode; in a bucket, size and generation. Empty if the file is left
            out.
    """

    path: Path
    name: str
    reason: str = ""
    stamp: tuple[int, ...] = ()


def walk(folder: Path, leave_out: Path | None = None) -> Iterator[WalkedFile]:
    """Yields every file below a folder in a fixed order: first the files of a folder, then its sub-folders.

    Folders are listed one by one while the caller iterates. Hidden files and folders are left out, because
    other programs make them (macOS puts "._x.png" beside x.png). So are the system's own folders. A link is
    followed only if no other path leads to its file or folder; of several such links, the first one counts.
    Only files without a suffix are opened, to read their first bytes.

    Args:
        folder: an existing folder.
        leave_out: a folder that is passed over, because the caller writes its own files there.

    Raises:
        UserError: a folder cannot be listed.
    """
    yield from _walk_bucket(folder, leave_out) if buckets.is_in_bucket(folder) else _Walk(folder, leave_out)


def _walk_bucket(folder: Path, leave_out: Path | None) -> Iterator[WalkedFile]:
    """Does the work of `walk` in a bucket. There, all objects are listed at once, and there are no links."""

    def files_first(found: buckets.BucketObject) -> list[tuple[bool, str]]:
        *folders, name = found.name.split("/")
        return [*((True, part) for part in folders), (False, name)]

    try:
        objects = buckets.list_objects(folder)
    except OSError as error:
        raise unlistable(error) from error
    for found in sorted(objects, key=files_first):
        path, parts = folder / found.name, found.name.split("/")
        if leave_out and path.is_relative_to(leave_out):
            continue
        if any(map(_is_hidden, parts)):
            reason = HIDDEN
        elif not set(SYSTEM_FOLDERS).isdisjoint(parts[:-1]):
            reason = IN_SYSTEM_FOLDER
        else:
            reason = _find_reason_in_content(path, found.size)
        yield WalkedFile(path, found.name, reason, () if reason else (found.size, found.generation))


def classify(path: Path) -> tuple[str, tuple[int, ...]]:
    """Returns why a file is left out, by its own properties alone ("": it may be an image), and its stamp."""
    try:
        status = path.stat()
    except OSError:  # also a link that leads to itself
        return BROKEN_LINK if path.is_symlink() else UNREADABLE, ()
    reason = NOT_REGULAR  # opening a pipe would wait for ever
    if stat.S_ISREG(status.st_mode):
        reason = _find_reason_in_content(path, status.st_size)
    stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return reason, () if reason else stamp


def _find_reason_in_content(path: Path, size: int) -> str:
    suffix = path.suffix.lower()
    if suffix and suffix not in SUFFIXES:
        return f"not an image ({suffix})"
    if not size:
        return EMPTY
    if suffix:
        return ""
    try:
        with path.open("rb") as file:
            return "" if has_image_signature(file.read(SIGNATURE_BYTES)) else NO_SIGNATURE
    except OSError:
        return UNREADABLE


class _Walk:
    """One walk. It remembers the real paths of the files and folders that it reached through links."""

    def __init__(self, folder: Path, leave_out: Path | None) -> None:
        self._folder = folder
        self._real_root = os.path.realpath(folder)
        self._passed_over = os.path.realpath(leave_out) if leave_out else None
        self._reached: set[str] = set()

    def __iter__(self) -> Iterator[WalkedFile]:
        """Yields the files of all folders. No folder is listed twice, however links lead to it."""
        # The folders to list, the next one last: the path below the root, the reason to leave out all files
        # in the folder, and whether a link leads to it.
        waiting: list[tuple[str, str, bool]] = [("", "", False)]
        while waiting:
            # Choose the next folder, unless it was listed before.
            place, reason, through_link = waiting.pop()
            real = os.path.realpath(self._folder / place) if through_link or self._passed_over else ""
            if self._passed_over and real == self._passed_over:
                continue
            if through_link:
                if real in self._reached or self._is_listed(real):
                    yield WalkedFile(self._folder / place, place, LISTED_FOLDER)
                    continue
                self._reached.add(real)
            # List the folder: yield its files, and note its sub-folders.
            try:
                entries = sorted(os.scandir(self._folder / place), key=lambda entry: entry.name)
            except FileNotFoundError:  # the folder was removed meanwhile
                continue
            except OSError as error:
                if reason:
                    yield WalkedFile(self._folder / place, place, reason)
                    continue
                raise unlistable(error) from error
            folders = []
            for entry in entries:
                name = f"{place}/{entry.name}" if place else entry.name
                own_reason = reason or _find_reason_in_name(entry)
                if entry.is_dir(follow_symlinks=False):
                    folders.append((name, own_reason, through_link))
                elif own_reason:
                    yield WalkedFile(self._folder / name, name, own_reason)
                elif os.path.isdir(entry.path):  # a link
                    if link_reason := self._find_reason_against_folder(name):
                        yield WalkedFile(self._folder / name, name, link_reason)
                    else:
                        folders.append((name, "", True))
                else:
                    yield self._list_file(name, entry.is_symlink(), through_link)
            waiting += reversed(folders)

    def _list_file(self, name: str, is_link: bool, through_link: bool) -> WalkedFile:
        path = self._folder / name
        reason, stamp = classify(path)
        if not reason and (is_link or through_link):
            real = os.path.realpath(path)
            is_twice = is_link and self._is_listed(real) and not classify(Path(real))[0]
            if is_twice or real in self._reached:
                reason, stamp = LISTED_FILE, ()
            self._reached.add(real)
        return WalkedFile(path, name, reason, stamp)

    def _find_reason_against_folder(self, name: str) -> str:
        """Returns why the link `name` to a folder is not followed; "" if it is followed."""
        real = os.path.realpath(self._folder / name)
        if _is_below(os.path.realpath((self._folder / name).parent), real) or _is_below(
            self._real_root, real
        ):
            return LOOP
        return LISTED_FOLDER if self._is_listed(real) or real in self._reached else ""

    def _is_listed(self, real: str) -> bool:
        """Whether the walk reaches the real path `real` without any link."""
        if not _is_below(real, self._real_root):
            return False
        inside = os.path.relpath(real, self._real_root).split(os.sep)
        return not any(_is_hidden(part) or part in SYSTEM_FOLDERS for part in inside if part != ".")


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _find_reason_in_name(entry: os.DirEntry[str]) -> str:
    if _is_hidden(entry.name):
        return HIDDEN
    is_folder = entry.name in SYSTEM_FOLDERS and entry.is_dir(follow_symlinks=False)
    return IN_SYSTEM_FOLDER if is_folder else ""


def unlistable(error: OSError) -> UserError:
    """Makes the error for a folder that the system does not let us list."""
    return UserError(
        f"{error.filename}: this folder cannot be listed ({error.strerror}); correct its permissions, or "
        "move the folder elsewhere"
    )

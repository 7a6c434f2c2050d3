"""Writes files and folders whole or not at all, locks them, and explains errors of writing in one line."""

import errno
import glob
import hashlib
import itertools
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from daad_jax import uploads
from daad_jax.buckets import is_in_bucket
from daad_jax.errors import UserError

LOCK_FILE = ".lock"  # the name of the lock in a folder that a process fills
NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)  # a folder is not empty; systems differ in the number
LEFT_AFTER_S = 60  # an unused temporary file or folder of this age belongs to a killed command


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside `path`, which replaces `path` when the block ends without an error.

    Readers see the old file or the whole new file. After an error, the old file is still there. Temporary
    files that killed commands have left for this path are removed. A file for a bucket is written on this
    machine first, and then uploaded.
    """
    if is_in_bucket(path):
        with uploads.uploading(path) as temporary:
            yield temporary
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    for other in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if other.suffix[1:].isdecimal() and other != temporary:
            with suppress(OSError):  # another command may do the same
                if time.time() - other.stat().st_mtime > LEFT_AFTER_S:
                    other.unlink()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_together(folder: Path, name: str) -> Iterator[Path]:
    """Yields a new folder. When the block ends without an error, all files of this folder move into `folder`.

    If the command is killed while the files move, the folder `.NAME.complete` keeps the rest. The next
    command moves the rest first, see `finish_replacing`. After an error, nothing has changed. Other folders
    that killed commands have left are removed.

    Args:
        folder: an existing folder.
        name: a word for the files, which becomes a part of the names of hidden folders.
    """
    if is_in_bucket(folder):
        with uploads.uploading_together(folder, name) as staging:
            yield staging
        return
    finish_replacing(folder, name)
    staging = folder / f".{name}.partial-{secrets.token_hex(8)}"
    staging.mkdir()
    try:
        with exclusive(staging / LOCK_FILE, f"{staging}: another process removes this folder; try again"):
            yield staging
        (staging / LOCK_FILE).unlink(missing_ok=True)
        _commit(staging, folder / f".{name}.complete")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    finish_replacing(folder, name)


def finish_replacing(folder: Path, name: str) -> None:
    """Finishes a killed `replacing_together`: moves its files if all were written, else removes them."""
    complete = folder / f".{name}.complete"
    if complete.is_dir():
        remaining: list[Path] = []
        with suppress(FileNotFoundError):  # another command does the same
            remaining = sorted(complete.iterdir())
        for file in remaining:
            with suppress(FileNotFoundError):
                os.replace(file, folder / file.name)
        try:
            complete.rmdir()
        except OSError as error:  # another command removed the folder, or gave this name to its own
            if error.errno not in (errno.ENOENT, *NOT_EMPTY):
                raise
    for staging in folder.glob(f".{name}.partial-*"):
        remove_abandoned(staging)


def remove_abandoned(folder: Path) -> None:
    """Removes a temporary folder if no process holds its `LOCK_FILE`.

    A new folder stays, because its process may be about to lock it. The folder need not have a lock file,
    because a process may be killed before it makes this file.
    """
    lock = folder / LOCK_FILE
    with suppress(OSError, UserError):  # the folder is gone, or a process fills it
        if time.time() - (lock if lock.exists() else folder).stat().st_mtime > LEFT_AFTER_S:
            with exclusive(lock, "busy") as is_locked:
                if is_locked:
                    shutil.rmtree(folder)


def _commit(staging: Path, complete: Path) -> None:
    """Gives a complete folder its final name. If another folder has this name, its files are moved first."""
    while True:
        try:
            os.replace(staging, complete)
            return
        except OSError as error:
            if error.errno not in NOT_EMPTY:  # by now, the other folder may be gone again
                raise
            finish_replacing(complete.parent, complete.name.removeprefix(".").removesuffix(".complete"))


def write_text(path: Path, text: str) -> None:
    """Replaces a file as a whole, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_checksums(file: Path, *files: Path) -> None:
    """Writes the SHA-256 of `files` into `file` beside them, in the format of `sha256sum --check`."""
    write_text(file, "".join(f"{sha256_of(each)}  {each.name}\n" for each in files))


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def first_free(path: Path) -> Path:
    """Returns `path` if it does not exist, else the first free path with -2, -3, ... behind the name."""
    names = itertools.chain([path.name], (f"{path.name}-{i}" for i in itertools.count(2)))
    return next(free for name in names if not os.path.lexists(free := path.with_name(name)))


def new_folder(chosen: Path | None, default: Path, remedy: str) -> Path:
    """Makes a folder for results: the chosen folder, or the first free name of `default`, `default`-2, ...

    Raises:
        UserError: the chosen folder is not empty, or the folder cannot be written. The message about writing
            ends in `remedy`.
    """
    if chosen and chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
        raise UserError(f"--out {chosen}: exists already; give a folder that is new or empty")
    with explain_write_errors(chosen or default, remedy):
        while True:
            folder = chosen or first_free(default)
            try:
                folder.mkdir(parents=True, exist_ok=bool(chosen))
                return folder
            except FileExistsError:  # another command has just taken this name
                if chosen:
                    raise


@contextmanager
def explain_write_errors(place: Path, remedy: str) -> Iterator[None]:
    """Wraps a block that writes into `place`.

    Raises:
        UserError: the system refuses to write (no permission, no space, no folder). The message ends in
            `remedy`.
    """
    try:
        yield
    except BrokenPipeError:  # this error is about the printed lines, not about `place`
        raise
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); {remedy}") from error


@contextmanager
def exclusive(file: Path, busy_message: str) -> Iterator[bool]:
    """Holds an exclusive lock on `file` (created if missing) for the block.

    The system releases the lock when the process dies. If a machine on NFS is lost, the server releases the
    lock when it gives the machine up.

    Yields:
        Whether the lock is held. False if the system has no such locks: other processes may then be in the
        block, too.

    Raises:
        UserError: another process holds the lock; the message is `busy_message`.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    with file.open("a") as opened:
        has_locks = True
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(busy_message) from error
        except OSError:
            has_locks = False
        yield has_locks

"""Files and folders: written whole or not at all, used by one process at a time, refused in a clear line."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daad_jax.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside `path`, which takes the place of `path` when the block ends well.

    Readers see the old file or the whole new one. After an error the old one is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces a file as a whole. Names of files that are not UTF-8 come out as the bytes they are."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_checksums(file: Path, *files: Path) -> None:
    """Writes into `file` the SHA-256 of `files`, which lie beside it, as `sha256sum --check` reads them."""
    lines = [f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}\n" for each in files]
    write_text(file, "".join(lines))


def first_free(path: Path) -> Path:
    """The first path that does not exist, of `path`, and `path` with -2, -3, ... behind its name."""
    names = itertools.chain([path.name], (f"{path.name}-{i}" for i in itertools.count(2)))
    return next(free for name in names if not (free := path.with_name(name)).exists())


def new_folder(chosen: Path | None, default: Path, remedy: str) -> Path:
    """Makes a folder for results: the chosen one, or the first free of `default` and its numbered names.

    Raises:
        UserError: the chosen folder is not empty, or the folder cannot be written; the second message ends in
            `remedy`.
    """
    if chosen and chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
        raise UserError(f"--out {chosen}: exists already; give a folder that is new or empty")
    folder = chosen or first_free(default)
    with explain_write_errors(folder, remedy):
        folder.mkdir(parents=True, exist_ok=bool(chosen))
    return folder


@contextmanager
def explain_write_errors(place: Path, remedy: str) -> Iterator[None]:
    """For a block that writes into `place`.

    Raises:
        UserError: the system refuses to write (no right, no space, no folder); the message ends in `remedy`.
    """
    try:
        yield
    except BrokenPipeError:  # nobody reads the printed lines: not about `place`
        raise
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); {remedy}") from error


@contextmanager
def exclusive(file: Path, busy_message: str) -> Iterator[bool]:
    """Holds an exclusive lock on `file` (created if missing) for the block.

    The system releases the lock when the process dies; on NFS, after a machine is lost, when the server gives
    up.

    Yields:
        False if the system has no such locks: others may then be in the block too.

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

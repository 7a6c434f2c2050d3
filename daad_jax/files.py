"""Files and folders: written whole or not at all, used by one process at a time, refused in a clear line."""

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


def first_free(path: Path) -> Path:
    """`path` itself, or with -2, -3, ... behind its name, whichever is the first that does not exist."""
    names = itertools.chain([path.name], (f"{path.name}-{i}" for i in itertools.count(2)))
    return next(free for name in names if not (free := path.with_name(name)).exists())


@contextmanager
def explain_write_errors(place: Path, remedy: str) -> Iterator[None]:
    """A part that writes into `place`.

    Raises:
        UserError: the system refuses (no right, no space, no folder); `remedy` is what to do then.
    """
    try:
        yield
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); {remedy}") from error


@contextmanager
def exclusive(file: Path, otherwise: str) -> Iterator[bool]:
    """Nobody else is in this block for `file`, which is made. The lock ends with its process, at the latest
    (on NFS, where a machine is lost, when its server says so).

    Yields:
        False where the system knows no such locks, and others may be in the block.

    Raises:
        UserError: somebody is in it; it says `otherwise`.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    with file.open("a") as opened:
        known = True
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(otherwise) from error
        except OSError:
            known = False
        yield known

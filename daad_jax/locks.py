"""Folders that one process at a time works in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daad_jax.errors import UserError


@contextmanager
def alone(file: Path, otherwise: str) -> Iterator[None]:
    """Nobody else is in this block for `file`, which is made. The lock ends with its process, at the latest.

    Where the file system or the operating system knows no such locks, there is none.

    Raises:
        UserError: somebody is; it says `otherwise`.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with file.open("a") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(otherwise) from error
        except OSError:
            pass
        yield

"""Folders that one process at a time works in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daad_jax.errors import UserError


@contextmanager
def alone(file: Path, otherwise: str) -> Iterator[bool]:
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

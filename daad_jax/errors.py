"""What ends a command on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Bad input or an unusable environment; its message is one line that names the remedy."""


class Stopped(BaseException):
    """A signal asked the process to end. Not an Exception: nothing that mends those may keep it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def writing(place: Path, remedy: str) -> Iterator[None]:
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

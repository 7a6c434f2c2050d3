"""What ends a command on purpose, and the hint that an error about a name gives."""

import difflib
from collections.abc import Iterable

MAX_NAMES = 40  # an error lists so many known names


class UserError(Exception):
    """Bad input or an unusable environment; its message is one line that names the remedy."""


class Stopped(BaseException):
    """A signal asked the process to end. Not an Exception: nothing that mends those may keep it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name that looks most like `name`; "" if none resembles it (similarity below `cutoff`)."""
    matches = difflib.get_close_matches(name, list(known), 1, cutoff)
    return matches[0] if matches else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the most similar known name, or the first known names."""
    names = list(known)
    if match := nearest(name, names):
        return f"did you mean {match!r}?"
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"known: {', '.join(names[:MAX_NAMES])}{more}"

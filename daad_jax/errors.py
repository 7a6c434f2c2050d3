"""Defines the exceptions that end a command on purpose, and makes hints for misspelled names."""

import difflib
import errno
from collections.abc import Iterable

MAX_NAMES = 40  # an error lists this many known names
REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room, or ask for a larger quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EACCES: "correct its permissions",
    errno.EPERM: "correct its permissions",
    errno.EROFS: "give a folder that can be written",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "it is not there any more; bring it back",
    errno.ENOMEM: "close other programs, or choose smaller batches",
}


class UserError(Exception):
    """The input is bad, or the environment is unusable. The message is one line that names the remedy.

    `status` is the exit status of a command that ends with this error.
    """

    status = 2


class Stopped(BaseException):
    """A signal asked the process to end. `except Exception` does not catch this BaseException."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns the known name that is most similar to `name`; "" if every similarity is below `cutoff`."""
    matches = difflib.get_close_matches(name, list(known), 1, cutoff)
    return matches[0] if matches else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error about an unknown name: the most similar known name, or the first ones."""
    names = list(known)
    if match := nearest(name, names):
        return f"did you mean {match!r}?"
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"known: {', '.join(names[:MAX_NAMES])}{more}"


def describe_os_error(error: OSError) -> str:
    """Returns a line about an error of the system: the file, the reason and the remedy."""
    place = f"{error.filename}: " if error.filename is not None else ""
    remedy = REMEDIES.get(error.errno or 0, "look at this file or device, then try again")
    return f"{place}{error.strerror or error}; {remedy}"

"""Matches files with the folder names and patterns in `config.data.normal`, `anomalous` and `masks`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from daad_jax.data.folder_words import ANOMALOUS, NORMAL
from daad_jax.errors import UserError, did_you_mean

MAX_NAMED_FOLDERS = 10  # an error names this many folders


@dataclass(frozen=True)
class Patterns:
    """`config.data.normal`, `anomalous` and `masks`, each cut at its commas; in lower case."""

    normal: tuple[str, ...] = ()
    anomalous: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()

    @classmethod
    def parse(cls, normal: str, anomalous: str, masks: str) -> "Patterns":
        return cls(_split(normal), _split(anomalous), _split(masks))

    @property
    def of_images(self) -> tuple[str, ...]:
        """The patterns for images without "*", because every other pattern is more exact than "*"."""
        return tuple(pattern for pattern in self.normal + self.anomalous if pattern != "*")


def matches(name: str, patterns: Iterable[str], depth: int = 0) -> bool:
    """Whether a pattern matches a file's name, a folder of the file, or one of their paths.

    Args:
        name: the path of the file below the folder of the data, with "/".
        patterns: in lower case; the case of `name` does not matter. "*" stands for everything.
        depth: how many folders at the beginning of the path do not count by themselves.
    """
    if not patterns:
        return False
    parts = name.lower().split("/")
    names = {*parts[depth:], *("/".join(parts[: n + 1]) for n in range(depth, len(parts)))}
    return any(pattern == "*" or any(fnmatchcase(n, pattern) for n in names) for pattern in patterns)


def match_patterns(names: Sequence[str], patterns: Patterns, root: str) -> list[str]:
    """Returns NORMAL, ANOMALOUS, or "" for each file, by the pattern that matches it.

    Raises:
        UserError: a pattern matches no file.
    """
    for key in ("normal", "anomalous", "masks"):
        for pattern in getattr(patterns, key):
            if not any(matches(name, (pattern,)) for name in names):
                folders = sorted({part for name in names for part in name.split("/")[:-1]})
                raise UserError(
                    f"config.data.{key}: {pattern!r} matches no image below {root}; "
                    f"{did_you_mean(pattern, folders[:MAX_NAMED_FOLDERS])}"
                )
    in_order = [
        (role, tuple(p for p in own if (p == "*") == is_any))
        for is_any in (False, True)
        for role, own in ((ANOMALOUS, patterns.anomalous), (NORMAL, patterns.normal))
    ]
    return [next((role for role, own in in_order if matches(name, own)), "") for name in names]


def _split(text: str) -> tuple[str, ...]:
    return tuple(p for word in text.split(",") if (p := word.strip().strip("/").lower()))

"""Prints lines beside the progress bars. Control characters in file names cannot harm the terminal."""

import sys
from typing import TextIO

from daad_jax.escaping import for_terminal


def say(*lines: str) -> None:
    """Prints lines on standard output at once. A line break inside a line does not begin a new line."""
    _write(lines, sys.stdout)


def warn(line: str) -> None:
    """Prints "warning: " and the line on standard error."""
    _write([f"warning: {line}"], sys.stderr)


def format_rate(per_second: float) -> str:
    """Writes a rate, which is rarely exact: "123", "4.5" or "0.25", so that a slow rate is not 0."""
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"


def _write(lines: list[str] | tuple[str, ...], stream: TextIO) -> None:
    from tqdm import tqdm  # --help needs no bars

    with tqdm.external_write_mode(file=stream):
        for line in lines:
            print(for_terminal(line), file=stream, flush=True)

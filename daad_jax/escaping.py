"""Makes names of files safe for where they are shown: on the terminal, in tables, on pages, in other names.

A name on Linux may hold everything but "/" and a zero: line breaks, commands for the terminal, bytes that are
no text. JSON needs no function: `json.dumps` escapes every other character than ASCII and keeps exact names.
"""

import re
import unicodedata
from collections.abc import Iterable

# Control characters, separators of lines, characters that turn the direction of the text, and bytes that are
# no text (Python keeps them as surrogates).
_UNSAFE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_ON_A_PAGE = re.compile(f"(?![\n\t]){_UNSAFE.pattern}")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_FORMULA_STARTS = ("=", "+", "-", "@")  # a spreadsheet would compute a cell that begins so


def for_terminal(text: str) -> str:
    r"""The text as one line without commands for the terminal: a line break becomes "\n", a byte "\xff".

    A text that was escaped before stays as it is.
    """
    return _UNSAFE.sub(_escape, text)


def for_page(value: object) -> object:
    """A text for an HTML page, without what would turn or hide the text around it; line breaks stay.

    It does not escape HTML, see `evaluation/report.py`. Other values, and markup, stay as they are.
    """
    return _UNSAFE_ON_A_PAGE.sub(_escape, value) if type(value) is str else value


def for_table(text: str) -> str:
    """The text of a cell in a CSV file: one line, and no formula of a spreadsheet.

    A cell that a spreadsheet would compute gets a "'" in front, which spreadsheets take for "this is text".
    """
    shown = _UNSAFE.sub(_escape, text)
    # Some spreadsheets pass over spaces, and take the wide forms of these characters for the same.
    is_formula = unicodedata.normalize("NFKC", shown.strip()[:1]).startswith(_FORMULA_STARTS)
    return f"'{shown}" if is_formula else shown


def table_row(cells: Iterable[object]) -> str:
    """A line of a CSV file, with its end. Texts go through `for_table`; floats get 8 digits.

    A text with a comma or a semicolon is quoted: spreadsheets in many languages cut lines at semicolons.
    """
    return ",".join(map(_cell, cells)) + "\n"


def for_file_name(text: str, max_bytes: int) -> str:
    """Makes a text safe for a file's name: at most `max_bytes` bytes in UTF-8, "_" for unsafe characters."""
    return _UNSAFE.sub("_", text).encode()[:max_bytes].decode(errors="ignore")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.8g}"
    if not isinstance(value, str):
        return str(value)
    text = for_table(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in '",;') else text


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no text
        code -= 0xDC00
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")

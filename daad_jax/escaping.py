"""Makes names of files safe to show: on the terminal, in tables, on pages and in other names.

On Linux, a name may have all bytes except "/" and zero: line breaks, commands for the terminal, and bytes
that are not text. JSON needs no function here, because `json.dumps` escapes all characters outside ASCII.
"""

import re
import unicodedata
from collections.abc import Iterable

# Control characters, separators of lines, characters that change the direction of the text, and bytes that
# are not text (Python stores these bytes as surrogates).
_UNSAFE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_ON_A_PAGE = re.compile(f"(?![\n\t]){_UNSAFE.pattern}")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_FORMULA_STARTS = ("=", "+", "-", "@")  # a spreadsheet computes a cell that begins with one of these


def for_terminal(text: str) -> str:
    r"""Returns the text as one line, without commands for the terminal.

    A line break becomes "\n", a byte that is not text "\xff". A text that was escaped before does not change.
    """
    return _UNSAFE.sub(_escape, text)


def for_page(value: object) -> object:
    """Escapes characters that would reverse or hide other text on an HTML page. Line breaks stay.

    This function does not escape HTML: Jinja2 does. Values that are not texts, and markup, do not change.
    """
    return _UNSAFE_ON_A_PAGE.sub(_escape, value) if type(value) is str else value


def for_table(text: str) -> str:
    """Returns the text of a cell in a CSV file: one line, and no formula of a spreadsheet.

    A cell that a spreadsheet would compute gets a "'" in front. This sign tells spreadsheets that the cell is
    text.
    """
    shown = _UNSAFE.sub(_escape, text)
    # Some spreadsheets ignore spaces at the start, and treat the wide forms of these characters as the same.
    is_formula = unicodedata.normalize("NFKC", shown.strip()[:1]).startswith(_FORMULA_STARTS)
    return f"'{shown}" if is_formula else shown


def table_row(cells: Iterable[object]) -> str:
    """Returns a line of a CSV file, with its line break. `for_table` escapes texts; floats get 8 digits.

    A text with a comma or a semicolon is quoted, because spreadsheets in many languages cut lines at
    semicolons.
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
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not text
        code -= 0xDC00
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")

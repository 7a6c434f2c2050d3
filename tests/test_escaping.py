r"""No name of a file breaks a line, a table or a page, speaks to a terminal, or becomes a formula."""

import csv
import io
import os
import unicodedata

import jinja2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daad_jax.escaping import for_file_name, for_page, for_table, for_terminal, table_row
from daad_jax.terminal import say, warn

# What a file's name can be: any bytes, as Python decodes them.
any_name = st.one_of(st.binary(max_size=40).map(os.fsdecode), st.text(max_size=40))
COLOUR = "\x1b[31mred\x1b[0m.png"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name, 1.png", "plain name, 1.png"),
        ("größe-图像-🙂.png", "größe-图像-🙂.png"),
        (COLOUR, r"\x1b[31mred\x1b[0m.png"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("a\x9b2J", r"a\x9b2J"),  # the control characters of ISO 8859: a terminal may obey them, too
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("a\u2028b", r"a\u2028b"),
        (os.fsdecode(b"a\xff"), r"a\xff"),
        (r"C:\new\x1b", r"C:\new\x1b"),
    ],
)
def test_a_name_is_one_line_without_commands(name, shown):
    assert for_terminal(name) == shown
    assert for_terminal(shown) == shown


@settings(deadline=None, max_examples=200)
@given(any_name)
@example(COLOUR)
def test_no_output_has_control_characters_of_a_name(name):
    for text in (for_terminal(name), for_table(name), for_file_name(name, 60), for_page(name)):
        text.encode()  # UTF-8 in every case
        unsafe = [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
        assert set(unsafe) <= ({"\n", "\t"} if text == for_page(name) else set())
    assert len(for_terminal(name).splitlines()) <= 1
    assert len(for_file_name(name, 10).encode()) <= 10


@settings(deadline=None, max_examples=200)
@given(any_name, any_name)
def test_a_row_is_read_back_as_its_cells(first, second):
    row = table_row([first, 3, second, 0.5])
    assert row.endswith("\n")
    assert len(row.splitlines()) == 1
    (cells,) = csv.reader(io.StringIO(row, newline=""), strict=True)
    assert cells == [for_table(first), "3", for_table(second), "0.5"]
    for delimiter in ";\t":  # as a spreadsheet of another language cuts the line
        for cell in next(csv.reader(io.StringIO(row, newline=""), delimiter=delimiter)):
            assert not cell.startswith(("=", "+", "-", "@")), row


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "＝1", "\t=1", '=HYPERLINK("x")'])
def test_a_formula_is_text(name):
    assert not for_table(name).lstrip().startswith(("=", "+", "-", "@", "＝"))


def test_numbers_stay_numbers_and_plain_names_stay_plain():
    assert table_row(["name", "score"]) == "name,score\n"
    assert table_row(["a b-c=d.png", -0.123456789, 7, ""]) == "a b-c=d.png,-0.12345679,7,\n"
    assert table_row(['a,"b";c']) == '"a,""b"";c"\n'


def test_a_page_keeps_line_breaks_and_markup():
    page = jinja2.Environment(autoescape=True, finalize=for_page).from_string("{{ name }}{{ number }}")
    assert page.render(name="<b>\u202e\x1b\na", number=3) == "&lt;b&gt;\\u202e\\x1b\na3"


def test_printed_lines_are_lines(capsys):
    say("first\nline", COLOUR)
    warn("a\rb")
    printed = capsys.readouterr()
    assert printed.out == "first\\nline\n\\x1b[31mred\\x1b[0m.png\n"
    assert printed.err == "warning: a\\rb\n"

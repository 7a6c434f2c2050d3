"""`labels.csv`: every mark survives a kill, the last mark counts, and a cut line is repaired."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daad_jax.errors import UserError
from daad_jax.reviewing.folder_images import make_id
from daad_jax.reviewing.marks import DEFECT, GOOD, NO_MARK, UNSURE, About, Marks

ROOT = Path(__file__).parents[2]
SHA = "ab" * 32
IDS = [make_id(f"{i}.png") for i in range(4)]


def about(name="a.png", sha256=SHA):
    return About(name, sha256, 1.25, "0a1b2c3d")


def every(id_):
    return about()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "labels.csv"


def test_the_last_mark_counts_also_after_a_restart(file):
    marks = Marks(file)
    marks.mark(IDS[0], GOOD, about())
    marks.mark(IDS[1], DEFECT, about())
    marks.mark(IDS[0], UNSURE, about())
    for each in (marks, Marks(file)):
        assert [each.get(i, SHA) for i in IDS[:3]] == [UNSURE, DEFECT, NO_MARK]


def test_undo_adds_lines_and_goes_back_also_after_a_restart(file):
    marks = Marks(file)
    for mark in (GOOD, DEFECT):
        marks.mark(IDS[0], mark, about())
    marks.mark(IDS[1], UNSURE, about())
    assert marks.undo(every) == (IDS[1], NO_MARK)
    marks = Marks(file)
    assert marks.undo(every) == (IDS[0], GOOD)
    assert marks.undo(every) == (IDS[0], NO_MARK)
    assert marks.undo(every) is None
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["action"] for row in rows] == ["mark"] * 3 + ["undo"] * 3
    assert [row["mark"] for row in rows] == [GOOD, DEFECT, UNSURE, NO_MARK, GOOD, NO_MARK]


def test_undo_passes_over_images_that_are_not_there(file):
    marks = Marks(file)
    marks.mark(IDS[0], GOOD, about())
    marks.mark(IDS[1], DEFECT, about())
    assert marks.undo(lambda id_: about() if id_ == IDS[0] else None) == (IDS[0], NO_MARK)
    assert marks.get(IDS[1], SHA) == DEFECT


def test_a_mark_of_another_content_does_not_count(file):
    marks = Marks(file)
    marks.mark(IDS[0], GOOD, about())
    assert marks.get(IDS[0], "cd" * 32) == NO_MARK
    assert marks.is_of_other_content(IDS[0], "cd" * 32)
    marks.mark(IDS[0], DEFECT, about(sha256="cd" * 32))
    assert marks.get(IDS[0], "cd" * 32) == DEFECT
    # To take this mark back does not give the new content the mark of the old one.
    for each in (marks, Marks(file)):
        assert each.undo(lambda id_: about(sha256="cd" * 32)) == (IDS[0], NO_MARK)
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def test_the_file_is_safe_for_spreadsheets(file):
    name = '=HYPERLINK("x"),\n\udcff;.png'
    Marks(file).mark(IDS[0], GOOD, about(name))
    assert len(file.read_text().splitlines()) == 2
    (row,) = csv.DictReader(file.read_text().splitlines())
    assert row["name"] == '\'=HYPERLINK("x"),\\n\\xff;.png'
    assert Marks(file).get(IDS[0], SHA) == GOOD


@pytest.mark.parametrize("kept", [1, 30, 60, 100])
def test_a_line_that_a_kill_has_cut_is_removed(file, kept, capsys):
    marks = Marks(file)
    marks.mark(IDS[0], GOOD, about())
    whole = file.read_bytes()
    marks.mark(IDS[1], DEFECT, about())
    cut = file.read_bytes()[: len(whole) + kept]
    file.write_bytes(cut)
    marks = Marks(file)
    assert "its last line was cut" in capsys.readouterr().err
    assert file.read_bytes() == whole
    assert [marks.get(i, SHA) for i in IDS[:2]] == [GOOD, NO_MARK]
    marks.mark(IDS[1], UNSURE, about())
    assert Marks(file).get(IDS[1], SHA) == UNSURE


def test_a_last_line_without_its_end_counts_if_it_is_whole(file, capsys):
    Marks(file).mark(IDS[0], GOOD, about())
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert Marks(file).get(IDS[0], SHA) == GOOD
    assert file.read_bytes() == content
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"time,act", b"\xff"])
def test_a_first_line_that_was_cut_is_written_again(file, content):
    file.write_bytes(content)
    Marks(file).mark(IDS[0], GOOD, about())
    assert Marks(file).get(IDS[0], SHA) == GOOD


def test_a_file_that_a_spreadsheet_has_saved_is_read(file):
    marks = Marks(file)
    marks.mark(IDS[0], GOOD, about("a,b.png"))
    rows = list(csv.reader(file.read_text().splitlines()))
    with file.open("w", encoding="utf-8-sig", newline="") as saved:
        csv.writer(saved, delimiter=";", lineterminator="\r\n").writerows(rows)
    marks = Marks(file)
    assert marks.get(IDS[0], SHA) == GOOD
    # What is marked from now on is read, too.
    marks.mark(IDS[1], DEFECT, about("a,b;c.png"))
    assert [Marks(file).get(id_, SHA) for id_ in IDS[:2]] == [GOOD, DEFECT]


def test_lines_that_are_no_marks_are_counted(file, capsys):
    marks = Marks(file)
    marks.mark(IDS[0], GOOD, about())
    header, line = file.read_text().splitlines()
    bad = [line.replace("mark,good", "mark,perfect"), line.replace(SHA, SHA[:-1]), "x", "x" * 200_000]
    file.write_text("\n".join([header, *bad, line, ""]))
    assert Marks(file).get(IDS[0], SHA) == GOOD
    assert "4 line(s) are no marks and do not count, such as line 2" in capsys.readouterr().err


def test_another_file_is_refused(file):
    file.write_text("name,score\na.png,1\n")
    with pytest.raises(UserError, match=r"labels.csv: is no list of marks .* move this file away"):
        Marks(file)


def test_a_change_by_another_program_is_not_overwritten(file):
    marks = Marks(file)
    marks.mark(IDS[0], GOOD, about())
    with file.open("a") as other:
        other.write("by hand\n")
    with pytest.raises(UserError, match="another program has changed this file"):
        marks.mark(IDS[1], GOOD, about())
    assert marks.get(IDS[1], SHA) == NO_MARK


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_the_mark_does_not_count(tmp_path, monkeypatch):
    marks = Marks(tmp_path / "labels.csv")
    marks.mark(IDS[0], GOOD, about())
    before = (tmp_path / "labels.csv").read_bytes()

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match=r"labels.csv: cannot be written \(No space left on device\)"):
        marks.mark(IDS[1], GOOD, about())
    monkeypatch.undo()
    assert (tmp_path / "labels.csv").read_bytes() == before
    assert marks.get(IDS[1], SHA) == NO_MARK
    marks.mark(IDS[1], GOOD, about())
    assert Marks(tmp_path / "labels.csv").get(IDS[1], SHA) == GOOD


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_kill_loses_no_mark_that_was_confirmed(file):
    """A child marks as fast as it can, and prints each mark after it was saved."""
    code = (
        "import sys; from pathlib import Path\n"
        "from daad_jax.reviewing.marks import About, Marks\n"
        "from daad_jax.reviewing.folder_images import make_id\n"
        "marks = Marks(Path(sys.argv[1]))\n"
        "for n in range(10**6):\n"
        "    marks.mark(make_id(str(n)), 'good', About(f'{n}.png', 'ab' * 32, 1.0, 'c'))\n"
        "    print(n, flush=True)\n"
    )
    confirmed = 0
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout
        for _ in range(50):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        said = child.communicate()[0].split()
        confirmed = int(said[-1]) + 1 if said else 50
        marks = Marks(file)
        assert all(marks.get(make_id(str(n)), SHA) == GOOD for n in range(confirmed))
    assert confirmed >= 50

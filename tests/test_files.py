"""Files are replaced as a whole or not at all, one by one and together; leftovers of killed commands go."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daad_jax import files
from daad_jax.errors import UserError
from daad_jax.files import finish_replacing, first_free, new_folder, replacing, replacing_together, write_text

ROOT = Path(__file__).parents[1]


def age(*paths):
    for path in paths:
        os.utime(path, (1, 1))


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_generation(folder, word, fail=False):
    with replacing_together(folder, "set") as new:
        for name in ("a", "b", "c"):
            (new / name).write_text(word)
        if fail:
            raise ValueError


def test_files_are_replaced_together_or_not_at_all(tmp_path):
    write_generation(tmp_path, "old")
    (tmp_path / "own").write_text("other")
    with pytest.raises(ValueError):
        write_generation(tmp_path, "new", fail=True)
    assert {(tmp_path / name).read_text() for name in "abc"} == {"old"}
    write_generation(tmp_path, "new")
    assert {(tmp_path / name).read_text() for name in "abc"} == {"new"}
    assert names(tmp_path) == ["a", "b", "c", "own"]


KILLED_AT_A_CALL = """
import os, sys
from pathlib import Path
from daad_jax import files
count, folder = int(sys.argv[1]), Path(sys.argv[2])
calls = 0
def counting(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), 9)
        return function(*arguments, **options)
    return call
os.replace, os.unlink, os.rmdir, os.mkdir = map(counting, (os.replace, os.unlink, os.rmdir, os.mkdir))
for name in ("mkdir", "write_text", "rmdir", "unlink"):
    setattr(Path, name, counting(getattr(Path, name)))
with files.replacing_together(folder, "set") as new:
    for name in ("a", "b", "c"):
        (new / name).write_text("new")
print("done")
"""


def test_a_kill_at_any_call_leaves_one_generation(tmp_path):
    """Child processes are killed at their first, second, ... call of the system that changes files."""
    generations = []
    for count in range(1, 100):
        folder = tmp_path / str(count)
        folder.mkdir()
        write_generation(folder, "old")
        child = subprocess.run(
            [sys.executable, "-c", KILLED_AT_A_CALL, str(count), str(folder)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert child.stderr == ""
        age(*folder.glob(".set.partial-*"), *folder.glob(".set.partial-*/.lock"))
        finish_replacing(folder, "set")  # what the next command does first
        found = {(folder / name).read_text() for name in "abc"}
        assert len(found) == 1
        assert names(folder) == ["a", "b", "c"]
        generations += found
        if child.returncode == 0:
            break
    assert generations == sorted(generations, reverse=True)  # first "old", from some call on "new"
    assert generations.count("old") > 3
    assert generations.count("new") > 4


def test_many_commands_replace_the_same_files(tmp_path):
    """A command may see the complete folder of another one, and find the folder removed or filled again."""

    def write(word):
        for turn in range(40):
            write_generation(tmp_path, f"{word} {turn}")

    with ThreadPoolExecutor(4) as pool:
        for written in [pool.submit(write, word) for word in ("A", "B", "C", "D")]:
            written.result()
    assert len({(tmp_path / name).read_text() for name in "abc"}) == 1
    assert names(tmp_path) == ["a", "b", "c"]


def test_a_folder_that_is_being_filled_is_not_swept(tmp_path):
    with replacing_together(tmp_path, "set") as new:
        (new / "a").write_text("first")
        age(new, new / ".lock")
        finish_replacing(tmp_path, "set")
        write_generation(tmp_path, "second")
        assert (new / "a").read_text() == "first"
    assert (tmp_path / "a").read_text() == "first"
    assert (tmp_path / "b").read_text() == "second"


def test_temporary_files_of_killed_commands_are_swept(tmp_path):
    path = tmp_path / "config.json"
    left, fresh, other = (
        tmp_path / name for name in (".config.json.7", ".config.json.8", ".config.json.bak")
    )
    for file in (left, fresh, other):
        file.write_text("")
    age(left, other)
    write_text(path, "whole")
    assert names(tmp_path) == [".config.json.8", ".config.json.bak", "config.json"]
    with pytest.raises(ValueError):
        _write_half(path)
    assert path.read_text() == "whole"
    assert names(tmp_path) == [".config.json.8", ".config.json.bak", "config.json"]


def _write_half(path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise ValueError


def test_a_new_folder_that_another_command_takes_first(tmp_path, monkeypatch):
    """Between the search for a free name and its use."""
    found = iter([tmp_path / "taken", tmp_path / "free"])
    (tmp_path / "taken").mkdir()
    monkeypatch.setattr(files, "first_free", lambda path: next(found))
    assert new_folder(None, tmp_path / "taken", "") == tmp_path / "free"
    assert (tmp_path / "free").is_dir()


def test_new_folders(tmp_path):
    (tmp_path / "out").symlink_to("nowhere")
    assert first_free(tmp_path / "out").name == "out-2"
    assert [new_folder(None, tmp_path / "out", "").name for _ in range(2)] == ["out-2", "out-3"]
    assert new_folder(tmp_path / "out-2", tmp_path, "") == tmp_path / "out-2"  # empty
    (tmp_path / "out-2" / "file").touch()
    with pytest.raises(UserError, match="exists already; give a folder that is new or empty"):
        new_folder(tmp_path / "out-2", tmp_path, "")
    with pytest.raises(UserError, match=r"out: cannot be written \(.*; give another"):
        new_folder(tmp_path / "out", tmp_path, "give another --out")

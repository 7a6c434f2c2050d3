"""Everything below a folder is listed once, as an image or with the reason why it is none."""

import os
import socket

import pytest
from PIL import Image

from daad_jax.data.walk import walk
from daad_jax.errors import UserError


def paint(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, format="png")


def reasons(folder, leave_out=None):
    files = list(walk(folder, leave_out))
    assert len({file.name for file in files}) == len(files)
    return {file.name: file.reason for file in files}


def test_what_is_no_image_has_a_reason(tmp_path):
    for name in ("a.PNG", "bare", ".hidden.png", ".git/x.png", "lost+found/y.png", "deep/b.png"):
        paint(tmp_path / name)
    (tmp_path / "words").write_text("no image, and no suffix")
    (tmp_path / "notes.TXT").write_text("text")
    (tmp_path / "empty.png").touch()
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "itself.png").symlink_to("itself.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert reasons(tmp_path) == {
        "a.PNG": "",
        "bare": "",
        "deep/b.png": "",
        ".hidden.png": "hidden",
        ".git/x.png": "hidden",
        "lost+found/y.png": "in a system folder",
        "words": "not an image (no suffix)",
        "notes.TXT": "not an image (.txt)",
        "empty.png": "empty file",
        "broken.png": "broken link",
        "itself.png": "broken link",
        "pipe.png": "not a regular file",
    }


def test_a_socket_and_a_pipe_without_suffix_are_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.png")
        assert set(reasons(tmp_path).values()) == {"not a regular file"}


def test_links_are_followed_once_and_loops_end(tmp_path):
    root, outside = tmp_path / "set", tmp_path / "outside"
    paint(root / "real/a.png")
    paint(outside / "b.png")
    paint(outside / "inner/c.png")
    (outside / "back").symlink_to(root)  # a loop through another folder
    (root / "0").symlink_to(root / "real")  # before the real folder in the order of names
    (root / "1").symlink_to(outside / "inner")
    (root / "2").symlink_to(outside)
    (root / "3").symlink_to(outside)
    (root / "up").symlink_to(tmp_path)
    (root / "real/self").symlink_to(root / "real")
    (root / "again.png").symlink_to(root / "real/a.png")
    (root / "first.png").symlink_to(tmp_path / "single.png")
    (root / "second.png").symlink_to(tmp_path / "single.png")
    paint(tmp_path / "single.png")
    folder, file = "link to a folder that is listed already", "link to a file that is listed already"
    loop = "link to a folder that contains it"
    assert reasons(root) == {
        "real/a.png": "",
        "0": folder,
        "1/c.png": "",
        "2/b.png": "",
        "2/inner": folder,
        "2/back": loop,
        "3": folder,
        "up": loop,
        "real/self": loop,
        "again.png": file,
        "first.png": "",
        "second.png": file,
    }


def test_links_into_hidden_folders_are_followed(tmp_path):
    """Volumes of Kubernetes and git-annex keep their files so."""
    paint(tmp_path / "..data/a.png")
    paint(tmp_path / ".store/0123")
    (tmp_path / "a.png").symlink_to("..data/a.png")
    (tmp_path / "b.png").symlink_to(".store/0123")
    found = reasons(tmp_path)
    assert found == {"..data/a.png": "hidden", ".store/0123": "hidden", "a.png": "", "b.png": ""}


def test_the_order_is_fixed_and_files_come_first(tmp_path):
    for name in ("b/z.png", "b/a/x.png", "a.png", "c.png", "B/y.png"):
        paint(tmp_path / name)
    assert list(reasons(tmp_path)) == ["a.png", "c.png", "B/y.png", "b/z.png", "b/a/x.png"]


def test_the_callers_own_folder_is_passed_over(tmp_path):
    paint(tmp_path / "a.png")
    paint(tmp_path / "out/heat.png")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert [name for name, reason in reasons(tmp_path, tmp_path / "link").items() if not reason] == ["a.png"]


def test_a_folder_that_cannot_be_listed_is_named_unless_it_is_left_out(tmp_path, monkeypatch):
    paint(tmp_path / "good/a.png")
    paint(tmp_path / "lost+found/b.png")
    scandir, closed = os.scandir, [tmp_path / "lost+found"]

    def refuse(path):
        if path in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert reasons(tmp_path) == {"good/a.png": "", "lost+found": "in a system folder"}
    closed.append(tmp_path / "good")
    with pytest.raises(UserError, match=r"good: this folder cannot be listed \(Permission denied"):
        reasons(tmp_path)


def test_a_stamp_changes_with_the_file(tmp_path):
    paint(tmp_path / "a.png")
    os.utime(tmp_path / "a.png", ns=(5, 5))
    (before,) = walk(tmp_path)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "new.png").write_bytes(content)
    os.utime(tmp_path / "new.png", ns=(5, 5))
    os.replace(tmp_path / "new.png", tmp_path / "a.png")  # same name, size and time
    (after,) = walk(tmp_path)
    assert before.stamp[:2] == after.stamp[:2] == (len(content), 5)
    assert before.stamp != after.stamp

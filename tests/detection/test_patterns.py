"""Patterns match what `glob` matches, and come to an end where links go in circles."""

import glob
import os

import pytest

from daad_jax.detection.patterns import expand
from daad_jax.detection.sources import find
from daad_jax.errors import UserError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Folders without links, and hidden ones; the current folder is their root."""
    for name in ("a.png", "x/b.png", "x/y/c.png", "x/y/d.txt", "x/.h/e.png", "[1]/f.png", "x/.g.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    ["*.png", "**/*.png", "x/**/*.png", "x/**/y/*", "**/x/**/*.txt", "**/y", "*/*.png", "none/**/*"],
)
def test_a_pattern_matches_what_glob_matches(tree, pattern):
    expected = sorted(set(glob.glob(pattern, recursive=True)))
    assert expand(pattern) == expected
    assert expand(str(tree / pattern)) == [str(tree / name) for name in expected]


def test_any_folders_at_the_end_are_the_folder_itself(tree):
    assert expand("x/**") == ["x"]
    assert expand("**") == ["."]
    assert [str(path) for path in find(["**"])] == ["a.png", "[1]/f.png", "x/b.png", "x/y/c.png"]


def test_links_in_circles_come_to_an_end(tree):
    deep = tree / "x"
    for i in range(30):  # glob would follow each of them at each of forty levels
        (deep / f"up{i}").symlink_to("..", target_is_directory=True)
    (deep / "self").symlink_to("self")
    (tree / "to_y").symlink_to("x/y", target_is_directory=True)
    assert expand("**/*.png") == ["[1]/f.png", "a.png", "x/b.png", "x/y/c.png"]
    assert expand("**/to_*") == ["to_y"]
    assert [str(path) for path in find(["x/**", "**/c.*"], tree / "out")] == [
        "x/b.png",
        "x/y/c.png",
        "x/y/c.png",
    ]


def test_a_link_that_alone_leads_to_a_folder_is_followed(tree, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "z.png").write_text("image")
    (tree / "first").symlink_to(outside, target_is_directory=True)
    (tree / "second").symlink_to(outside, target_is_directory=True)
    assert "first/z.png" in expand("**/*.png")
    assert "second/z.png" not in expand("**/*.png")


@pytest.mark.parametrize("word", ["a" * 300, "/tmp/" + "a" * 300 + "/b.png", "a" * 5000, "a\0b"])
def test_a_word_that_no_file_can_have_as_a_name_is_one_line(tree, word):
    with pytest.raises(UserError, match="there is no such file or folder"):
        list(find([word]))


@pytest.mark.skipif(os.geteuid() == 0, reason="the system refuses root nothing")
def test_a_closed_folder_is_named(tree):
    (tree / "x").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        list(find(["x/b.png"]))
    with pytest.raises(UserError, match="cannot be listed"):
        expand("**/*.png")
    (tree / "x").chmod(0o755)

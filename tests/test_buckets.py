"""Buckets against an emulator on loopback: paths, files that appear whole, and listings of folders."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from daad_jax import buckets, files, uploads
from daad_jax.buckets import is_in_bucket, open_place
from daad_jax.config import DataConfig
from daad_jax.data.folder_source import open_folder
from daad_jax.data.groups import open_grouping
from daad_jax.data.locations import locate
from daad_jax.data.walk import HIDDEN, NO_SIGNATURE, walk
from daad_jax.detection.sources import list_files
from daad_jax.errors import UserError
from daad_jax.uploads import Mirror
from tests.emulator import BUCKET, needs_emulator, upload_folder

pytestmark = [pytest.mark.usefixtures("emulator"), needs_emulator]
ROOT = f"gs://{BUCKET}"
PNG = bytes.fromhex("89504e470d0a1a0a")


def put(place, content):
    path = open_place(f"{ROOT}/{place}")
    uploads.create(path, content if isinstance(content, str) else content.decode("latin-1"))
    return path


def names(folder):
    return [found.name for found in buckets.list_objects(open_place(f"{ROOT}/{folder}"))]


def in_another_process(code):
    """Runs code that has `buckets` and `place(name)`; returns what it prints."""
    head = "from daad_jax import buckets, files, uploads; "
    head += f"place = lambda name: buckets.open_place('{ROOT}/' + name)\n"
    run = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_path_in_a_bucket_keeps_its_address():
    path = open_place(f"{ROOT}/a/b.png")
    assert str(path) == f"{ROOT}/a/b.png"
    assert str(path.parent / "c") == f"{ROOT}/a/c"
    assert is_in_bucket(path)
    assert buckets.make_absolute(path) == path
    assert isinstance(open_place("a/b.png"), Path)


@pytest.mark.parametrize(
    "address", ["s3://bucket/run", "https://a/b", "gs:/bucket/run", "gs://", "file:///tmp/x"]
)
def test_other_addresses_are_refused(address):
    with pytest.raises(UserError, match=r"this kind of address cannot be used.*gs://BUCKET/FOLDER"):
        open_place(address)


def test_a_bucket_that_is_missing_is_named():
    with pytest.raises(UserError, match="gs://nobody: there is no such bucket"):
        open_place("gs://nobody/run")


def test_a_listing_shows_what_another_process_has_written():
    folder = open_place(f"{ROOT}/shared")
    put("shared/first", "1")
    assert [path.name for path in folder.iterdir()] == ["first"]
    in_another_process("uploads.create(place('shared/second'), '2')")
    assert sorted(path.name for path in folder.iterdir()) == ["first", "second"]


def test_an_object_is_replaced_whole_or_not_at_all():
    path = put("whole/text", "old")
    with suppress(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert buckets.read_bytes(path) == b"old"
    files.write_text(path, "neü")
    assert path.read_text(encoding="utf-8") == "neü"
    assert names("whole") == ["text"]


def test_files_appear_together_or_not_at_all():
    folder = open_place(f"{ROOT}/together")
    with suppress(ZeroDivisionError), files.replacing_together(folder, "export") as staging:
        (staging / "a").write_text("1")
        raise ZeroDivisionError
    assert names("together") == []
    with files.replacing_together(folder, "export") as staging:
        (staging / "a").write_text("1")
        (staging / "b").write_text("2")
    assert names("together") == ["a", "b"]


def test_a_killed_replacement_is_finished_by_the_next():
    killed = """
import os
copy = buckets.client().bucket("x").__class__.copy_blob
def copy_one(self, *arguments):
    copy(self, *arguments)
    os._exit(0)
buckets.client().bucket("x").__class__.copy_blob = copy_one
with files.replacing_together(place("killed"), "export") as staging:
    for name in "ab":
        (staging / name).write_text("new " + name)
"""
    put("killed/a", "old"), put("killed/b", "old")
    in_another_process(killed)
    folder = open_place(f"{ROOT}/killed")
    assert buckets.read_bytes(folder / "b") == b"old"
    uploads.finish_uploading(folder, "export")
    assert [buckets.read_bytes(folder / name) for name in "ab"] == [b"new a", b"new b"]
    assert names("killed") == ["a", "b"]


def test_only_one_creates_an_object():
    path = open_place(f"{ROOT}/race/object")
    with ThreadPoolExecutor(8) as pool:
        generations = list(pool.map(lambda i: uploads.create(path, str(i)), range(8)))
    (winner,) = (i for i, generation in enumerate(generations) if generation)
    assert buckets.read_bytes(path) == str(winner).encode()


def test_a_mirror_uploads_what_has_changed():
    with Mirror(open_place(f"{ROOT}/mirror")) as mirror:
        (mirror.local / "sub").mkdir()
        (mirror.local / "sub" / "log").write_text("1")
        (mirror.local / ".hidden").write_text("unfinished")
        mirror.sync()
        assert names("mirror") == ["sub/log"]
        (mirror.local / "sub" / "log").write_text("12")
    assert buckets.read_bytes(mirror.folder / "sub" / "log") == b"12"
    assert not mirror.local.exists()


def test_a_missing_object_is_an_os_error():
    with pytest.raises(OSError) as caught:
        buckets.read_bytes(open_place(f"{ROOT}/nothing"))
    assert caught.value.errno == errno.ENOENT


def test_a_folder_in_a_bucket_is_walked_like_a_local_one(tmp_path):
    for name in (
        "b/2.png",
        "b/1.png",
        "a.png",
        "b/c/3.png",
        ".hid/x.png",
        "._y.png",
        "text.txt",
        "raw",
        "signed",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PNG if name == "signed" else b"no image")
    (tmp_path / "empty.png").touch()
    upload_folder(tmp_path, "walked")
    found = {file.name: file for file in walk(open_place(f"{ROOT}/walked"))}
    local = {file.name: file for file in walk(tmp_path)}
    assert [(name, file.reason) for name, file in found.items()] == [
        (name, file.reason) for name, file in local.items()
    ]
    assert found["raw"].reason == NO_SIGNATURE
    assert found[".hid/x.png"].reason == HIDDEN
    before = found["a.png"].stamp
    files.write_text(open_place(f"{ROOT}/walked/a.png"), "no image")
    (after,) = (file.stamp for file in walk(open_place(f"{ROOT}/walked")) if file.name == "a.png")
    assert before[0] == after[0]  # the size
    assert before != after


def test_a_folder_without_images_is_refused():
    with pytest.raises(UserError, match=f"{ROOT}/nowhere: this folder does not exist"):
        open_folder(open_place(f"{ROOT}/nowhere"), DataConfig())


def test_images_are_named_by_file_folder_and_pattern():
    for name in ("p/a.png", "p/q/b.png", "p/out/c.png"):
        put(f"named/{name}", PNG)

    def find(source, leave_out=None):
        return [str(file.path).removeprefix(f"{ROOT}/named/") for _, file in list_files([source], leave_out)]

    assert find(f"{ROOT}/named/p/a.png") == ["p/a.png"]
    assert find(f"{ROOT}/named") == ["p/a.png", "p/out/c.png", "p/q/b.png"]
    assert find(f"{ROOT}/named", open_place(f"{ROOT}/named/p/out")) == ["p/a.png", "p/q/b.png"]
    assert find(f"{ROOT}/named/p/*/*.png") == ["p/out/c.png", "p/q/b.png"]
    assert find(f"{ROOT}/named/**", open_place(f"{ROOT}/named/p/out")) == ["p/a.png", "p/q/b.png"]
    with pytest.raises(UserError, match="no file matches this pattern"):
        find(f"{ROOT}/named/*.jpg")


def test_a_table_of_groups_may_be_in_the_bucket():
    put("grouped/groups.csv", "name,part\nb.png,2\na.png,1\n")
    config = DataConfig(path=f"{ROOT}/grouped", group="groups.csv:part")
    assert open_grouping(config).group(["a.png", "b.png"]).numbers.tolist() == [0, 1]


def test_images_are_found_where_they_were():
    put("moved/a.png", PNG)
    config = DataConfig(source="folder", path="typed/elsewhere")
    found = locate(config, {"path": f"{ROOT}/moved"}, typed_now=False)
    assert found.path == f"{ROOT}/moved"


def test_the_client_and_the_journal_refuse_damage():
    put("damaged/.export.complete", json.dumps(["no journal"]))
    with pytest.raises(UserError, match="this object is damaged; remove it"):
        uploads.finish_uploading(open_place(f"{ROOT}/damaged"), "export")


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(buckets, "PACKAGES", ("not_installed",))
    with pytest.raises(
        UserError, match=r"needs the package not_installed of the extra gcs: pip install '.\[gcs\]'"
    ):
        open_place(f"{ROOT}/x")


def test_tensorflow_is_not_used():
    assert os.environ["EPATH_USE_TF"] == "false"

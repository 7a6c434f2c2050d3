"""The cache returns the pixels that were decoded, or notices that they have changed on the disk."""

import errno
import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daad_jax.config import Config
from daad_jax.data import cache, datasets, integrity
from daad_jax.data.samples import GOOD, TEST, TRAIN, FileRecord, Listing, Sample, Source
from daad_jax.data.tfds_source import _stamp
from daad_jax.errors import UserError

SIDE = 16


@pytest.fixture
def config(tmp_path):
    config = Config()
    config.data.source, config.data.protocol = "folder", "inspection"
    config.data.cache_dir, config.data.path = str(tmp_path / "cache"), str(tmp_path / "set")
    config.data.height = config.data.width = SIDE
    return config


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """As if no entry had been used by this process."""
    monkeypatch.setattr(cache, "_verified", set())


PIXELS = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)
MASK = (PIXELS[0, ..., 0] > 128).astype(np.uint8)


def source(pixels=PIXELS, on_read=None, identity="made here"):
    """Images in memory; the last one is defective and has a mask."""

    def make(i):
        is_last = i == len(pixels) - 1
        digest = hashlib.sha256(pixels[i].tobytes()).hexdigest()
        return Sample(
            str(i),
            TEST if is_last else TRAIN,
            "crack" if is_last else GOOD,
            lambda: (Image.fromarray(pixels[i]), digest),
            (lambda: (MASK, {})) if is_last else None,
        )

    def read():
        if on_read:
            on_read()
        return Listing([make(i) for i in range(len(pixels))], [])

    return Source(identity, read)


def load(config, *args, **options):
    """Loads as another process would, and checks what comes out."""
    cache._verified.clear()
    decoded = cache.load_decoded(source(*args), config.data, **options)
    np.testing.assert_array_equal(decoded.images, args[0] if args else PIXELS)
    np.testing.assert_array_equal(decoded.masks[-1], MASK)
    assert not decoded.masks[:-1].any()
    assert not decoded.images.flags.writeable
    return decoded


def the_entry(tmp_path) -> Path:
    (entry,) = (tmp_path / "cache").iterdir()
    return entry


def change(file, damage):
    """Replaces the content; the file stays the same one, as when a disk changes it."""
    content = damage(bytearray(file.read_bytes()))
    with file.open("r+b") as opened:
        opened.write(content)
        opened.truncate(len(content))


def rewrite(entry, change_index):
    index, _ = integrity.read_index(entry / "index.json")
    integrity.write_index(entry / "index.json", change_index(index))


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "index.json"])
def test_any_flipped_bit_is_noticed_and_made_anew(config, tmp_path, capsys, name):
    load(config)
    file, rng = the_entry(tmp_path) / name, np.random.default_rng(1)
    size = file.stat().st_size
    assert capsys.readouterr().err == ""
    header = [6, 8, 10, 60, 100, 127] if name != "index.json" else [0, 2, 12, 75, 80, 90, size - 2, size - 1]
    for position in (*header, *rng.integers(0, size, 25).tolist()):

        def flip(content, position=position):
            content[position] ^= 1 << int(rng.integers(8))
            return content

        change(file, flip)
        before = (file.stat().st_ino, file.parent.stat().st_ino)
        load(config)
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"warning: {file.parent}: this part of the image cache is damaged (" in said
        assert said.endswith("); its images are decoded again\n")
        assert (file.stat().st_ino, file.parent.stat().st_ino) != before
        assert the_entry(tmp_path) == file.parent


@pytest.mark.parametrize(
    "damage",
    [
        lambda e: change(e / "images.npy", lambda c: c[:-1]),
        lambda e: change(e / "images.npy", lambda c: c[:90]),
        lambda e: change(e / "masks.npy", lambda c: b""),
        lambda e: change(e / "index.json", lambda c: c[: len(c) // 2]),
        lambda e: change(e / "index.json", lambda c: b"{}"),
        lambda e: (e / "images.npy").unlink(),
        lambda e: (e / "masks.npy").unlink(),
        lambda e: (e / "index.json").unlink(),
        lambda e: np.save(e / "images.npy", PIXELS[:4]),
        lambda e: np.save(e / "images.npy", PIXELS.astype(np.uint16)),
        lambda e: np.save(e / "images.npy", PIXELS.view(np.int8)),
        lambda e: np.save(e / "images.npy", np.asfortranarray(PIXELS[::-1])),
        lambda e: np.save(e / "masks.npy", np.zeros((5, SIDE, SIDE), bool)),
        lambda e: integrity.write_index(e / "index.json", {}),
        lambda e: integrity.write_index(e / "index.json", [1]),
        lambda e: integrity.write_index(e / "index.json", {"files": [{"evil": 1}]}),
        lambda e: rewrite(e, lambda index: index | {"images": [[5, SIDE, SIDE, 3], "|O", 128, 0]}),
        lambda e: rewrite(e, lambda index: index | {"images": [[-5, SIDE], "|u1", 128, 0]}),
        lambda e: rewrite(e, lambda index: index | {"checksums": index["checksums"][:-1]}),
        lambda e: rewrite(e, lambda index: index | {"names": None}),
        lambda e: (shutil.rmtree(e), e.mkdir()),
        lambda e: (shutil.rmtree(e), e.write_bytes(b"no folder")),
    ],
)
def test_other_damage_is_noticed_and_made_anew(config, tmp_path, capsys, damage):
    load(config)
    entry = the_entry(tmp_path)
    damage(entry)
    load(config)
    assert capsys.readouterr().err.count("is damaged (") == 1
    assert the_entry(tmp_path) == entry
    assert sorted(file.name for file in entry.iterdir()) == [".lock", "images.npy", "index.json", "masks.npy"]
    load(config)
    assert not capsys.readouterr().err


def test_the_entry_of_other_images_is_not_used(config, tmp_path, capsys):
    load(config)
    first = the_entry(tmp_path)
    others = 255 - PIXELS
    cache.load_decoded(source(others, identity="others"), config.data)
    (second,) = set((tmp_path / "cache").iterdir()) - {first}
    shutil.rmtree(first)
    second.rename(first)
    load(config)
    assert f"the entry belongs to the images of {second.name}" in capsys.readouterr().err


def test_a_process_verifies_an_entry_once(config, monkeypatch):
    load(config)
    verified, verify_rows = [], integrity.verify_rows
    monkeypatch.setattr(
        integrity, "verify_rows", lambda f, *rest: (verified.append(f.name), verify_rows(f, *rest))
    )
    load(config)
    for _ in range(3):
        cache.load_decoded(source(), config.data)
    assert verified == ["images.npy", "masks.npy"]


def test_rows_are_verified_in_any_portions(config, tmp_path, monkeypatch):
    load(config)
    file = the_entry(tmp_path) / "images.npy"
    array, checksums = np.load(file, mmap_mode="r"), integrity.row_checksums(PIXELS)
    for size in (1, 768, 769, 2000, 10**6):
        monkeypatch.setattr(integrity, "BYTES_PER_READ", size)
        integrity.verify_rows(file, array, checksums)
        for i in range(5):
            wrong = [c ^ (j == i) for j, c in enumerate(checksums)]
            with pytest.raises(
                integrity.Damaged, match=rf"row {i} of images\.npy has changed since it was written"
            ):
                integrity.verify_rows(file, array, wrong)


def test_who_uses_a_damaged_entry_is_not_disturbed(config, tmp_path):
    used = load(config)
    entry = the_entry(tmp_path)
    change(entry / "images.npy", lambda c: c[:-1] + bytes([c[-1] ^ 1]))
    load(config)
    np.testing.assert_array_equal(used.images[:4], PIXELS[:4])  # still the file that was open
    assert used.images[4, -1, -1, -1] == PIXELS[4, -1, -1, -1] ^ 1


def test_several_may_mend_an_entry_at_once(config, tmp_path):
    load(config)
    entry = the_entry(tmp_path)
    change(entry / "images.npy", lambda c: c[:-1] + bytes([c[-1] ^ 1]))
    cache._verified.clear()
    all_read, results = threading.Barrier(4), []

    def mend():
        decoded = cache.load_decoded(source(on_read=lambda: all_read.wait(60)), config.data)
        results.append(np.array_equal(decoded.images, PIXELS))

    threads = [threading.Thread(target=mend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    assert the_entry(tmp_path) == entry


def test_everything_is_on_the_disk_before_the_entry_has_its_name(config, monkeypatch, tmp_path):
    events, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def replaced(*paths):
        events.append("replace")
        replace(*paths)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    load(config)
    at = events.index("replace")
    assert {"images.npy", "masks.npy", "index.json"} < set(events[:at])
    assert events[at - 1].startswith(".filling-")
    assert events[at + 1 :] == ["cache"]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_space_is_taken_before_it_is_written(config, tmp_path, monkeypatch, reason):
    def no_space(descriptor, offset, size):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "posix_fallocate", no_space, raising=False)
    with pytest.raises(
        UserError, match=r"the image cache needs 0 MB, but the system does not give them \("
    ) as caught:
        cache.load_decoded(source(), config.data)
    assert os.strerror(reason) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_system_that_cannot_take_space_is_used_all_the_same(config, monkeypatch):
    def not_supported(descriptor, offset, size):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", not_supported, raising=False)
    load(config)


def test_the_space_is_really_taken(tmp_path):
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("this system cannot take space in advance")
    array = integrity.create_array(tmp_path / "a.npy", (1000, 1000), np.uint8)
    assert array.shape == (1000, 1000)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 10**6
    assert not array.any()


def test_a_limit_on_the_size_of_files_is_one_line(config):
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))
    try:
        with pytest.raises(UserError, match="File too large"):
            cache.load_decoded(source(), config.data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def on_disk(folder, values):
    """A source of files whose identity does not see that a file has changed."""
    folder.mkdir(exist_ok=True)
    for name, value in values.items():
        Image.fromarray(np.full((SIDE, SIDE, 3), value, np.uint8)).save(folder / name)

    def loader(name):
        def load_file():
            content = (folder / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            return Image.open(folder / name).copy(), digest

        return load_file

    samples = [Sample(name, TRAIN, GOOD, loader(name), file=name) for name in values]
    records = [FileRecord(name, "training") for name in values] + [FileRecord("notes.txt", "left out", 0)]
    return Source("these files", lambda: Listing(samples, records), folder)


def test_check_notices_a_file_that_changed_in_secret(config, tmp_path, capsys):
    values = {"a.bmp": 1, "b.bmp": 2, "c.bmp": 3}
    folder = tmp_path / "set"
    cache.load_decoded(on_disk(folder, values), config.data)
    decoded = cache.load_decoded(on_disk(folder, values), config.data, check=True)
    assert decoded.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert not capsys.readouterr().err

    changed = on_disk(folder, {"a.bmp": 1, "b.bmp": 7, "c.bmp": 8})
    stale = cache.load_decoded(changed, config.data)
    assert stale.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    entry = the_entry(tmp_path)
    fresh = cache.load_decoded(changed, config.data, check=True)
    assert fresh.images[:, 0, 0, 0].tolist() == [1, 7, 8]
    assert capsys.readouterr().err == (
        f"warning: {folder / 'b.bmp'} has changed, but its name, size and times have not; all images are "
        "decoded again\n"
    )
    assert the_entry(tmp_path) == entry
    np.testing.assert_array_equal(stale.images[:, 0, 0, 0], [1, 2, 3])  # whoever uses it is not disturbed
    assert cache.load_decoded(changed, config.data, check=True).checksums == fresh.checksums
    assert not capsys.readouterr().err


def test_check_compares_images_without_files(config, capsys):
    load(config)
    load(config, check=True)
    assert not capsys.readouterr().err
    others = PIXELS.copy()
    others[2, 0, 0, 0] ^= 1
    load(config, others, check=True)
    assert "warning: 2 has changed, but its name" in capsys.readouterr().err
    cache.load_decoded(source(PIXELS[:4]), config.data, check=True)
    assert "warning: the list of images has changed" in capsys.readouterr().err


def test_check_is_an_argument_of_loading(config, tmp_path, monkeypatch):
    on_disk(tmp_path / "set", {f"{i}.png": i for i in range(4)})
    asked = []
    load_decoded = cache.load_decoded
    monkeypatch.setattr(cache, "load_decoded", lambda *a: (asked.append(a[2]), load_decoded(*a))[1])
    datasets.load(config)
    datasets.load(config, check=True)
    assert asked == [False, True]


def test_digests_of_files_are_in_the_index(config, tmp_path):
    folder = tmp_path / "set"
    cache.load_decoded(on_disk(folder, {"a.png": 1, "b.png": 2}), config.data)
    index = json.loads((the_entry(tmp_path) / "index.json").read_text())["index"]
    expected = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("a.png", "b.png")]
    assert [file["sha256"] for file in index["files"]] == [*expected, ""]
    assert index["digests"] == ["", ""]


def test_a_replaced_file_of_a_prepared_set_is_seen(tmp_path):
    """Also if name, size and time stay the same."""
    file = tmp_path / "part.array_record"
    file.write_bytes(b"old")
    os.utime(file, (5, 5))
    before = _stamp(file)
    (tmp_path / "new").write_bytes(b"new")
    os.utime(tmp_path / "new", (5, 5))
    os.replace(tmp_path / "new", file)
    assert before[:3] == _stamp(file)[:3]
    assert before != _stamp(file)

"""Folders, protocols, the cache and the real sets."""

import os
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from daad_jax.config import Config
from daad_jax.data import cache, datasets, protocol, tfds_builders
from daad_jax.data.catalogue import DATA_SETS
from daad_jax.data.samples import GOOD, HELD_OUT, TEST, TRAIN, Listing, Rows, Sample, Source
from daad_jax.data.tfds_source import open_tfds
from daad_jax.errors import UserError
from daad_jax.files import exclusive


@pytest.fixture
def config(tmp_path):
    config = Config()
    config.data.source = "folder"
    config.data.protocol = "inspection"
    config.data.path = str(tmp_path / "set")
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.height = config.data.width = 16
    return config


def paint(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(path)


def mvtec(root):
    for i in range(10):
        paint(root / f"train/good/{i}.png", i)
    paint(root / "test/good/a.png", 100)
    paint(root / "test/scratch/b.png", 200)
    mask = np.zeros((16, 16), np.uint8)
    mask[2:5, 3:9] = 255
    (root / "ground_truth/scratch").mkdir(parents=True)
    Image.fromarray(mask).save(root / "ground_truth/scratch/b_mask.png")


def test_mvtec_layout(config, tmp_path):
    mvtec(tmp_path / "set")
    splits = datasets.load(config)
    seen = {*splits.train.names, *splits.calibration.names}
    assert seen == {f"train/good/{i}.png" for i in range(10)}
    assert len(splits.train) == 9
    assert splits.test.names == ["test/good/a.png", "test/scratch/b.png"]
    assert splits.test.kinds == ["good", "scratch"]
    assert splits.test.labels.tolist() == [0, 1]
    assert splits.test.masks[0].sum() == 0
    assert splits.test.masks[1].sum() == 18
    assert (splits.test.images[1] == 200).all()


def test_a_changed_file_is_decoded_again(config, tmp_path):
    mvtec(tmp_path / "set")
    datasets.load(config)
    entries = set((tmp_path / "cache").iterdir())
    datasets.load(config)
    assert set((tmp_path / "cache").iterdir()) == entries
    paint(tmp_path / "set/test/good/a.png", 7)
    os.utime(tmp_path / "set/test/good/a.png", (1, 1))
    assert (datasets.load(config).test.images[0] == 7).all()


def test_just_good_images(config, tmp_path):
    for i in range(5):
        paint(tmp_path / f"set/deep/{i}.bmp", i)
    splits = datasets.load(config)
    assert (len(splits.train), len(splits.calibration), len(splits.test)) == (4, 1, 0)
    assert not any("count as good" in note for note in splits.notes)


def test_folders_whose_names_say_nothing_are_refused(config, tmp_path):
    """A folder of defects beside the good images would train, too."""
    for i in range(5):
        paint(tmp_path / f"set/a/{i}.png", i)
    paint(tmp_path / "set/b/0.png", 9)
    with pytest.raises(UserError, match=r"do not say which images are good: a \(5\), b \(1\); set config\."):
        datasets.load(config)
    config.data.normal, config.data.anomalous = "A", "b"
    splits = datasets.load(config)
    assert {*splits.train.kinds, *splits.calibration.kinds} == {"good"}
    assert sorted(splits.test.kinds) == ["b", "good"]
    config.data.normal, config.data.anomalous = "*", ""
    splits = datasets.load(config)
    assert (len(splits.train) + len(splits.calibration), len(splits.test)) == (6, 0)


def test_unreadable_images_stop_or_are_skipped(config, tmp_path):
    mvtec(tmp_path / "set")
    (tmp_path / "set/train/good/bad.png").write_text("no")
    with pytest.raises(UserError, match=r"bad\.png: the image cannot be read"):
        datasets.load(config)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["ranges"]
    config.data.on_bad_image = "skip"
    splits = datasets.load(config)
    assert len(splits.train) + len(splits.calibration) == 10
    assert splits.notes[0].startswith("Training and testing leave out 1 image that cannot be read: ")
    assert "bad.png" in splits.notes[0]


def test_bad_folders(config, tmp_path):
    with pytest.raises(UserError, match="this folder does not exist; give a folder"):
        datasets.load(config)
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="this folder holds no images; give a folder"):
        datasets.load(config)
    (tmp_path / "set/notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"holds no images \(1 not an image \(\.txt\)\); give a folder"):
        datasets.load(config)


def test_grey_files_beside_colour_are_counted(config, tmp_path):
    (tmp_path / "set").mkdir()
    for i in range(6):
        Image.new("RGB" if i else "L", (16, 16), 40 * i).save(tmp_path / "set" / f"{i}.png")
    config.data.path, config.data.source = str(tmp_path / "set"), "folder"
    for _ in range(2):  # decoded, then from the cache
        (note,) = (note for note in datasets.load(config).notes if "grey" in note)
        assert note.startswith(
            "1 of the 6 images are grey files (for instance 0.png), and the others have colour"
        )
    config.data.channels = 1
    assert not [note for note in datasets.load(config).notes if "grey" in note]


def test_mixed_channels_can_be_refused(config, tmp_path):
    mvtec(tmp_path / "set")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "set/train/good/grey.png")
    config.data.mixed_channels = "stop"
    with pytest.raises(UserError, match=r"grey\.png is grey but"):
        datasets.load(config)


def test_protocols():
    samples = ["cat", "dog", "cat", "eel"]
    classes = ("cat", "dog", "eel")
    data = Config().data
    data.normal_class = "cat"
    assert protocol.labels(samples, classes, data).tolist() == [0, 1, 0, 1]
    data.normal_class = "1"
    assert protocol.labels(samples, classes, data).tolist() == [1, 0, 1, 1]
    data.protocol = "leave_one_out"
    assert protocol.labels(samples, classes, data).tolist() == [0, 1, 0, 0]
    data.normal_class = "dogg"
    with pytest.raises(UserError, match="did you mean 'dog'"):
        protocol.labels(samples, classes, data)


def test_hold_out_is_seeded_and_disjoint():
    data = Config().data
    train, held_out = protocol.hold_out(50, data, 3)
    assert sorted([*train, *held_out]) == list(range(50))
    assert len(held_out) == 5
    again = protocol.hold_out(50, data, 3)
    np.testing.assert_array_equal(held_out, again[1])
    assert held_out.tolist() != protocol.hold_out(50, data, 4)[1].tolist()
    with pytest.raises(UserError, match="at least 2"):
        protocol.hold_out(1, data, 0)


def test_what_was_held_out_before_is_held_out():
    data = Config().data
    data.protocol = "inspection"
    parts, labels = [TRAIN] * 20 + [HELD_OUT] * 6 + [TEST] * 4, np.zeros(30, int)
    labels[-2:], is_usable = 1, np.ones(30, bool)
    is_usable[[3, 22]] = False
    roles = protocol.assign(parts, labels, is_usable, data, 0)
    assert roles.train.tolist() == [i for i in range(20) if i != 3]
    assert roles.held_out.tolist() == [20, 21, 23, 24, 25]
    assert roles.test.tolist() == [26, 27, 28, 29]
    assert roles.normal.tolist() == [*roles.train, *roles.held_out]
    data.limit_train = 5
    assert len(protocol.assign(parts, labels, is_usable, data, 0).train) == 5


def test_a_share_is_tested_where_no_good_image_is_for_testing():
    data = Config().data
    data.protocol, data.test_fraction = "inspection", 0.25
    parts, labels = [TRAIN] * 20 + [TEST] * 4, np.repeat([0, 1], [20, 4])
    roles = protocol.assign(parts, labels, np.ones(24, bool), data, 7)
    good = roles.test[labels[roles.test] == 0]
    assert (len(good), len(roles.test)) == (5, 9)
    assert sorted([*roles.train, *roles.held_out, *good]) == list(range(20))
    assert roles.normal.tolist() == sorted([*roles.train, *roles.held_out])
    assert not np.array_equal(good, protocol.assign(parts, labels, np.ones(24, bool), data, 8).test[:5])
    # With a good test image, or without anomalous ones, all normal images train or are held out.
    labels[-1] = 0
    assert len(protocol.assign(parts, labels, np.ones(24, bool), data, 7).normal) == 20
    assert len(protocol.assign(parts[:20], labels[:20], np.ones(20, bool), data, 7).normal) == 20


def test_the_protocol_must_suit_the_source(config, tmp_path):
    mvtec(tmp_path / "set")
    config.data.protocol = "one_class"
    with pytest.raises(UserError, match=r"no classes.*'inspection'"):
        datasets.load(config)
    data = Config().data
    data.normal_class = "²"
    with pytest.raises(UserError, match="known: cat, eel"):
        protocol.check(("cat", "eel"), data)
    data.protocol = "inspection"
    with pytest.raises(UserError, match="set 'one_class'"):
        protocol.check(("cat", "eel"), data)


def test_limit_per_label():
    labels = np.array([0] * 10 + [1] * 3)
    kept = protocol.limit_per_label(labels, 4, 0)
    assert labels[kept].tolist() == [0] * 4 + [1] * 3
    assert len(protocol.limit_per_label(labels, 0, 0)) == 13


def test_a_folder_with_one_category_is_that_category(config, tmp_path):
    mvtec(tmp_path / "set/bottle")
    splits = datasets.load(config)
    assert (len(splits.train), len(splits.calibration), len(splits.test)) == (9, 1, 2)
    mvtec(tmp_path / "set/screw")
    with pytest.raises(UserError, match=r"several data sets: bottle \(12\), screw \(12\); give the folder"):
        datasets.load(config)


def test_hidden_files_are_passed_over(config, tmp_path):
    mvtec(tmp_path / "set")
    (tmp_path / "set/train/good/._0.png").write_text("left by macOS")
    paint(tmp_path / "set/test/.ipynb_checkpoints/a-checkpoint.png", 100)
    splits = datasets.load(config)
    assert len(splits.train) == 9
    assert splits.test.kinds == ["good", "scratch"]


def test_a_folder_that_cannot_be_listed_is_named(config, tmp_path, monkeypatch):
    mvtec(tmp_path / "set")
    scandir, closed = os.scandir, str(tmp_path / "set/train/good")

    def refuse(path):
        if str(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=f"{closed}: this folder cannot be listed \\(Permission denied"):
        datasets.load(config)


def test_a_new_mask_is_seen(config, tmp_path):
    mvtec(tmp_path / "set")
    mask = tmp_path / "set/ground_truth/scratch/b_mask.png"
    mask.rename(tmp_path / "kept.png")
    assert datasets.load(config).test.masks is None
    (tmp_path / "kept.png").rename(mask)
    assert datasets.load(config).test.masks.sum() == 18
    mask.parent.rename(tmp_path / "set/ground_truth/scratches")
    assert datasets.load(config).test.masks is None


def test_a_mask_of_another_size_is_refused(config, tmp_path):
    mvtec(tmp_path / "set")
    Image.new("L", (8, 16), 1).save(tmp_path / "set/ground_truth/scratch/b_mask.png")
    with pytest.raises(UserError, match="the mask has 16 x 8 pixels, but the image has 16 x 16"):
        datasets.load(config)


def test_other_sizes_are_refused_or_fitted(config, tmp_path):
    mvtec(tmp_path / "set")
    config.data.height = 8
    with pytest.raises(UserError, match=r"0\.png: the image has 16 x 16 pixels.*config.data.fit"):
        datasets.load(config)
    config.data.fit = "resize"
    splits = datasets.load(config)
    assert splits.test.images.shape == (2, 8, 16, 3)
    assert set(np.unique(splits.test.masks)) == {0, 1}
    assert splits.notes == [
        "Images of other sizes are brought to 8 x 16 pixels (config.data.fit = 'resize')."
    ]


def flat(value):
    return lambda: (Image.fromarray(np.full((16, 16, 3), value, np.uint8)), "")


def source(count=3):
    samples = [Sample(str(i), TRAIN, GOOD, flat(0)) for i in range(count)]
    return Source("made here", lambda: Listing(samples, []))


def test_another_fit_is_decoded_anew(config, tmp_path):
    path = tmp_path / "set"
    path.mkdir()
    pixels = np.arange(128, dtype=np.uint8).reshape(16, 8)
    for i in range(3):
        Image.fromarray(np.stack([pixels] * 3, -1)).save(path / f"{i}.png")
    images = []
    for config.data.fit in ("resize", "pad"):
        images.append(np.asarray(datasets.load(config).train.images[:]))
    assert not np.array_equal(*images)


@pytest.mark.parametrize("which", ["one_class", "leave_one_out"])
def test_only_normal_images_train(config, monkeypatch, which):
    """Of a source with classes, whose training part has all of them."""

    samples = [
        Sample(f"{part}/{kind}/{i}", part, kind, flat(int(kind)))
        for part, count in ((TRAIN, 4), (TEST, 2))
        for kind in DATA_SETS["mnist"].classes
        for i in range(count)
    ]
    digits = Source("digits", lambda: Listing(samples, []))
    monkeypatch.setattr(datasets, "open_tfds", lambda _: digits)
    config.data.source, config.data.name, config.data.protocol = "tfds", "mnist", which
    config.data.normal_class = "3"
    splits = datasets.load(config)
    normal = {"3"} if which == "one_class" else set(DATA_SETS["mnist"].classes) - {"3"}
    assert set(splits.train.kinds) == normal
    assert set(splits.calibration.kinds) <= normal
    assert set(splits.test.kinds) == set(DATA_SETS["mnist"].classes)
    np.testing.assert_array_equal(splits.test.labels == 0, [kind in normal for kind in splits.test.kinds])
    np.testing.assert_array_equal(splits.train.images[:][:, 0, 0, 0], [int(k) for k in splits.train.kinds])


def test_a_filled_cache_asks_the_source_for_nothing(config):
    cache.load_decoded(source(), config.data)

    def never():
        raise AssertionError("read again")

    again = cache.load_decoded(Source("made here", never), config.data)
    assert (again.parts, again.names, again.masks) == ([TRAIN] * 3, ["0", "1", "2"], None)


@pytest.mark.parametrize("damage", ["images.npy", "index.json"])
def test_a_damaged_cache_is_filled_again(config, tmp_path, damage):
    cache.load_decoded(source(), config.data)
    (entry,) = (tmp_path / "cache").iterdir()
    (entry / damage).write_bytes((entry / damage).read_bytes()[:90])
    assert cache.load_decoded(source(), config.data).images.shape == (3, 16, 16, 3)
    (entry / damage).write_bytes(b"")
    assert cache.load_decoded(source(), config.data).images.shape == (3, 16, 16, 3)
    (entry / damage).unlink()
    assert cache.load_decoded(source(), config.data).images.shape == (3, 16, 16, 3)
    assert list((tmp_path / "cache").iterdir()) == [entry]
    # As readable as any other folder that is made here: the cache may be shared.
    (tmp_path / "other").mkdir()
    assert entry.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_killed_processes_left_in_the_cache_is_removed(config, tmp_path):
    root = tmp_path / "cache"
    names = [".filling-left", ".filling-used", ".filling-new"]
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "images.npy").write_bytes(b"half")
        (root / name / cache.LOCK_FILE).touch()
    for name in names[:2]:
        os.utime(root / name / cache.LOCK_FILE, (0, 0))
    (root / ".filling-unlocked").mkdir()  # killed before it was locked
    os.utime(root / ".filling-unlocked", (0, 0))
    with exclusive(root / ".filling-used" / cache.LOCK_FILE, "") as is_locked:
        assert is_locked
        cache.load_decoded(source(), config.data)
    assert sorted(path.name for path in root.glob(".*")) == [".filling-new", ".filling-used"]


def test_two_may_fill_the_cache_at_once(config, tmp_path):
    both, results = threading.Barrier(2), []

    def fill():
        def read():
            both.wait(60)
            return source().read()

        results.append(cache.load_decoded(Source("made here", read), config.data))

    threads = [threading.Thread(target=fill) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(decoded.images) for decoded in results] == [3, 3]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_cannot_be_written(config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    config.data.cache_dir = str(tmp_path / "file")
    with pytest.raises(UserError, match=r"the image cache cannot be written.*cache_dir"):
        cache.load_decoded(source(), config.data)
    config.data.cache_dir = str(tmp_path / "cache")
    monkeypatch.delattr("os.posix_fallocate", raising=False)  # as where space cannot be taken in advance
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"needs 0 MB.*0 MB are free.*larger disk"):
        cache.load_decoded(source(), config.data)


def test_rows_are_read_when_asked_for():
    array = np.arange(24).reshape(6, 4)
    rows = Rows(array, np.array([1, 3, 5]))
    assert (len(rows), rows.shape) == (3, (3, 4))
    np.testing.assert_array_equal(rows[1], array[3])
    np.testing.assert_array_equal(rows[1:], array[[3, 5]])
    np.testing.assert_array_equal(rows[np.array([2, 0])], array[[5, 1]])
    np.testing.assert_array_equal(np.asarray(rows), array[[1, 3, 5]])


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
def test_the_listing_of_real_mnist(config):
    config.data.source, config.data.name = "tfds", "mnist"
    kinds = Counter((sample.part, sample.kind) for sample in open_tfds(config.data).read().samples)
    assert (kinds[TRAIN, "8"], kinds[TEST, "8"], sum(kinds.values())) == (5851, 974, 70_000)


@pytest.mark.slow
@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
def test_real_mnist(config):
    config.data.source, config.data.name = "tfds", "mnist"
    config.data.protocol, config.data.normal_class = "one_class", "8"
    config.data.channels, config.data.fit = 1, "pad"
    config.data.height = config.data.width = 32
    splits = datasets.load(config)
    assert len(splits.train) + len(splits.calibration) == 5851
    assert len(splits.test) == 10000
    assert (splits.test.labels == 0).sum() == 974


@pytest.mark.skipif("DAAD_MVTEC_DIR" not in os.environ, reason="DAAD_MVTEC_DIR is not set")
def test_real_mvtec(config, tmp_path):
    config.data.source, config.data.name, config.data.path = "tfds", "mvtec_ad/bottle", ""
    config.data.data_dir, config.data.fit = str(tmp_path), "resize"
    config.data.height = config.data.width = 64  # at 16 the smallest masks vanish
    splits = datasets.load(config)
    assert len(splits.train) + len(splits.calibration) == 209
    assert len(splits.test) == 83
    assert sum(mask.any() for mask in splits.test.masks) == 63
    assert splits.test.labels.sum() == 63


@pytest.mark.slow
def test_solar_cells(config, tmp_path):
    pytest.importorskip("elpv_dataset")
    config.data.source, config.data.name = "tfds", "solar_cells/mono"
    config.data.data_dir, config.data.fit, config.data.channels = str(tmp_path), "resize", 1
    splits = datasets.load(config)
    assert len(splits.train) + len(splits.calibration) == 588 - 118
    assert splits.test.labels.tolist().count(0) == 118
    assert set(splits.test.names).isdisjoint(splits.train.names + splits.calibration.names)
    assert set(splits.test.kinds) == {"good", "defective mono"}


def named(config, name, folder):
    config.data.source, config.data.name, config.data.data_dir = "tfds", name, str(folder)
    return config


def test_what_is_missing_to_prepare_a_set_is_said(config, tmp_path, monkeypatch):
    monkeypatch.delenv("DAAD_MVTEC_DIR", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    config.data.protocol, config.data.normal_class = "one_class", "8"
    with pytest.raises(UserError, match="pip install tensorflow"):
        datasets.load(named(config, "mnist", tmp_path))
    config.data.protocol = "inspection"
    with pytest.raises(UserError, match=r"pip install elpv-dataset.*CC BY-NC-SA"):
        datasets.load(named(config, "solar_cells/poly", tmp_path))
    config.data.path = ""
    with pytest.raises(UserError, match="DAAD_MVTEC_DIR"):
        datasets.load(named(config, "mvtec_ad/bottle", tmp_path))


def test_an_unknown_class_is_said_before_anything_is_downloaded(config, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "open_tfds", lambda _: pytest.fail("opened"))
    config.data.protocol, config.data.normal_class = "one_class", "automobil"
    with pytest.raises(UserError, match=r"'automobil': no such class; did you mean 'automobile'"):
        datasets.load(named(config, "cifar10", tmp_path))
    with pytest.raises(UserError, match="set 'inspection'"):
        datasets.load(named(config, "solar_cells/mono", tmp_path))


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
def test_classes_are_those_of_the_prepared_sets():
    import tensorflow_datasets as tfds

    for data_set in DATA_SETS.values():
        if data_set.classes:
            info = tfds.builder(data_set.name, data_dir=os.environ["TFDS_DATA_DIR"]).info
            assert tuple(info.features["label"].names) == data_set.classes


def test_a_category_is_prepared_once(config, tmp_path):
    mvtec(tmp_path / "original/tile")
    config.data.path = str(tmp_path / "original")
    first = datasets.load(named(config, "mvtec_ad/tile", tmp_path / "tfds"))
    assert sorted(first.test.names) == ["test/good/a.png", "test/scratch/b.png"]
    scratch = first.test.kinds.index("scratch")
    assert first.test.labels[scratch] == 1
    assert first.test.masks[scratch].sum() == 18
    config.data.path = ""  # prepared: the original is not needed any more
    config.data.channels = 1
    assert datasets.load(config).test.images.shape == (2, 16, 16, 1)


def test_two_may_prepare_a_category_at_once(config, tmp_path, monkeypatch):
    """Runs started side by side both find it unprepared; the slower one takes what the other made."""
    mvtec(tmp_path / "original/tile")
    config.data.path = str(tmp_path / "original")
    named(config, "mvtec_ad/tile", tmp_path / "tfds")
    make, shapes = tfds_builders.MvtecAd._split_generators, []

    def overtaken(self, dl_manager):
        monkeypatch.setattr(tfds_builders.MvtecAd, "_split_generators", make)
        shapes.append(datasets.load(config).test.images.shape)
        return make(self, dl_manager)

    monkeypatch.setattr(tfds_builders.MvtecAd, "_split_generators", overtaken)
    shapes.append(datasets.load(config).test.images.shape)
    assert shapes == [(2, 16, 16, 3)] * 2


def test_an_unreadable_original_is_named(config, tmp_path):
    mvtec(tmp_path / "original/tile")
    (tmp_path / "original/tile/train/good/0.png").write_text("no")
    config.data.path = str(tmp_path / "original")
    with pytest.raises(UserError, match=r"0\.png: the image cannot be read"):
        datasets.load(named(config, "mvtec_ad/tile", tmp_path / "tfds"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mnits", "did you mean 'mnist'"),
        ("mvtec_ad/botle", "did you mean 'mvtec_ad/bottle'"),
        ("solar_cells", "solar_cells/mono"),
    ],
)
def test_unknown_sets_name_the_nearest(config, name, says):
    config.data.source, config.data.name = "tfds", name
    with pytest.raises(UserError, match=says):
        datasets.load(config)

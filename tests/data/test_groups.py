"""Images that belong together all train, or are all held out."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from daad_jax.config import Config
from daad_jax.data import datasets, protocol
from daad_jax.data.groups import open_grouping
from daad_jax.errors import UserError

RNG = np.random.default_rng(0)
PARTS, SHOTS = 12, 3


@pytest.fixture
def config(tmp_path):
    config = Config()
    config.data.source, config.data.protocol = "folder", "inspection"
    config.data.path, config.data.cache_dir = str(tmp_path / "set"), str(tmp_path / "cache")
    config.data.height = config.data.width = 16
    config.data.calibration_fraction = 0.3
    config.data.normal = "*"  # the names of the folders do not say that all parts are good
    return config


def save(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8) if pixels is None else pixels
    Image.fromarray(pixels).save(path)


@pytest.fixture
def parts(tmp_path):
    """Twelve parts with three photos each; the photos of part 7 lie in `p7`."""
    for part in range(PARTS):
        for shot in range(SHOTS):
            save(tmp_path / f"set/p{part}/{shot}.png")
    return tmp_path / "set"


def sides(config):
    splits = datasets.load(config)
    return set(splits.train.names), set(splits.calibration.names), splits


def table(parts, text, name="table.csv"):
    (parts / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("group", ["folder", r"^p(\d+)/", "table.csv:part"])
def test_no_group_is_divided(config, parts, group):
    rows = [f"p{part}/{shot}.png,{part}" for part in range(PARTS) for shot in range(SHOTS)]
    table(parts, "\n".join(["file,part", *rows]))
    config.data.group = group
    for config.seed in range(5):
        train, held_out, splits = sides(config)
        assert len(train | held_out) == PARTS * SHOTS
        assert {n.split("/")[0] for n in train}.isdisjoint(n.split("/")[0] for n in held_out)
        assert len(held_out) == 12  # 30 % of 36 is 11, and groups are whole
        assert splits.calibration.group_count == 4
    assert any(
        "the 36 normal training images are in 12 groups of 3; 4 groups are held" in n for n in splits.notes
    )


def test_without_groups_the_split_is_the_plain_permutation():
    """The images that were held out by seed before there were groups, and by groups of one image."""
    data = Config().data
    for count, limit, fraction in ((50, 0, 0.1), (7, 0, 0.5), (200, 40, 0.1), (30, 1, 0.3), (2, 0, 0.1)):
        data.limit_train, data.calibration_fraction = limit, fraction
        for seed in range(20):
            order = np.random.default_rng([seed, 1]).permutation(count)
            order = order[: max(2, limit)] if limit else order
            held = min(len(order) - 1, max(1, round(len(order) * fraction)))
            for groups in (None, np.arange(count)):
                train, held_out = protocol.hold_out(count, data, seed, groups)
                np.testing.assert_array_equal(train, np.sort(order[held:]))
                np.testing.assert_array_equal(held_out, np.sort(order[:held]))


def test_any_groups_are_cut_by_the_rules():
    data = Config().data
    for seed in range(300):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 60))
        groups = np.unique(rng.integers(0, rng.integers(2, count + 1), count), return_inverse=True)[1]
        data.calibration_fraction, data.limit_train = float(rng.uniform(0.01, 0.5)), int(rng.integers(0, 40))
        if groups.max() == 0:
            continue
        train, held_out = protocol.hold_out(count, data, seed, groups)
        assert len(train)
        assert len(held_out)
        assert set(groups[train]).isdisjoint(groups[held_out])
        assert all(a < b for side in (train, held_out) for a, b in pairwise(side))
        if data.limit_train:
            assert len(train) + len(held_out) <= max(2, data.limit_train)
            continue
        assert len(train) + len(held_out) == count
        wanted = max(1, round(count * data.calibration_fraction))
        sizes = np.bincount(groups)[np.unique(groups[held_out])]
        # Without one of its groups, the held-out share would not be reached; or one group is left to train.
        assert len(held_out) >= min(wanted, count - 1) or len(np.unique(groups[train])) == 1
        assert len(held_out) - sizes.max() < wanted


def test_which_groups_are_held_out_does_not_depend_on_test_images():
    parts = ["train"] * 8 + ["test"] * 2
    labels, usable, data = np.zeros(10, np.int8), np.ones(10, bool), Config().data
    groups = np.array([3, 3, 1, 1, 0, 0, 2, 2, 9, 9])
    renumbered = np.array([0, 0, 4, 4, 8, 8, 9, 9, 1, 1])
    first, second = (protocol.assign(parts, labels, usable, data, 5, g) for g in (groups, renumbered))
    np.testing.assert_array_equal(first.held_out, second.held_out)


def test_one_group_cannot_be_divided(config, parts):
    config.data.group = r"(p)\d"
    with pytest.raises(
        UserError, match=r"'\(p\)\\\\d': all 36 normal training images are in one group; at least 2"
    ):
        datasets.load(config)


def test_images_without_a_group_are_said(config, parts):
    config.data.group = r"p(\d)/"  # p10 and p11 have two digits
    *_, splits = sides(config)
    assert any("are in 16 groups of 1 to 3" in note for note in splits.notes)
    (note,) = [note for note in splits.notes if "gives no group to" in note]
    assert "to 6 of these images, so each of them counts as a group of its own: p10/0.png, " in note
    assert note.endswith("and 3 more.")
    config.data.group = "(q)"
    with pytest.raises(
        UserError, match=r"gives a group to none of the 36 normal training images, such as p0/0"
    ):
        datasets.load(config)


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ("p(", r"not a regular expression \(missing \)"),
        ("p", "has 0 groups in parentheses, but must have one"),
        ("(p)(q)", "has 2 groups in parentheses"),
        ("table.csv", "names no column of the table; give FILE.csv:COLUMN"),
        ("none.csv:part", "this file does not exist; give its path relative to config.data.path"),
        ("table.csv:prat", "has no column 'prat'; did you mean 'part'"),
        (
            "names.csv:part",
            "has 0 columns for the images' paths, but must have one, called name, file or path",
        ),
        ("twice.csv:part", "has 2 columns for the images' paths"),
        ("same.csv:part", "has 2 columns 'part'"),
        ("divided.csv:part", "line 3 puts p0/0.png into group '2', an earlier line into '1'"),
        ("hole.csv:part", "line 2 has no group; complete or remove it"),
        ("short.csv:part", "line 3 has no group"),
        ("empty.csv:part", "has no column 'part'"),
        ("bare.csv:part", "has no rows below its header"),
        ("binary.csv:part", "binary.csv: "),
        ("quote.csv:part", "quote.csv: unexpected end of data"),
    ],
)
def test_bad_groups_are_refused_before_anything_is_decoded(config, parts, group, says, tmp_path):
    table(parts, "file,part\np0/0.png,1")
    table(parts, "image,part\np0/0.png,1", "names.csv")
    table(parts, "file,path,part\na,b,1", "twice.csv")
    table(parts, "file,part,part\na,b,1", "same.csv")
    table(parts, "file,part\np0/0.png,1\n./p0/0.png,2\n", "divided.csv")
    table(parts, "file,part\np0/0.png,\n", "hole.csv")
    table(parts, "file,part\np0/1.png,1\np0/0.png\n", "short.csv")
    table(parts, "", "empty.csv")
    table(parts, "file,part\n\n", "bare.csv")
    table(parts, 'file,part\n"p0/0.png,1\n', "quote.csv")
    (parts / "binary.csv").write_bytes(b"\xff\xfe\0f\0i")
    config.data.group = group
    with pytest.raises(UserError, match=says) as caught:
        datasets.load(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffName;Part\n.\\p0\\0.png;a\np0/1.png;a\np1/0.png;b\ngone.png;c\n",
        'part\tpath\tnote\na\tp0/0.png\t\n\na\tp0/1.png\t"x\ty"\nb\tp1/0.png\nc\tgone.png\n',
        "path,name_of_line,part,\r\np0/0.png,L,a,\r\np0/1.png,L,a,\r\np1/0.png,L,b,\r\ngone.png,L,c,\r\n",
    ],
)
def test_tables_as_spreadsheets_write_them(config, parts, text):
    table(parts, text)
    config.data.group = "table.csv:" + ("Part" if "Part" in text else "part")
    grouping = open_grouping(config.data)
    groups = grouping.group(["p0/0.png", "p1/0.png", "p0/1.png", "p3/0.png", "p4/0.png"])
    assert groups.numbers.tolist() == [0, 1, 0, 2, 3]
    assert groups.is_found.tolist() == [True, True, True, False, False]
    (note,) = groups.notes
    assert note.endswith("1 row names an image that is not in the data: gone.png.")


def test_a_table_groups_the_pages_of_a_file(config, parts):
    table(parts, "file,part\nscan.tif,1\nodd#1,2\n")
    config.data.group = "table.csv:part"
    groups = open_grouping(config.data).group(["scan.tif#0", "scan.tif#12", "odd#1", "odd#2"])
    assert groups.numbers.tolist() == [0, 0, 1, 2]
    assert not groups.notes


def test_other_groups_are_other_data(config, parts):
    """A table can change while the images stay, and other images are then held out."""
    digests = set()
    for text in ("file,part\np0/0.png,1\np0/1.png,1\n", "file,part\np0/0.png,1\np0/1.png,2\n"):
        table(parts, text)
        config.data.group = "table.csv:part"
        digests.add(datasets.load(config).normal_digest)
    config.data.group = ""
    digests.add(datasets.load(config).normal_digest)
    assert len(digests) == 3

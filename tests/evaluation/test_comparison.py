"""Runs beside each other: differences by plain counting and resampling, and a page that lets nothing in."""

import json
import re

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from daad_jax.buckets import open_place, read_bytes
from daad_jax.errors import UserError
from daad_jax.escaping import table_row
from daad_jax.evaluation import comparison_page
from daad_jax.evaluation.bootstrap import RESAMPLES, SEED, sample_aurocs
from daad_jax.evaluation.comparison import compare_runs, read_run
from daad_jax.evaluation.comparison_page import compare
from daad_jax.evaluation.outputs import SCORE_COLUMNS
from tests.emulator import BUCKET, needs_emulator, upload_folder

RNG = np.random.default_rng(0)
NORMAL, ANOMALOUS = 30, 20
LABELS = np.repeat([0, 1], [NORMAL, ANOMALOUS])
EVIL = "<script>alert(1)</script>.png"
EVIL_KIND = '"><img src=x onerror=alert(2)>'


def names():
    return [EVIL, "a\n\x1b[31m.png", *(f"{i:03d}.png" for i in range(2, len(LABELS)))]


def write_run(folder, scores, threshold=1.5, chosen=None, **figures):
    """The files that `evaluate` leaves."""
    folder.mkdir(parents=True)
    chosen = np.arange(len(LABELS)) if chosen is None else chosen
    rows = [table_row(SCORE_COLUMNS)]
    for i in chosen:
        kind = ("good", EVIL_KIND)[LABELS[i]]
        verdict = "anomalous" if scores[i] > threshold else "normal"
        row = [names()[i], int(LABELS[i]), kind, 1.0, 0.0, float(scores[i]), 0.5, verdict, "0123abcd"]
        rows.append(table_row(row))
    (folder / "scores.csv").write_text("".join(rows))
    about = {
        "step": 3,
        "threshold": threshold,
        "f1": 0.5,
        "calibration_label": {"id": "0123abcd", "created": ""},
    }
    (folder / "evaluation.json").write_text(json.dumps(about | figures))
    return folder


@pytest.fixture
def runs(tmp_path):
    scores = [1 + 0.3 * RNG.normal(size=len(LABELS)) + gap * LABELS for gap in (0.5, 1.2, 0.5)]
    folders = [write_run(tmp_path / f"run<{i}>", each, aupro=0.25 * i) for i, each in enumerate(scores)]
    return folders, scores


def test_differences_by_counting_and_resampling(runs):
    folders, scores = runs
    found = compare_runs([read_run(folder) for folder in folders])
    for i, auroc in enumerate(found.aurocs):
        assert auroc == pytest.approx(roc_auc_score(LABELS, scores[i]), abs=1e-6)
    right = [(each > 1.5) == (LABELS == 1) for each in scores]
    rng = np.random.default_rng(SEED)
    draws = [rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) for n in (NORMAL, ANOMALOUS)]
    repeats = np.concatenate(draws, axis=1)[:5]
    for i, difference in enumerate(found.differences, 1):
        assert difference.auroc == pytest.approx(found.aurocs[i] - found.aurocs[0])
        only = int((right[i] & ~right[0]).sum()), int((right[0] & ~right[i]).sum())
        assert (difference.only_this, difference.only_first) == only
        assert difference.p_value == pytest.approx(binomtest(only[0], sum(only)).pvalue)
        # The same images are drawn for both runs.
        for sample, counts in enumerate(repeats):
            pair = [roc_auc_score(np.repeat(LABELS, counts), np.repeat(scores[j], counts)) for j in (i, 0)]
            ours = [sample_aurocs(LABELS, scores[j])[sample] for j in (i, 0)]
            np.testing.assert_allclose(ours, pair)
    # The better run is better beyond chance, the equal one is not.
    assert found.differences[0].interval[0] > 0
    assert found.differences[1].interval[0] < 0 < found.differences[1].interval[1]


@needs_emulator
@pytest.mark.slow
@pytest.mark.usefixtures("emulator")
def test_runs_in_a_bucket_compare_alike(runs, tmp_path):
    folders, _ = runs
    places = [open_place(f"gs://{BUCKET}/compared/{number}") for number in range(len(folders))]
    for number, folder in enumerate(folders):
        upload_folder(folder, f"compared/{number}")
    page = compare(places, open_place(f"gs://{BUCKET}/compared/page.html"))
    expected = compare(folders, tmp_path / "page.html").read_text()
    for folder, place in zip(folders, places):
        expected = expected.replace(str(folder), str(place))
    assert len(read_bytes(page)) == pytest.approx(len(expected), rel=0.01)
    with pytest.raises(UserError, match=f"gs://{BUCKET}/none: this run is not evaluated"):
        compare([open_place(f"gs://{BUCKET}/none"), places[0]], tmp_path / "page.html")


def test_images_that_disagree_come_by_their_ranks(runs):
    folders, scores = runs
    found = compare_runs([read_run(folder) for folder in folders])
    flags = np.array([each > 1.5 for each in scores])
    expected = {i for i in range(len(LABELS)) if len(set(flags[:, i].tolist())) == 2}
    assert set(found.disagreed.tolist()) == expected
    ranks = [[sorted(each).index(value) for value in each] for each in scores]
    spreads = [max(r[i] for r in ranks) - min(r[i] for r in ranks) for i in found.disagreed]
    assert spreads == sorted(spreads, reverse=True)


def test_the_page_lets_nothing_in(runs, tmp_path, monkeypatch, capsys):
    folders, _ = runs
    pixels = {i: np.full((8, 8, 3), i, np.uint8) for i in range(len(LABELS))}
    monkeypatch.setattr(
        comparison_page, "_load_pictures", lambda run, indices: {i: pixels[i] for i in indices}
    )
    file = compare(folders, tmp_path / "pages" / "page.html")
    page = file.read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "run&lt;0&gt;" in page
    assert "\x1b" not in page
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "default-src 'none'; img-src data:" in page
    found = compare_runs([read_run(folder) for folder in folders])
    assert f"<b>{len(found.disagreed)} of {len(LABELS)}</b>" in page
    assert page.count("data:image/png;base64,") == len(found.disagreed)
    assert page.count('<tr><th scope="row">') == len(folders) + 1
    printed = capsys.readouterr().out
    assert f"The runs disagree on {len(found.disagreed)} images." in printed
    assert f"run 2 - run 1: AUROC {found.differences[0].auroc:+.4f} [" in printed


def test_only_common_images_count(tmp_path):
    scores = 1 + RNG.random(len(LABELS))
    first = write_run(tmp_path / "first", scores, chosen=np.arange(40))
    second = write_run(tmp_path / "second", scores, chosen=np.arange(49, 4, -1))
    found = compare_runs([read_run(first), read_run(second)])
    assert (len(found.runs[0].keys), found.left_out) == (35, 15)
    assert found.differences[0].auroc == 0
    assert len(found.disagreed) == 0
    assert "There are none" in compare([first, second], tmp_path / "page.html").read_text()


def test_mistakes_are_one_line(runs, tmp_path, capsys):
    (first, second, _), scores = runs
    other = write_run(tmp_path / "other", scores[0], chosen=np.arange(NORMAL))
    bare = tmp_path / "bare"
    bare.mkdir()
    for folders, says in (
        ([first], r"1 run\(s\) were named; give two to 8"),
        ([first] * 9, "9 run"),
        ([first, bare], r"this run is not evaluated \(evaluation.json is missing\); run evaluate --workdir"),
        ([first, other], "have no common test images of both kinds"),
    ):
        with pytest.raises(UserError, match=says):
            compare(folders, tmp_path / "page.html")
    for name, text in (
        ("scores.csv", "name,label\nx,1\n"), ("scores.csv", "\x00"), ("evaluation.json", "[]"),
        ("evaluation.json", '{"threshold": 1}'),
    ):  # fmt: skip
        before = (second / name).read_text()
        (second / name).write_text(text)
        with pytest.raises(UserError, match=r"damaged|no common"):
            compare([first, second], tmp_path / "page.html")
        (second / name).write_text(before)
    text = (second / "scores.csv").read_text()
    (second / "scores.csv").write_text(text.replace("003.png,0,", "003.png,1,"))
    with pytest.raises(UserError, match=r"003\.png: has the label 0 in .*, and 1 in "):
        compare([first, second], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_verdicts_of_an_older_calibration_are_said(tmp_path, monkeypatch, capsys):
    scores = 1 + RNG.random(len(LABELS))
    folders = [write_run(tmp_path / name, scores) for name in "ab"]
    (folders[1] / "config.json").write_text("{}")
    (folders[1] / "calibrations").mkdir()
    monkeypatch.setattr(comparison_page.calibration_files, "read_in_use", lambda folder: "ffffffff")
    compare(folders, tmp_path / "page.html")
    assert "was evaluated with calibration 0123abcd, and another one is in use" in capsys.readouterr().err

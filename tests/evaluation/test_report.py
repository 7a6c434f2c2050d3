"""The report: what it says, what it must not let in, and how a browser shows it."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from matplotlib.legend import Legend
from PIL import Image

from daad_jax import files
from daad_jax.config import Config
from daad_jax.data.samples import AccountRow, Split
from daad_jax.detection.detector import Detector
from daad_jax.evaluation import charts, report
from daad_jax.evaluation.bootstrap import auroc_interval
from daad_jax.evaluation.figures import evaluate_split
from daad_jax.evaluation.outputs import _summarise
from daad_jax.method import state
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.terminal import format_rate
from tests.tiny import filled_state, tiny_feature_config

RNG = np.random.default_rng(0)
EVIL = "<img src=x onerror=alert(1)>.png"
EVIL_KIND = '"><script>alert(2)</script>'
NORMAL, EACH = 12, 8


def pictures(count):
    return RNG.integers(90, 110, (count, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def evaluation():
    """An untrained model of 3 memories, and a test set with two kinds of defects, one with masks."""
    config = Config(name="<b>run</b> & co")
    config.data.height = config.data.width = 32
    config.model.base_width = config.model.discriminator_width = 4
    config.model.memory_items = (3, 5, 0, 7)
    config.score.batch_size = 8
    train_state = state.create_state(config)
    calibration = Scorer(config).calibrate(variables_of(train_state), pictures(12))
    detector = Detector(train_state, config, calibration)
    images = pictures(NORMAL + 2 * EACH)
    masks = np.zeros(images.shape[:3], np.uint8)
    masks[NORMAL : NORMAL + EACH, 8:20, 8:20] = 1
    images[masks > 0] = 255
    images[NORMAL + EACH :, :2, :2] = 130
    names = [EVIL, "a\udcff.png", *(f"test/{i:03d}.png" for i in range(2, len(images)))]
    kinds = ["good"] * NORMAL + ["blot"] * EACH + [EVIL_KIND] * EACH
    return evaluate_split(
        detector, Split(images, np.repeat([0, 1, 1], [NORMAL, EACH, EACH]), kinds, names, masks)
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a run's <i>"
    path.mkdir()
    lines = [
        {
            "step": s,
            "reconstruction": 0.5 / s,
            "images_per_s": 100.0,
            "memory2/items_in_use": 0.5,
            "loss": 1.0,
        }
        | {f"memory{i}/{k}": 0.25 for i in (1, 4) for k in ("items_in_use", "entropy", "top_weight")}
        for s in (10, 20, 300)
    ]
    damaged = ['{"step": 310, "reconstr', "[1]", "", '{"step": NaN}', "[" * 100_000]
    (path / "metrics.jsonl").write_text("\n".join([*map(json.dumps, lines), *damaged]))
    (path / "environment.json").write_text(json.dumps({"platform": "<u>machine</u>"}))
    return path


@pytest.fixture(scope="module")
def page(evaluation, workdir):
    return report.render(evaluation, workdir)


def text_of(page):
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_it_says_what_was_measured(evaluation, page):
    text, metrics = text_of(page), evaluation.image_metrics
    low, high = auroc_interval(evaluation.test.labels, evaluation.scores)
    assert (
        f"Image AUROC {metrics['auroc']:.4f} 95 % interval over test images: [{low:.4f}, {high:.4f}]" in text
    )
    assert f"Average precision {metrics['average_precision']:.4f}" in text
    assert f"Pixel AUROC {evaluation.pixel_metrics['pixel_auroc']:.4f}" in text
    assert f"Of {2 * EACH} anomalous test images, {metrics['found']} " in text
    assert re.search(rf"and {metrics['missed']} (was|were) missed\. Of {NORMAL} normal test images, ", text)
    assert f"{NORMAL} normal test images, {metrics['false_alarms']} raised a false alarm" in text
    # 12 held-out images can guarantee 1 / 13, and 5 % needs 19.
    assert "The threshold flags at most 7.69 % of normal images" in text
    assert "asks for at most 5 %, but this rate needs 19 held-out images." in text
    for memory in ("1 (bottleneck) 1/16 3 0.8 0.2500 0.2500", "2 1/8 5 2.5 – –", "4 1/2 7 1.8 0.2500 0.2500"):
        assert memory in text
    assert "up to step 300" in text
    assert "Images per second The last value is 100." in text
    assert '"base_width": 4' in page.replace("&#34;", '"')


def test_kinds_by_counting(evaluation, page):
    """Against a plain count, and AUROC as the share of pairs in the right order."""
    threshold, kinds = evaluation.detector.threshold, np.array(evaluation.test.kinds)
    normal = evaluation.scores[kinds == "good"]
    text = text_of(page)
    alarms = (normal > threshold).sum()
    assert f"good {NORMAL} – – {alarms} – {normal.mean():.2f}" in text
    hard = []
    for kind, shown in (("blot", "blot"), (EVIL_KIND, "&#34;&gt;&lt;script&gt;alert(2)&lt;/script&gt;")):
        scores = evaluation.scores[kinds == kind]
        flagged = (scores > threshold).sum()
        auroc = (scores[:, None] > normal).mean() + 0.5 * (scores[:, None] == normal).mean()
        low, high = auroc_interval(
            *(np.concatenate(v) for v in ((0 * normal, 1 + 0 * scores), (normal, scores)))
        )
        shown_auroc = f"{auroc:.4f} [{low:.4f}, {high:.4f}]"
        assert f"{shown} {EACH} {flagged} {EACH - flagged} – {shown_auroc} {scores.mean():.2f}" in text
        hard.append((auroc, kind))
    assert [k.name for k in evaluation.kinds] == ["good", *(kind for _, kind in sorted(hard))]


def test_the_gallery_begins_with_likely_mistakes(evaluation, page):
    cards = re.findall(r"score (-?[\d.]+), p-value", page)
    expected = []
    for kind in evaluation.kinds:
        scores = evaluation.scores[kind.indices]
        half = min(6, len(scores) // 2)
        low, high = scores[:half], scores[-half:][::-1]
        expected += [*low, *high] if kind.label else [*high, *low]
    assert cards == [f"{s:.2f}" for s in expected]
    sources = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    assert [name for _, name in sources].count("mask") == EACH
    for data, _ in sources:
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 32)


def test_nothing_from_data_is_markup(page):
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in page
    assert r"a\xff.png" in page
    for evil in ("<script", "<img src=x", "<b>run", "<u>machine", "<i>", "http://", "https://", "//"):
        assert evil not in re.sub(r"base64,[^\"]+", "", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert re.findall(r'(?:href="|url\()#([^")]+)', page) != []
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_the_account_is_shown_and_escaped(evaluation, workdir, page):
    assert 'id="data"' not in page
    rows = [
        AccountRow("test, anomalous", EVIL_KIND, 12, 13, 9, 8, {"unreadable": 5}),
        AccountRow("left out", "a\udcff", 4, 0, 0, 0, {"hidden": 4}),
    ]
    text = text_of(report.render(evaluation, workdir, account_rows=rows))
    assert "Role Folder Files Images Masks Used Left out" in text
    assert "test, anomalous &#34;&gt;&lt;script&gt;alert(2)&lt;/script&gt; 12 13 9 8 5 unreadable" in text
    assert r"left out a\xff 4 - - 0 4 hidden" in text


@pytest.mark.parametrize("threshold", [0.5, 9.0])
def test_curves_where_nothing_may_be_flagged(threshold):
    """Matplotlib warns of a legend without an entry, and a warning is an error here."""
    scores, labels = np.array([0.1, 0.4, 0.6, 0.8]), np.array([0, 0, 1, 1])
    figure = charts.draw_precision_recall(scores, labels, threshold)
    shown = [text.get_text() for legend in figure.axes[0].get_children() if isinstance(legend, Legend)
             for text in legend.get_texts()]  # fmt: skip
    assert shown == (["at the threshold"] if threshold < 1 else [])


def test_a_run_on_features_shows_no_reconstruction(tmp_path):
    config = tiny_feature_config(score__batch_size=1)
    train_state = filled_state(config)
    images = RNG.integers(0, 256, (8, 64, 64, 3), np.uint8)
    detector = Detector(train_state, config, Scorer(config).calibrate(variables_of(train_state), images))
    names = [f"{i}.png" for i in range(8)]
    split = Split(images, np.repeat([0, 1], 4), ["good"] * 4 + ["blot"] * 4, names, None)
    evaluation = evaluate_split(detector, split)
    page = report.render(evaluation, tmp_path)
    shown = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)"', page)
    assert set(shown) == {"input", "heat map"}
    assert len(shown) == 2 * 8
    rows = [
        axis.get_ylabel() for axis in charts.draw_gallery(split, detector.score(images), np.arange(2)).axes
    ]
    assert rows == ["input", "", "heat map", ""]


def test_a_run_without_log_or_masks(evaluation, tmp_path):
    test = dataclasses.replace(evaluation.test, masks=None)
    page = report.render(dataclasses.replace(evaluation, test=test, pixel_metrics=None), tmp_path)
    assert "There are no pixel figures, because no anomalous test image has a mask." in page
    assert "AUPRO" not in page
    assert 'id="memory"' not in page
    assert 'id="training"' not in page


def test_a_part_of_the_masks_and_a_perfect_figure_are_said(evaluation, page):
    assert evaluation.marked == EACH
    says = f"The pixel figures are of the normal images and of {EACH} of the {2 * EACH} anomalous images"
    assert says in text_of(page)
    lines = "\n".join(_summarise(evaluation))
    assert says in lines
    assert "has no width" not in lines
    image_metrics = evaluation.image_metrics | {"auroc": 1.0}
    lines = "\n".join(
        _summarise(dataclasses.replace(evaluation, marked=2 * EACH, image_metrics=image_metrics))
    )
    assert "The pixel figures are" not in lines
    assert "The interval of an AUROC of 1 has no width" in lines


@pytest.mark.parametrize(("rate", "text"), [(1234.4, "1234"), (10, "10"), (4.44, "4.4"), (0.246, "0.25")])
def test_slow_rates_are_not_nothing(rate, text):
    assert format_rate(rate) == text


@pytest.mark.parametrize(("alarms", "says"), [(2, False), (12, True)])
def test_more_false_alarms_than_promised(evaluation, workdir, alarms, says):
    """At 1 of 13: two among twelve is chance, all twelve is not."""
    metrics = evaluation.image_metrics | {"false_alarms": alarms, "true_normal": NORMAL - alarms}
    page = report.render(dataclasses.replace(evaluation, image_metrics=metrics), workdir)
    assert ("There are more false alarms than chance explains." in page) == says


def test_a_gallery_of_names_that_are_no_text(evaluation, tmp_path):
    split = evaluation.test.take(evaluation.gallery_indices[:2])
    split.kinds[:] = ["a\udcff\x1b[31m\r", "$x_"]
    charts.save_png(
        charts.draw_gallery(split, evaluation.gallery_detections, np.arange(2)), tmp_path / "gallery.png"
    )
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.width > 100


def test_many_kinds_are_bounded(evaluation):
    count = 41
    kinds = ["good"] + [f"kind {i:02d}" for i in range(count - 1)]
    images = pictures(2 * count)
    labels = np.repeat([0, *[1] * (count - 1)], 2)
    many = evaluate_split(
        evaluation.detector, Split(images, labels, list(np.repeat(kinds, 2)), ["x"] * len(labels))
    )
    page = report.render(many, files.Path("none"))
    assert len(many.gallery_indices) == 60
    assert f"The gallery leaves out {count - 30} kinds; the table above lists all kinds." in text_of(page)
    assert all(kind in page for kind in kinds)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_in_chromium(browser, page, tmp_path, width, scheme):
    path = tmp_path / "report.html"
    files.write_text(path, page)
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert tab.locator("svg").count() == 5
    assert tab.get_by_text(EVIL).count() == 1
    colours = tab.evaluate(
        "[document.body, document.querySelector('svg text')].map(e => getComputedStyle(e))"
        ".map((s, i) => i ? s.fill : s.backgroundColor).map(c => Number(c.match(/\\d+/)[0]))"
    )
    background, letters = colours
    assert (background > 200 > 60 > letters) if scheme == "light" else (background < 60 < 200 < letters)
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert said == []
    tab.close()

"""The page as a person uses it, in headless Chromium: by keys, on a phone, in the dark, with many images."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")
from daad_jax.reviewing.routes import make_app  # noqa: E402
from daad_jax.serving.server import listen  # noqa: E402
from daad_jax.training import calibrations  # noqa: E402
from tests.reviewing.small_review import (  # noqa: E402
    COOKIE,
    TOKEN,
    draw,
    draw_folder,
    make_reviewed_run,
    open_large_review,
    open_review,
)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("chromium")
        patch.setenv("DAAD_CACHE_DIR", str(folder / "cache"))
        make_reviewed_run(folder)
        draw_folder(folder / "parts")
        yield folder


class Tab:
    """A tab of the browser that notes what it asks for, and what goes wrong in it."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.asked, self.errors = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def open(self, address):
        self.page.goto(address)
        self.page.wait_for_selector(".tile img[src]")
        self.page.wait_for_selector("#progress-row", state="hidden")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def save(self, key):
        """Presses a key that the server must confirm."""
        with self.page.expect_response(lambda answer: "/api/" in answer.url and answer.status == 200):
            self.press(key)
        self.until("!document.body.classList.contains('saving')")

    def until(self, expression):
        """Waits until a JavaScript expression is true. The page forbids Playwright's own way, an eval."""
        end = time.monotonic() + 30
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(20)

    def text(self, selector):
        return self.page.locator(selector).inner_text()

    def numbers(self, selector):
        return [int(number) for number in re.findall(r"\d+", self.text(selector))]


class Child:
    """`daad-jax review` in a process of its own."""

    def __init__(self, workdir, folder):
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device
        self.process = subprocess.Popen(
            [sys.executable, "-m", "daad_jax", "review", f"--workdir={workdir}", str(folder)],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout
        line = ""
        while not line.startswith("review at "):
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
        self.address = line.split()[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def rows(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def test_the_whole_way_by_keyboard_with_a_kill_between_two_marks(browser, root):
    workdir, labels = root / "bolts", root / "bolts" / "review" / "parts" / "labels.csv"
    with Child(workdir, root / "parts") as child, Tab(browser) as tab:
        tab.open(child.address)
        assert "token" not in tab.page.url
        assert tab.page.evaluate("document.activeElement.id") == "grid"
        # Only the damaged image has no score.
        assert tab.numbers("#flagged")[1] == 48
        # The first image: its heat map, its reconstruction, zoom.
        tab.press("Enter")
        tab.page.wait_for_selector("#heat:not([hidden])")
        assert tab.page.evaluate("document.getElementById('whole').naturalWidth") == 24
        tab.press("h")
        tab.page.wait_for_selector("#heat", state="hidden")
        wide = tab.page.evaluate("document.getElementById('layers').offsetWidth")
        tab.press("+", "+")
        assert tab.page.evaluate("document.getElementById('layers').offsetWidth") > 2 * wide
        tab.press("0", "r")
        tab.until("document.getElementById('whole').src.includes('/reconstruction/')")
        tab.press("r", "h")
        # Two marks, each on the disk before the next image is shown.
        for mark in ("g", "d"):
            shown = tab.text("#viewer-name")
            tab.save(mark)
            assert rows(labels)[-1]["name"] == shown
            assert tab.text("#viewer-name") != shown
        assert [row["mark"] for row in rows(labels)] == ["good", "defect"]
        # A kill. The next mark is refused, the image stays, and nothing is lost.
        shown = tab.text("#viewer-name")
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()
        saved = labels.read_bytes()
        tab.press("u")
        tab.page.wait_for_selector("#message.warning")
        assert "does not answer" in tab.text("#message")
        assert tab.text("#viewer-name") == shown
        assert labels.read_bytes() == saved
        port = child.address.split(":")[2].split("/")[0]
        assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in tab.asked)
        assert [e for e in tab.errors if "net::ERR_" not in e] == []
    with Child(workdir, root / "parts") as child, Tab(browser) as tab:
        tab.open(child.address)
        assert "2 of 49 marked" in tab.text("#summary")
        tab.save("z")
        assert rows(labels)[-1]["action"] == "undo"
        assert "1 of 49 marked" in tab.text("#summary")
        # The slider: counts follow, and more is promised by a higher threshold.
        flagged, promise = tab.numbers("#flagged")[0], tab.text("#promise")
        tab.press("t", *["ArrowLeft"] * 200)
        lower = tab.numbers("#flagged")[0]
        assert lower > flagged
        assert tab.text("#promise") != promise
        false_alarms, _ = tab.numbers("#false")
        missed, of_defects = tab.numbers("#missed")
        assert lower == false_alarms + of_defects - missed
        # In a list, letters choose; they mark nothing.
        tab.page.focus("#marked")
        tab.press("g", "d", "u")
        assert "1 of 49 marked" in tab.text("#summary")
        tab.page.select_option("#marked", "any")
        # Filters.
        tab.page.select_option("#show", "flagged")
        assert tab.numbers("#shown")[0] == lower
        tab.page.select_option("#show", "unreadable")
        assert tab.numbers("#shown")[0] == 1
        tab.page.select_option("#show", "all")
        tab.press("Escape", "/")
        tab.page.keyboard.type("good/01")
        assert tab.numbers("#shown")[0] == 10
        tab.page.fill("#search", "good/")
        tab.page.select_option("#order", "random")
        tab.page.focus("#grid")
        # Marks from the grid, then a calibration.
        for _ in range(24):
            tab.save("g")
        before = calibrations.load(workdir).label.id
        tab.page.locator("#open-calibrate").press("Enter")
        with tab.page.expect_response("**/api/recalibrate"):
            tab.page.locator("#calibrate-start").press("Enter")
        tab.page.wait_for_selector("#calibrate-back:not([hidden])")
        now = calibrations.load(workdir).label
        assert now.id != before
        assert now.images >= 24
        assert f"Calibration {now.id}" in tab.text("#calibrate-result")
        with tab.page.expect_response("**/api/use"):
            tab.page.locator("#calibrate-back").press("Enter")
        tab.until("!document.body.classList.contains('saving')")
        assert calibrations.load(workdir).label.id == before
        tab.press("Escape")
        with tab.page.expect_download() as download:
            tab.page.locator("#export").press("Enter")
        table = rows(Path(download.value.path()))
        assert len(table) == 49
        assert sum(row["mark"] == "good" for row in table) >= 24
        assert tab.errors == []
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(30) == 143
        assert [line for line in child.process.stderr.read().splitlines() if "torn.png" not in line] == [
            "python -m daad_jax review: stopped by SIGTERM"
        ]


class InThread:
    """A review that this process serves."""

    def __init__(self, review):
        app = make_app(review, TOKEN, COOKIE, 2)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        self.listener = listen("127.0.0.1", 0)
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.listener]))

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/?token={TOKEN}"

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()


def test_two_windows_see_each_other(browser, root, tmp_path):
    shutil.copytree(root / "bolts", tmp_path / "bolts")
    review = open_review(tmp_path / "bolts", root / "parts", tmp_path / "out")
    labels = tmp_path / "out" / "labels.csv"
    with InThread(review) as address, Tab(browser) as one, Tab(browser) as two:
        for tab in (one, two):
            tab.open(address)
            tab.page.select_option("#order", "name")
            tab.page.focus("#grid")
            tab.press("Home")
        first = one.page.locator(".tile[aria-selected=true]").get_attribute("title")
        # A mark of one window comes into the other.
        one.save("g")
        two.until("document.getElementById('summary').textContent.includes('1 of 49 marked')")
        assert "marked good" in two.page.locator(f".tile[title='{first}']").get_attribute("aria-label")
        # Before it comes, it is not overwritten unseen.
        two.page.route("**/api/progress*", lambda route: None)
        two.page.wait_for_timeout(50)
        two.press("ArrowRight")
        second = two.page.locator(".tile[aria-selected=true]").get_attribute("title")
        assert second == one.page.locator(".tile[aria-selected=true]").get_attribute("title")
        one.save("d")
        two.page.unroute("**/api/progress*")
        two.press("g")
        two.until("document.getElementById('message').textContent.includes('this image was marked defect')")
        two.until("!document.body.classList.contains('saving')")
        assert "marked defect" in two.page.locator(f".tile[title='{second}']").get_attribute("aria-label")
        assert [row["mark"] for row in rows(labels)] == ["good", "defect"]
        two.save("g")
        assert [row["mark"] for row in rows(labels)] == ["good", "defect", "good"]
        # A calibration of one window comes into the other.
        for _ in range(20):
            one.save("g")
        one.page.locator("#open-calibrate").press("Enter")
        one.page.locator("#calibrate-start").press("Enter")
        one.page.wait_for_selector("#calibrate-back:not([hidden])")
        now = calibrations.load(tmp_path / "bolts").label.id
        two.until(f"document.getElementById('summary').textContent.includes('{now}')")
        assert [e for tab in (one, two) for e in tab.errors if "409" not in e] == []


def test_a_key_marks_no_image_that_has_just_come(browser, root, tmp_path):
    review, may_go_on = open_review(root / "bolts", root / "parts", tmp_path / "out"), threading.Event()
    report, reported = review._scoring._report, []

    def report_slowly(outcomes):
        if reported:
            assert may_go_on.wait(60)
        reported.append(outcomes)
        report(outcomes)

    review._scoring._report = report_slowly
    selected = "[...document.querySelectorAll('.tile:not([hidden])')].find(t => t.ariaSelected === 'true')"
    with InThread(review) as address, Tab(browser) as tab:
        tab.page.goto(address)
        tab.page.wait_for_selector(".tile img[src]")
        tab.page.select_option("#order", "low")  # the good images come later
        tab.page.focus("#grid")
        before = tab.page.evaluate(f"{selected}.title")
        may_go_on.set()
        # The key comes when another image has just taken the place of the one that the user looks at.
        tab.page.evaluate(f"""async (before) => {{
            while ({selected}.title === before) await new Promise((done) => setTimeout(done, 5));
            grid.dispatchEvent(new KeyboardEvent("keydown", {{ key: "g", bubbles: true }}));
        }}""", before)  # fmt: skip
        tab.until("document.getElementById('message').textContent.includes('press the key again')")
        assert not (tmp_path / "out" / "labels.csv").exists()
        now = tab.page.evaluate(f"{selected}.title")
        assert now != before
        tab.save("g")
        assert [row["name"] for row in rows(tmp_path / "out" / "labels.csv")] == [now]
        assert tab.errors == []


def test_a_calibration_of_the_command_comes_into_the_page(browser, root, tmp_path):
    workdir = shutil.copytree(root / "bolts", tmp_path / "bolts")
    good = draw(tmp_path / "good", 30, 7)
    with Child(workdir, root / "parts") as child, Tab(browser) as tab:
        tab.open(child.address)
        tab.page.select_option("#show", "flagged")
        tab.page.focus("#grid")
        tab.press("ArrowRight")
        tab.save("g")
        shown = tab.page.locator(".tile[aria-selected=true]").get_attribute("title")
        tab.press("Enter")
        tab.page.wait_for_selector("#heat:not([hidden])")
        heat = tab.page.locator("#heat").get_attribute("src")
        # A lower threshold, by the command, while the image is open.
        done = subprocess.run(
            [sys.executable, "-m", "daad_jax", "calibrate", f"--workdir={workdir}", str(good), "--rate=0.5"],
            cwd=ROOT, env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        now = calibrations.load(workdir)
        tab.until(
            f"document.getElementById('notice-text').textContent.includes('Calibration {now.label.id}')"
        )
        assert f"Calibration {now.label.id}" in tab.text("#message")
        assert float(tab.page.locator("#threshold").input_value()) == pytest.approx(
            now.calibration.threshold, rel=1e-3
        )
        # The same image stays open, with its new heat map, and a mark is for this image.
        assert tab.text("#viewer-name") == shown
        tab.until(f"document.getElementById('heat').src.endsWith('-{now.label.id}')")
        assert not heat.endswith(now.label.id)
        tab.save("d")
        labels = rows(workdir / "review" / "parts" / "labels.csv")
        assert [row["mark"] for row in labels] == ["good", "defect"]
        assert (labels[1]["name"], labels[1]["calibration"]) == (shown, now.label.id)
        # The page lists the verdicts that have changed, and exports what it shows.
        tab.press("Escape")
        (changed,) = re.findall(r"(\d+) verdict", tab.text("#notice-text"))
        tab.page.select_option("#show", "changed")
        assert tab.numbers("#shown")[0] == int(changed) > 0
        with tab.page.expect_download() as download:
            tab.page.locator("#export").press("Enter")
        table = rows(Path(download.value.path()))
        assert {row["calibration"] for row in table} == {now.label.id}
        assert sum(row["verdict"] == "anomalous" for row in table) == tab.numbers("#flagged")[0]
        tab.page.locator("#notice-close").press("Enter")
        tab.page.wait_for_selector("#notice", state="hidden")
        assert tab.errors == []


@pytest.fixture(scope="module")
def large(root):
    review, _ = open_large_review(root / "bolts", root / "large", 50_000, with_thumbnails=True)
    with InThread(review) as address:
        yield address


def test_fifty_thousand_images_scroll(browser, large):
    with Tab(browser) as tab:
        tab.open(large)
        assert tab.numbers("#shown") == [50_000, 50_000]

        def loaded():
            tab.until(
                "[...document.querySelectorAll('.tile:not([hidden]) img')].every(i => i.naturalWidth > 0)"
            )
            return tab.page.locator(".tile:not([hidden])").count()

        assert 10 < loaded() < 200
        for share in (0.5, 0.999, 0.1):
            tab.page.evaluate(f"grid.scrollTop = {share} * grid.scrollHeight")
            tab.page.wait_for_timeout(100)
            assert 10 < loaded() < 200
        tab.page.select_option("#order", "name")
        tab.page.focus("#grid")
        tab.press("End")
        selected = tab.page.locator("[aria-selected=true]")
        assert selected.get_attribute("aria-label").startswith("part-049999.png")
        tab.press("Home", "ArrowDown", "ArrowRight")
        lefts = (
            "[...document.querySelectorAll('.tile:not([hidden])')].map(t => t.getBoundingClientRect().left)"
        )
        columns = tab.page.evaluate(f"new Set({lefts}).size")
        assert int(selected.get_attribute("aria-posinset")) == columns + 2
        assert tab.page.locator(".tile").count() < 200
        assert tab.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_and_in_the_dark(browser, large, scheme):
    with Tab(browser, color_scheme=scheme, **PHONE) as tab:
        tab.open(large)
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page, text = tab.page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            ".map(c => Number(c.match(/\\d+/)[0]))"
        )
        assert (page > 200 > 60 > text) if scheme == "light" else (page < 60 < 200 < text)
        tab.page.locator("#threshold-panel summary").tap()
        tab.page.wait_for_selector("#slider")
        tab.page.locator("#threshold-panel summary").tap()
        tab.page.locator(".tile").nth(3).tap()
        tab.page.wait_for_selector("#viewer[open]")
        rows_of_tools = {
            b.bounding_box()["y"] for b in tab.page.locator(".viewer-tools button:visible").all()
        }
        assert len(rows_of_tools) == 1
        for button in tab.page.locator("#viewer button:visible").all():
            box = button.bounding_box()
            assert box["height"] >= 34
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
            assert box["y"] + box["height"] <= 844

"""The built site loads nothing from other machines, has every public name, and its search needs no server."""

import re
import shutil
import subprocess
import sys

import pytest

import daad_jax
from tests.documentation import pages

pytestmark = pytest.mark.slow
SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    pytest.importorskip("zensical", reason="pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(pages.DOCS, folder / "docs")
    shutil.copy(pages.ROOT / "zensical.toml", folder)
    (folder / "daad_jax").symlink_to(pages.ROOT / "daad_jax")
    subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=folder, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    return folder / "site"


def test_every_page_is_built(site):
    built = {page.relative_to(site).with_suffix(".md").as_posix() for page in site.rglob("*.html")}
    assert built - {"404.md"} == {page.name for page in pages.DOCS.glob("*.md")}


def test_the_reference_has_every_public_name(site):
    text = (site / "reference.html").read_text(encoding="utf-8")
    assert {f"daad_jax.{name}" for name in daad_jax.__all__} <= set(re.findall(r'id="([\w.]+)"', text))


def test_no_page_names_a_file_of_another_site(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loads = re.findall(r'<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)="?([^" >]+)', text)
        assert [url for url in loads if re.match(r"(https?:)?//", url)] == [], page.name


@pytest.mark.parametrize("screen", SCREENS)
def test_a_reader_finds_a_setting_without_a_network(site, browser, screen):
    """In a browser that opens the files: a search finds a setting, and its page opens."""
    width, height = SCREENS[screen]
    page = browser.new_page(viewport={"width": width, "height": height})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((site / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.locator("label[for=__search], .md-search__button").locator("visible=true").first.click()
    page.keyboard.type("false_alarm_rate")
    hit = page.locator("a", has_text=re.compile("false_alarm_rate")).first
    hit.wait_for(timeout=20_000)
    hit.click()
    page.wait_for_url(re.compile("configuration|scoring|threshold|commands"), timeout=20_000)
    assert "false_alarm_rate" in page.content()
    page.close()
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []

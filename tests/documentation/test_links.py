"""Links lead to what exists, names in the text are names of the code, and every page is found."""

import re

import pytest

from daad_jax import config as config_lib
from tests.documentation import pages

PART = r"(?:data|model|loss|train|score)"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in pages.links(page):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in pages.anchors(target), link
        assert pages.DOCS not in page.parents or target.resolve().is_relative_to(pages.DOCS), (
            f"{link}: leads out of docs/, which the site does not have"
        )


def test_the_navigation_names_every_page_once():
    named = list(pages.navigation())
    assert len(named) == len(set(named))
    assert set(named) == {page.name for page in pages.DOCS.glob("*.md")}


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_files_and_keys_that_a_page_names_exist(page):
    keys = set(config_lib.all_keys())
    sections = {key.rpartition(".")[0] for key in keys} | {""}
    for code in pages.inline_code(page):
        if re.fullmatch(r"(daad_jax|tests|configs|examples|benchmarks|reproduction|findings)/[\w/.]+", code):
            assert (pages.ROOT / code).exists(), code
        for key in re.findall(rf"\bconfig\.({PART}(?:\.[a-z]\w*)?)", code):
            assert key in keys | sections, code
        if re.fullmatch(rf"{PART}\.(?!json|py|stablehlo|onnx)[a-z_0-9]+", code):
            assert code in keys, code

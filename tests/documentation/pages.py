"""The pages of the documentation, as the tests read them: their code, links, headings and sentences."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.glob("*.md")),
]
GENERATED = ("results.md", "performance.md", "commands.md")
SITE = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
_MARKDOWN = MarkdownIt("commonmark").enable("table")


def tokens(page: Path) -> list[Token]:
    """All tokens of a page, also those inside of lines."""
    flat: list[Token] = []
    for token in _MARKDOWN.parse(page.read_text(encoding="utf-8")):
        flat += [token, *(token.children or [])]
    return flat


def code_blocks(page: Path) -> list[str]:
    return [token.content for token in tokens(page) if token.type in ("fence", "code_block")]


def inline_code(page: Path) -> list[str]:
    return [token.content for token in tokens(page) if token.type == "code_inline"]


def links(page: Path) -> Iterator[str]:
    """The targets of links and pictures that are not on other sites."""
    for token in tokens(page):
        target = token.attrs.get("href" if token.type == "link_open" else "src")
        if token.type in ("link_open", "image") and not re.match(r"https?:|mailto:", str(target)):
            yield str(target)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site and GitHub make them."""
    found, flat = set(), tokens(page)
    for heading, inside in pairwise(flat):
        if heading.type == "heading_open":
            text = "".join(child.content for child in inside.children or [])
            found.add(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()))
    return found


def navigation(entries: list | None = None) -> Iterator[str]:
    """The pages that the site's navigation names."""
    for entry in SITE["nav"] if entries is None else entries:
        for value in [entry] if isinstance(entry, str) else entry.values():
            if isinstance(value, str):
                yield value
            else:
                yield from navigation(value)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of a shell on the page, in blocks and in lines."""
    for block in code_blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(daad-jax|python|pip|make|curl|gcloud|sha256sum) ", line):
                yield shlex.split(line, comments=True)
    for text in inline_code(page):
        if re.match(r"(daad-jax|python|pip|make) [\w\-/.]", text):
            yield shlex.split(text.replace("\n", " "), comments=True)

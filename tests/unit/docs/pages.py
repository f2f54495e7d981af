"""The documents, and what the tests read out of them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "guide"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def blocks(page, language):
    """Return the fenced blocks of a language."""
    return [text for found, text in _FENCE.findall(page.read_text()) if found == language]


def prose(page):
    """Return the page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def words(page):
    """Return what stands between backticks in the prose."""
    return _CODE.findall(prose(page))


def rows(page):
    """Return the cells of every line of every table."""
    lines = (line for line in prose(page).splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def links(page):
    """Return the targets of the links."""
    return _LINK.findall(prose(page))


def anchors(page):
    """Return the anchors of the headings, as hosting sites make them."""
    headings = (heading.lower() for heading in _HEADING.findall(prose(page)))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def typed(page):
    """Return what is typed at the prompts of the page's console blocks, continued lines joined."""
    text = "\n".join(blocks(page, "console")).replace("\\\n", " ")
    return [line[2:] for line in text.splitlines() if line.startswith("$ ")]

"""The tutorial: its code prints what it says, in both languages the same, and its pictures can be drawn."""

from __future__ import annotations

import io
import re
import runpy
import tokenize
from pathlib import Path

import pytest
from code_blocks import Block, python_blocks, run

DOCS = Path(__file__).resolve().parents[2] / "docs"
ENGLISH, CHINESE = DOCS / "tutorial.md", DOCS / "tutorial.zh.md"
PICTURES = ("tutorial_filters.png", "tutorial_features.png", "tutorial_digits.png")

PERCENTAGE = r"(\d+)%"
# By which instruction sets may differ in how many test digits are recognised: hundreds of steps amplify how
# the last bits are rounded.
MOST_POINTS = 2


def assert_printed(block: Block, printed: str) -> None:
    assert re.sub(PERCENTAGE, "%", printed) == re.sub(PERCENTAGE, "%", block.output)
    for got, said in zip(*(re.findall(PERCENTAGE, text) for text in (printed, block.output)), strict=True):
        assert abs(int(got) - int(said)) <= MOST_POINTS, printed


@pytest.mark.parametrize("document", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_code_runs_and_prints_what_the_text_shows(document: Path, tmp_path: Path) -> None:
    names: dict[str, object] = {}
    for block in python_blocks(document):
        assert_printed(block, run(block, names))
    runpy.run_path(str(DOCS / "draw_tutorial.py"))["draw"](names, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PICTURES)


def without_comments(code: str) -> list[tuple[int, str]]:
    left_out = (tokenize.COMMENT, tokenize.NL)
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return [(token.type, token.string) for token in tokens if token.type not in left_out]


def test_both_languages_have_the_same_code() -> None:
    english, chinese = python_blocks(ENGLISH), python_blocks(CHINESE)
    assert len(english) > 10
    assert [block.output for block in chinese] == [block.output for block in english]
    assert [without_comments(block.code) for block in chinese] == [
        without_comments(block.code) for block in english
    ]


def test_both_languages_have_the_same_sections_pictures_and_links() -> None:
    def outline(document: Path) -> tuple[list[str], list[str], list[str]]:
        text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.S | re.M)
        other = r"\]\(tutorial(?:\.zh)?\.md\)"
        return (
            re.findall(r"^(#+ (?:\d\.)?)", text, re.M),
            re.findall(r"!\[[^]]+\]\(([^)]+)\)", text),
            re.findall(r"(?<!!)\[[^]]+\]\(([^)]+)\)", re.sub(other, "", text)),
        )

    assert outline(CHINESE) == outline(ENGLISH)
    assert {f"images/{name}" for name in PICTURES} <= set(outline(ENGLISH)[1])


def test_each_output_belongs_to_a_block() -> None:
    """Else an output with something between it and its code would not be compared."""
    for document in (ENGLISH, CHINESE):
        outputs = document.read_text().count("\n```text\n")
        assert outputs == sum(block.output != "" for block in python_blocks(document))

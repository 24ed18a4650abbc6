"""The site of the documents: its navigation, links to headings, API page and flowchart; a build of it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import lenet_ext

ROOT = Path(__file__).resolve().parents[2]
# Pages of the site that lie outside docs/ have this before their path.
OUTSIDE = "repository/"
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("benchmarks/results/**/*.md"),
        *ROOT.glob("examples/*.md"),
    ]
)
CODE_BLOCK = re.compile(r"^```.*?^```$", re.M | re.S)
GENERATOR = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def navigation() -> list[str]:
    """The entries of mkdocs.yml, which is read without a YAML library: each is a line."""
    found = re.search(r"^nav:\n((?: .*\n)+)", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert found is not None
    entries = []
    for line in found[1].splitlines():
        match = re.fullmatch(r" +- (?:([^:]+):)?(?: ?([\w./*]+\.md))?", line)
        assert match is not None, line
        if match[2] is not None:
            entries.append(match[2])
    return entries


def pages(entry: str) -> list[Path]:
    """Those that an entry stands for, one or, with a *, all of a kind."""
    return list(ROOT.glob(entry.removeprefix(OUTSIDE) if entry.startswith(OUTSIDE) else f"docs/{entry}"))


def anchors(document: Path) -> set[str]:
    """Those of the headings, made as the hosts of repositories do it, and as mkdocs.yml tells the site to."""
    text = CODE_BLOCK.sub("", document.read_text())
    counts: Counter[str] = Counter()
    made = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        made.add(f"{slug}-{counts[slug]}" if counts[slug] else slug)
        counts[slug] += 1
    return made


def flowchart() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flowchart", ROOT / "docs/flowchart.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_entries_of_the_navigation_exist() -> None:
    entries = navigation()
    assert len(entries) > 5
    assert [entry for entry in entries if "*" not in entry and not pages(entry)] == []
    assert max(Counter(entries).values()) == 1


def test_every_document_is_in_the_navigation() -> None:
    named = {page for entry in navigation() for page in pages(entry)}
    assert {name_of(document) for document in DOCUMENTS} - {name_of(page) for page in named} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_to_headings(document: Path) -> None:
    """And to pages, for those that test_documents.py does not read."""
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)", CODE_BLOCK.sub("", document.read_text())):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = document.parent / path if path else document
        # A folder becomes its README.md on the site.
        target = target / "README.md" if target.is_dir() else target
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert not missing


def test_api_page_has_every_public_name() -> None:
    shown = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.M)
    modules = {"functional", "nn"}
    public = {name for name in lenet_ext.__all__ if name not in modules and not name.startswith("__")}
    public |= {f"functional.{name}" for name in lenet_ext.functional.__all__}
    public |= {f"nn.{name}" for name in lenet_ext.nn.__all__}
    # `convert` and `revert` are named in their module, which has the name of one of them.
    named = {name.removeprefix("lenet_ext.").removeprefix("convert.") for name in shown}
    assert named == public


def test_python_on_the_home_page_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/index.md").read_text(), re.S | re.M)
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(blocks[0], names)
    assert names["loss"] is not None


def test_flowchart_has_every_box_once() -> None:
    chart = re.search(r"^```mermaid\n(.*?)^```", (ROOT / "docs/architecture.md").read_text(), re.M | re.S)
    assert chart is not None
    labels = re.findall(r'\["(.*?)"\]', chart[1])
    drawn = flowchart().as_html(chart[1])
    assert len(labels) > 10
    for label in labels:
        assert drawn.count(f"<strong>{label.split('<br/>')[0]}</strong>") == 1
    assert drawn.count("<strong>") == len(labels)


def test_flowchart_points_downwards() -> None:
    drawn = flowchart().as_html(
        'flowchart TD\n    a["A<br/>first"] --> c["C"]\n    a --> b["B &lt;x&gt;"]\n    b --> c\n'
    )
    assert [drawn.index(f"<strong>{title}") for title in ("A", "B &lt;x&gt;", "C")] == sorted(
        drawn.index(f"<strong>{title}") for title in "ABC"
    )
    assert "first<br><small>uses C and B &lt;x&gt;</small>" in drawn


@pytest.mark.parametrize(
    ("chart", "message"),
    [
        ("sequenceDiagram\n", "wanted a 'flowchart TD', got 'sequenceDiagram'"),
        ("flowchart TD\n a --- b\n", "wanted an arrow from box to box, got 'a --- b'"),
        ("flowchart TD\n a --> b\n b --> a\n", "the arrows between a, b go round in a circle"),
    ],
)
def test_flowchart_refuses(chart: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flowchart().as_html(chart)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in GENERATOR),
    reason="needs what `make docs` installs: pip install -r docs/requirements.txt",
)
def test_build(tmp_path: Path) -> None:
    """Without a warning, and without a thing to fetch from elsewhere when it is read."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    built = list(tmp_path.rglob("*.html"))
    assert {tmp_path / "index.html", tmp_path / "repository/benchmarks/results/summary.html"} <= set(built)
    fetched = re.compile(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?(?:https?:)?//[^>]*>""")
    assert [found for page in built for found in fetched.findall(page.read_text())] == []
    assert "lenet_ext.TrainStep" in (tmp_path / "api.html").read_text()
    assert "max_grad_norm" in (tmp_path / "api.html").read_text()

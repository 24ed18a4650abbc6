"""Hooks of MkDocs: the site has what its pages link to outside docs/ as well, under repository/.

Links in the documents are those of the repository, relative to the file that they stand in. A Markdown file
that is linked becomes a page, a picture is copied, and a source becomes a page that shows it; the links are
rewritten.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import flowchart
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = "repository/"
PICTURES = {".png", ".svg", ".jpg"}
LANGUAGES = {
    ".cpp": "cpp",
    ".cu": "cuda",
    ".cuh": "cuda",
    ".h": "cpp",
    ".py": "python",
    ".sh": "sh",
    ".toml": "toml",
}
# Fenced blocks and code in a line hold no links.
CODE = re.compile(r"^(`{3,})[^`\n]*\n.*?^\1$|`[^`\n]+`", re.M | re.S)
LINK = re.compile(r"(?<=\]\()[^)\s#:]+(?=[)\s#])")
CHART = re.compile(r"^```mermaid\n(.*?)^```$", re.M | re.S)

log = logging.getLogger("mkdocs.hooks.lenet_ext")  # MkDocs counts the warnings of its own loggers


def on_config(config: MkDocsConfig) -> None:
    assert config.nav is not None
    named = {entry for entry in _entries(config.nav) if "*" not in entry}
    config.nav = _expanded(config.nav, named)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds what the navigation and the pages name, and what the pages that are added so name in turn."""
    assert config.nav is not None
    for entry in _entries(config.nav):
        _add(entry, files, config)
    for page in files.documentation_pages(inclusion=InclusionLevel.is_included):
        _add_linked(page, files, config)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    folder = posixpath.dirname(page.file.src_uri)

    def on_site(link: str) -> str:
        target = _target(link, page.file.src_uri)
        return link if target is None else posixpath.relpath(_site_path(target), folder)

    def drawn(chart: re.Match[str]) -> str:
        try:
            return flowchart.as_html(chart[1])
        except ValueError as error:
            log.warning("%s: the flowchart cannot be drawn: %s", page.file.src_uri, error)
            return chart[0]

    return _with_links(CHART.sub(drawn, markdown), on_site)


def _entries(nav: Any) -> Iterator[str]:
    """The paths of a navigation: lists of paths, and of titles with a path or a list."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _entries(part)


def _expanded(nav: list[Any], named: set[str]) -> list[Any]:
    """The navigation with the files that an entry with a * stands for."""
    expanded: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            ((title, value),) = entry.items()
            expanded.append({title: value if isinstance(value, str) else _expanded(value, named)})
        elif "*" in entry:
            found = (_site_path(path) for path in sorted(ROOT.glob(_repository_path(entry))))
            expanded.extend(path for path in found if path not in named)
        else:
            expanded.append(entry)
    return expanded


def _repository_path(site_path: str) -> str:
    """Relative to ROOT."""
    return site_path.removeprefix(OUTSIDE) if site_path.startswith(OUTSIDE) else f"docs/{site_path}"


def _site_path(file: Path) -> str:
    """The source of its page, or of its copy, in the terms of MkDocs: as if relative to docs/."""
    path = PurePosixPath(file.relative_to(ROOT).as_posix())
    if path.suffix != ".md" and path.suffix not in PICTURES:
        return f"{OUTSIDE}{path}.md"
    return str(path.relative_to("docs")) if path.is_relative_to("docs") else f"{OUTSIDE}{path}"


def _target(link: str, page: str) -> Path | None:
    """The file of this repository that is meant, of a folder its README.md; None for what is none."""
    target = (ROOT / _repository_path(page)).parent.joinpath(link).resolve()
    if target.is_dir():
        target /= "README.md"
    return target if target.is_file() and target.is_relative_to(ROOT) else None


def _with_links(markdown: str, change: Callable[[str], str]) -> str:
    """Markdown whose links to files, without their anchors, are what `change` makes of them."""
    parts, end = [], 0
    for code in CODE.finditer(markdown):
        parts += [LINK.sub(lambda link: change(link[0]), markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, LINK.sub(lambda link: change(link[0]), markdown[end:])])


def _add(site_path: str, files: Files, config: MkDocsConfig) -> None:
    """What has that path on the site and lies outside docs/, if it is not there yet, and what it links to."""
    if not site_path.startswith(OUTSIDE) or files.get_file_from_path(site_path) is not None:
        return
    path = ROOT / _repository_path(site_path)
    if path.is_file():
        file = File.generated(config, site_path, abs_src_path=str(path))
        files.append(file)
        if path.suffix == ".md":
            _add_linked(file, files, config)
    elif (source := path.with_suffix("")).is_file():
        code = source.read_text(encoding="utf-8")
        language = LANGUAGES.get(source.suffix, "text")
        text = f"# {source.relative_to(ROOT).as_posix()}\n\n````{language}\n{code}````\n"
        files.append(File.generated(config, site_path, content=text, inclusion=InclusionLevel.NOT_IN_NAV))


def _add_linked(page: File, files: Files, config: MkDocsConfig) -> None:
    def seen(link: str) -> str:
        target = _target(link, page.src_uri)
        if target is not None:
            _add(_site_path(target), files, config)
        return link

    _with_links(page.content_string, seen)

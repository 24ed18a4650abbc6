"""The documents: their Python examples run, what they name exists, and their numbers are the code's."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from code_blocks import python_blocks, run

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path for folder in (".", "docs", "benchmarks", "examples") for path in (ROOT / folder).glob("*.md")
)

FOLDERS = ("csrc", "lenet_ext", "tests", "scripts", "benchmarks", "docs", "examples")
# A number that a document gives, and where the code has it.
NUMBERS = [
    (
        "docs/kernels.md",
        r"less than ([\d,]+) cycles of",
        "csrc/cpu/runtime/parallel.h",
        r"kSerialCycles = ([\d']+)",
    ),
    ("docs/kernels.md", r"at most (\d+) images", "csrc/cpu/engine/segment.h", r"kMostTileImages = (\d+)"),
    ("docs/kernels.md", r"form up to (\d+) chunks", "csrc/cpu/engine/segment.h", r"kMostChunks = (\d+)"),
    (
        "docs/kernels.md",
        r"more than (\d+) K weights",
        "csrc/cpu/engine/engine.h",
        r"kWideWeights = (\d+) \* 1024",
    ),
    ("docs/kernels.md", r"Fewer than (\d+) rows", "csrc/cpu/linear/linear.h", r"kFewLinearRows = (\d+)"),
    (
        "docs/kernels.md",
        r"(\d+) KiB of it at a time",
        "csrc/cpu/linear/matmul.h",
        r"kPanelBytes = (\d+) \* 1024",
    ),
    ("docs/kernels.md", r"more than (\d+) positions", "csrc/shapes.h", r"kMost = (\d+)"),
    (
        "docs/kernels.md",
        r"values take (\d+) KiB",
        "csrc/cpu/conv2d/winograd_plan.h",
        r"kAtOnceBytes = (\d+) \* 1024",
    ),
    (
        "docs/kernels.md",
        r"window within (\d+) KiB",
        "csrc/cpu/conv2d/correlation.h",
        r"kWindowBytes = (\d+) \*",
    ),
    (
        "docs/kernels.md",
        r"up to (\d+) chunks, whose",
        "csrc/cpu/conv2d/weight_grad_plan.h",
        r"kMostChunks = (\d+)",
    ),
    ("docs/kernels.md", r": (\d+) stages, 2", "csrc/cuda/engine/pass.cuh", r"kMostStages = (\d+)"),
    (
        "docs/kernels.md",
        r"2\^(\d+) elements of an image",
        "csrc/cuda/engine/pass.cuh",
        r"kMostTileValues = .* << (\d+)",
    ),
    (
        "docs/kernels.md",
        r"less than 2\^(\d+) rows",
        "csrc/cuda/common/launch.cuh",
        r"kMostPositions = .* << (\d+)",
    ),
    (
        "docs/architecture.md",
        r"at most (\d+) KiB lie",
        "csrc/cpu/runtime/scratch_arena.h",
        r"kMostBytes = (\d+) \* 1024",
    ),
    ("docs/architecture.md", r"up to (\d+) blocks of", "csrc/cpu/runtime/scratch.h", r"kBlocks = (\d+)"),
    (
        "docs/architecture.md",
        r"blocks of (\d+) MiB in all",
        "csrc/cpu/runtime/scratch.h",
        r"kMost = (\d+) \* 1024 \* 1024",
    ),
    ("docs/architecture.md", r"ABI of version (\d+\.\d+)", "pyproject.toml", r"torch>=(\d+\.\d+)"),
    ("README.md", r"torch>=(\d+\.\d+)", "pyproject.toml", r"torch>=(\d+\.\d+)"),
    ("README.md", r"python3 \((\d+\.\d+) or newer\)", "pyproject.toml", r'requires-python = ">=(\d+\.\d+)"'),
    ("README.md", r"torch pinned to ([\d.]+\d)", "Makefile", r"TORCH_VERSION := ([\d.]+\d)"),
    ("docs/reliability.md", r"makes (\d+) calls of each", "tests/conftest.py", r"max_examples=(\d+)"),
]


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize(
    ("document", "least"), [("README.md", 2), ("docs/private.md", 1), ("docs/ensembles.md", 2)]
)
def test_python_in_documents_runs(document: str, least: int) -> None:
    blocks = python_blocks(ROOT / document)
    assert len(blocks) >= least
    names: dict[str, object] = {}
    for block in blocks:
        printed = run(block, names)
        assert block.output in ("", printed)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for document in DOCUMENTS:
        # In code only: "make" is an English word too.
        named = re.findall(r"(?:^|`)make ([\w-]+)", document.read_text(), re.M)
        assert set(named) <= targets, name_of(document)


@pytest.mark.parametrize(("document", "said", "source", "known"), NUMBERS, ids=lambda text: text)
def test_numbers_are_those_of_the_code(document: str, said: str, source: str, known: str) -> None:
    numbers = []
    for name, pattern in ((document, said), (source, known)):
        found = re.search(pattern, (ROOT / name).read_text())
        assert found is not None, f"{name} has no {pattern}"
        numbers.append(re.sub("[,']", "", found[1]))
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_documents_name_exist(document: Path) -> None:
    # Paths from the root, and C++ files by the end of theirs; not what stands for many, as <op>.
    files = [str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    paths = rf"(?:{'|'.join(FOLDERS)})/[\w./]+"
    named = re.findall(rf"`({paths}|[\w/]+\.(?:h|cuh|cu|cpp))`", document.read_text())
    missing = [
        name for name in named if not any(f"/{file}".endswith(f"/{name.rstrip('/')}") for file in files)
    ]
    if document.name != "CONTRIBUTING.md":  # whose recipes make files
        assert not missing


def test_documents_have_the_tables_of_what_fuse_takes() -> None:
    """python scripts/fuse_table.py writes it."""
    spec = importlib.util.spec_from_file_location("fuse_table", ROOT / "scripts/fuse_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for document, table in module.TABLES.items():
        assert f"{module.BEGIN}{table()}{module.END}" in document.read_text()
    families = {row.family for row in module.ROWS} - {"fused"}
    assert families == set(module.FAMILIES)


def test_recipes_count_their_files() -> None:
    recipes = (ROOT / "CONTRIBUTING.md").read_text().split("\n### Add ")[1:]
    counts = [
        (len(re.findall(r"^\d+\. ", recipe, re.M)), re.search(r"(\d+) files", recipe)) for recipe in recipes
    ]
    counted = [(steps, int(found[1])) for steps, found in counts if steps > 0 and found is not None]
    assert len(counted) == 3
    assert all(steps == files for steps, files in counted)

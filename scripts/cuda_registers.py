"""Prints, as a Markdown table, what nvcc says of each CUDA kernel: registers, shared memory, bytes spilled.

Needs nvcc and c++filt on the PATH. The table of docs/kernels.md is made by it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"
# A kernel's stored type, by a name within its own; the first that is found.
TYPES = {"BFloat16": "bfloat16", "Float16": "float16", "double": "float64", "float": "float32"}
COLUMNS = ["float32", "float64", "bfloat16", "float16"]
REPORT = re.compile(
    r"entry function '(?P<name>\S+)'.*?(?P<spills>\d+) bytes spill stores.*?Used (?P<registers>\d+) registers"
    r"(?:[^\n]*?, (?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)


def report(source: Path, architecture: str) -> str:
    """What ptxas says about each kernel, with readable names."""
    command = ["nvcc", "-std=c++20", "-O3", f"-I{CSRC}", f"-arch={architecture}", "-Xptxas", "-v"]
    compiled = subprocess.run(
        [*command, "-c", str(source), "-o", "/dev/null"], capture_output=True, text=True, check=True
    )
    return compiled.stdout + compiled.stderr


def readable(mangled: str) -> str:
    """For example contract<Tile<128, 8>, float, ...>; without the parameters."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"lenet_ext::|cuda::|\(anonymous namespace\)::|^void ", "", name)
    return name[: name.index(">(") + 1] if ">(" in name else name[: name.index("(")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="sm_90")
    architecture = parser.parse_args().arch
    print("| file | kernel | " + " | ".join(COLUMNS) + " | shared, float32 | spilled |")
    print("|---" * (len(COLUMNS) + 4) + "|")
    for source in sorted((CSRC / "cuda").rglob("*.cu")):
        file, rows = source.relative_to(CSRC / "cuda"), dict[str, dict[str, int]]()
        for found in REPORT.finditer(report(source, architecture)):
            name = readable(found["name"])
            dtype = next((TYPES[word] for word in TYPES if re.search(rf"\b{word}\b", name)), COLUMNS[0])
            row = rows.setdefault(re.sub(r"\b(BFloat16|Float16|double|float)\b", "T", name), {"spills": 0})
            row[dtype] = int(found["registers"])
            row["spills"] = max(row["spills"], int(found["spills"]))
            if dtype == COLUMNS[0]:
                row["shared"] = int(found["shared"] or 0)
        for name, row in sorted(rows.items()):
            registers = " | ".join(str(row.get(dtype, "")) for dtype in COLUMNS)
            print(f"| {file} | `{name}` | {registers} | {row.get('shared', '')} | {row['spills']} |")


if __name__ == "__main__":
    main()

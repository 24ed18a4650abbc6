"""How calls of operators are read as layers, by families."""

from __future__ import annotations

from lenet_ext.engine.capture.readers import activations, combine, core, fused, norm, pools, shapes
from lenet_ext.engine.capture.readers.table import READERS, ROWS, Row

__all__ = ["READERS", "ROWS", "Row", "activations", "combine", "core", "fused", "norm", "pools", "shapes"]

"""The fused engine: networks read from modules, run and trained whole."""

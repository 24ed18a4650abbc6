"""The fused engine timed beside every other way to run a small network on the CPU."""

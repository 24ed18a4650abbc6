"""How fast lenet_ext is beside others: `python -m benchmarks`. README.md says what is timed, and how."""

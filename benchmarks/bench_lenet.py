"""Time the LeNet's training step and inference beside native torch's."""

from lenet_ext.benchmark.run import main

if __name__ == "__main__":
    main("lenet")

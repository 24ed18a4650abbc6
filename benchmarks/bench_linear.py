"""Time the linear layers of the LeNet beside native torch's."""

from lenet_ext.benchmark.run import main

if __name__ == "__main__":
    main("linear")

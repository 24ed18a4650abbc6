"""Time layers of small convolutional networks beside native torch's."""

from lenet_ext.benchmark.run import main

if __name__ == "__main__":
    main("suite")

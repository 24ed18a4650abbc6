"""`python -m lenet_ext` is the program `lenet-ext`."""

from lenet_ext.cli import main

main()

"""Training a LeNet: data readers, the loop, checkpoints, pictures. Needs the extras [cli], [data] and [plot].

Read `loop.py` first. Imports point one way: session -> checkpoint, plots -> loop -> config, data -> readers.
"""

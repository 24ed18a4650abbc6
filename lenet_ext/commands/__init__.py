"""The commands of `lenet-ext`, one module each, and what they share.

Only `stopping` and `streams` do without the extra [cli].
"""

"""Many runs at once: all combinations of a few settings, in ensembles.

session.py is the place to start: one call of `lenet-ext sweep`.
"""

"""The operators written a second time, as plainly as possible, from the papers' equations.

Loops over pixels in Python's floats (float64): slow, obvious, and independent of the library.
"""

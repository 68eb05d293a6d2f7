"""Loaders of real cluster traces: a path in, frozen columns of numpy out, bad files refused in one sentence."""

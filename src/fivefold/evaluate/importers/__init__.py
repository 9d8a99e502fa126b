"""Reads result files of other evaluation tools. One module a tool; each has `matches(path)` and `read(path)`."""

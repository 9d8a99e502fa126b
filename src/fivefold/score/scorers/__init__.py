"""Built-in scorers, one a file: each module has `scorer(**options) -> Scorer`."""

"""One attack a file: each module has `attack(**options) -> Attack`."""

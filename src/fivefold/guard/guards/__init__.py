"""One guard a file: each module has `guard(**options) -> Guard`."""

"""Built-in backends, one a file: each module has `load(spec, **options) -> Model`."""

"""One prompt transform a file: each module has `transform(text, rng, language, **options) -> str`."""

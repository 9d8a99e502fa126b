"""Documents whose every sentence resolves to records."""

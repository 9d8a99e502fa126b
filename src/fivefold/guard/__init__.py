"""Guards at run time: one verdict per exchange, stacked."""

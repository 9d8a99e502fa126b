"""One interpretability method a file."""

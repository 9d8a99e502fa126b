"""Pure, shaped objectives, one a file."""

"""Append-only records, artifacts by hash, signatures, bundles."""

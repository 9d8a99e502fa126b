"""Numbered migrations of the evidence store, run by Alembic inside the transaction that `database` opened."""

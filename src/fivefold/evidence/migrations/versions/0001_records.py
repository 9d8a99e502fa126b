"""Records, which can only be appended, and the completion cache."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SQLITE = (
    """
    CREATE TRIGGER records_no_update BEFORE UPDATE ON records
    BEGIN SELECT RAISE(ABORT, 'records are append-only: UPDATE refused'); END
    """,
    """
    CREATE TRIGGER records_no_delete BEFORE DELETE ON records
    BEGIN SELECT RAISE(ABORT, 'records are append-only: DELETE refused'); END
    """,
    # INSERT OR REPLACE removes rows without firing delete triggers, so the insert itself is checked.
    """
    CREATE TRIGGER records_only_append BEFORE INSERT ON records
    WHEN NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM records)
      OR NEW.prev <> COALESCE((SELECT hash FROM records ORDER BY seq DESC LIMIT 1), printf('%064d', 0))
      OR EXISTS (SELECT 1 FROM records WHERE hash = NEW.hash)
    BEGIN SELECT RAISE(ABORT, 'records are append-only: a record must follow the last one'); END
    """,
)

POSTGRESQL = (
    """
    CREATE FUNCTION fivefold_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'records are append-only: % refused', TG_OP; END $$
    """,
    """
    CREATE FUNCTION fivefold_only_append() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE last_seq integer; last_hash text;
    BEGIN
      SELECT seq, hash INTO last_seq, last_hash FROM records ORDER BY seq DESC LIMIT 1;
      IF NEW.seq <> COALESCE(last_seq, 0) + 1 OR NEW.prev <> COALESCE(last_hash, repeat('0', 64)) THEN
        RAISE EXCEPTION 'records are append-only: a record must follow the last one';
      END IF;
      RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER records_no_update BEFORE UPDATE ON records
    FOR EACH STATEMENT EXECUTE FUNCTION fivefold_refuse_change()
    """,
    """
    CREATE TRIGGER records_no_delete BEFORE DELETE OR TRUNCATE ON records
    FOR EACH STATEMENT EXECUTE FUNCTION fivefold_refuse_change()
    """,
    """
    CREATE TRIGGER records_only_append BEFORE INSERT ON records
    FOR EACH ROW EXECUTE FUNCTION fivefold_only_append()
    """,
)


def upgrade() -> None:
    """Create both tables, their indexes and the triggers."""
    op.create_table(
        "records",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("run", sa.String(200), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("prev", sa.String(64), nullable=False, unique=True),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
    )
    op.create_index("records_by_key", "records", ["kind", "key", "seq"])
    op.create_index("records_by_run", "records", ["run", "seq"])
    op.create_table(
        "completions",
        sa.Column("key", sa.String(128), primary_key=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.String(40), nullable=False),
    )
    op.create_index("completions_by_model", "completions", ["model"])
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)

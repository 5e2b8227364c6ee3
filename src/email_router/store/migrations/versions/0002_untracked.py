"""Raw bytes of mail that was pushed and not tracked: it lies in no mailbox, and its parent may still come."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = """
CREATE TABLE router.untracked_chunk (
    receipt uuid NOT NULL,
    n integer NOT NULL,
    data bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (receipt, n)
);
CREATE INDEX untracked_chunk_created ON router.untracked_chunk (created);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)

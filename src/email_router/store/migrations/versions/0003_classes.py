"""Decisions keep the class of the message, and the header line that decided it; the ledger is found by Message-ID."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE router.decision ADD COLUMN class text NOT NULL DEFAULT ''")
    op.execute("ALTER TABLE router.decision ADD COLUMN class_line text NOT NULL DEFAULT ''")
    op.execute("CREATE INDEX ledger_message_id ON router.ledger (deployment, message_id)")

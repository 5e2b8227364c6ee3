"""Queues say whether automatic messages may make cases."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE crm.receiver ADD COLUMN machines_make_cases boolean NOT NULL DEFAULT false")

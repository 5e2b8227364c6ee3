"""Decisions on untracked mail whose days are over keep hashes instead of sender, recipients and subject."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE router.decision ADD COLUMN hashed boolean NOT NULL DEFAULT false")

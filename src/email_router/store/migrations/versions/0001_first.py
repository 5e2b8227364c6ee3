"""The router's own tables. Ids and addresses in mail have any length: hash indexes take them all."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = """
CREATE TABLE router.installation (
    id uuid PRIMARY KEY,
    host text NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    outgoing_hold text NOT NULL DEFAULT ''
);
CREATE TABLE router.revision (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    comment text NOT NULL DEFAULT '',
    who text NOT NULL DEFAULT '',
    created timestamptz NOT NULL DEFAULT now(),
    active boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX revision_active ON router.revision (active) WHERE active;
CREATE TABLE router.secret (
    name text PRIMARY KEY,
    key_id text NOT NULL,
    nonce bytea NOT NULL,
    ciphertext bytea NOT NULL,
    changed timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE router.shard (
    number integer PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    owner text NOT NULL DEFAULT '',
    since timestamptz
);
INSERT INTO router.shard (number) SELECT generate_series(0, 63);
CREATE TABLE router.cursor (
    mailbox text NOT NULL,
    folder text NOT NULL,
    cursor text NOT NULL,
    PRIMARY KEY (mailbox, folder)
);
CREATE TABLE router.mailbox (
    name text PRIMARY KEY,
    added timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'new',
    error text NOT NULL DEFAULT '',
    polled timestamptz,
    lag_seconds double precision,
    older integer NOT NULL DEFAULT 0
);
CREATE TABLE router.receipt (
    id uuid PRIMARY KEY,
    deployment text NOT NULL,
    mailbox text NOT NULL,
    folder text NOT NULL,
    item text NOT NULL,
    seen timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    next_attempt timestamptz NOT NULL DEFAULT now(),
    outcome text,
    closed timestamptz,
    last_error text NOT NULL DEFAULT '',
    UNIQUE (mailbox, folder, item, deployment)
);
CREATE INDEX receipt_open ON router.receipt (mailbox, next_attempt) WHERE closed IS NULL;
CREATE TABLE router.decision (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    receipt uuid NOT NULL,
    deployment text NOT NULL,
    mailbox text NOT NULL,
    folder text NOT NULL,
    item text NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    outcome text NOT NULL,
    reason text NOT NULL,
    why text NOT NULL,
    losing text NOT NULL,
    message_id text NOT NULL,
    identity bytea NOT NULL,
    sender text NOT NULL,
    recipients text NOT NULL,
    subject text NOT NULL,
    received timestamptz,
    activity uuid,
    defects text NOT NULL,
    traceback text NOT NULL
);
CREATE INDEX decision_message_id ON router.decision USING hash (message_id) WHERE message_id <> '';
CREATE INDEX decision_created ON router.decision USING brin (created);
CREATE TABLE router.named_id (
    deployment text NOT NULL,
    message_id text NOT NULL,
    receipt uuid NOT NULL,
    reopened boolean NOT NULL DEFAULT false,
    created timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (deployment, message_id, receipt)
);
CREATE TABLE router.undeliverable (
    id uuid PRIMARY KEY,
    receipt uuid NOT NULL UNIQUE,
    deployment text NOT NULL,
    mailbox text NOT NULL,
    folder text NOT NULL,
    item text NOT NULL,
    received timestamptz,
    cause text NOT NULL,
    cure text NOT NULL,
    traceback text NOT NULL,
    subject text NOT NULL,
    sender text NOT NULL,
    size bigint NOT NULL,
    state text NOT NULL DEFAULT 'open',
    created timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX undeliverable_open ON router.undeliverable (created) WHERE state = 'open';
CREATE TABLE router.undeliverable_chunk (
    undeliverable uuid NOT NULL REFERENCES router.undeliverable ON DELETE CASCADE,
    n integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (undeliverable, n)
);
CREATE TABLE router.ledger (
    id uuid PRIMARY KEY,
    email uuid NOT NULL,
    deployment text NOT NULL,
    profile text NOT NULL,
    sender text NOT NULL,
    subject text NOT NULL,
    message_id text NOT NULL,
    date timestamptz NOT NULL,
    envelope_id text NOT NULL,
    state text NOT NULL DEFAULT 'pending',
    attempts integer NOT NULL DEFAULT 0,
    handed_over timestamptz,
    shard integer NOT NULL,
    handed_epoch bigint,
    next_attempt timestamptz NOT NULL DEFAULT now(),
    last_error text NOT NULL DEFAULT '',
    settled boolean NOT NULL DEFAULT true,
    created timestamptz NOT NULL DEFAULT now(),
    UNIQUE (deployment, email)
);
CREATE INDEX ledger_due ON router.ledger (profile, next_attempt) WHERE state IN ('pending', 'uncertain');
CREATE INDEX ledger_unsettled ON router.ledger (profile) WHERE NOT settled;
CREATE TABLE router.ledger_recipient (
    ledger uuid NOT NULL REFERENCES router.ledger ON DELETE CASCADE,
    n integer NOT NULL,
    address text NOT NULL,
    state text NOT NULL DEFAULT 'pending',
    code integer NOT NULL DEFAULT 0,
    status text NOT NULL DEFAULT '',
    said text NOT NULL DEFAULT '',
    PRIMARY KEY (ledger, n)
);
CREATE TABLE router.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    who text NOT NULL,
    action text NOT NULL,
    detail text NOT NULL
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)

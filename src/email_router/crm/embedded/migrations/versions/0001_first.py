"""The embedded CRM's tables.

Ids in mail come from strangers and have any length: hash indexes take them all. Only what is nearly always different
has one: a hash index becomes slower with each entry for the same value.
"""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = """
CREATE TABLE crm.organization (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    case_counter bigint NOT NULL DEFAULT 0,
    user_counter integer NOT NULL DEFAULT 0,
    created timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE crm.record (
    id uuid PRIMARY KEY,
    organization uuid NOT NULL REFERENCES crm.organization,
    type text NOT NULL,
    name text NOT NULL,
    owner uuid,
    active boolean NOT NULL DEFAULT true,
    customer uuid,
    fields jsonb NOT NULL DEFAULT '{}',
    created timestamptz NOT NULL DEFAULT now(),
    modified timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX record_by_type ON crm.record (organization, type, created);
CREATE INDEX record_by_customer ON crm.record (customer) WHERE customer IS NOT NULL;
CREATE TABLE crm.address (
    record uuid NOT NULL REFERENCES crm.record ON DELETE CASCADE,
    organization uuid NOT NULL,
    n integer NOT NULL,
    key text NOT NULL,
    address text NOT NULL,
    PRIMARY KEY (record, n)
);
CREATE INDEX address_by_key ON crm.address USING hash (key);
CREATE TABLE crm.receiver (
    id uuid PRIMARY KEY REFERENCES crm.record ON DELETE CASCADE,
    organization uuid NOT NULL,
    key text NOT NULL,
    address text NOT NULL,
    incoming integer NOT NULL,
    outgoing integer NOT NULL,
    approval integer NOT NULL,
    filter_option integer NOT NULL,
    makes_cases boolean NOT NULL DEFAULT false,
    case_title text NOT NULL DEFAULT '{subject}',
    case_priority integer NOT NULL DEFAULT 2,
    token_number integer NOT NULL,
    token_counter bigint NOT NULL DEFAULT 0,
    UNIQUE (organization, key)
);
CREATE TABLE crm.activity (
    id uuid PRIMARY KEY,
    organization uuid NOT NULL REFERENCES crm.organization,
    direction text NOT NULL,
    identity bytea,
    status integer NOT NULL,
    subject text NOT NULL,
    body_text text NOT NULL,
    body_html text NOT NULL,
    sender text NOT NULL,
    message_id text NOT NULL,
    in_reply_to text NOT NULL,
    refs text[] NOT NULL,
    token text NOT NULL DEFAULT '',
    correlation integer NOT NULL DEFAULT 0,
    correlated uuid,
    regarding uuid,
    owner uuid,
    accepting uuid,
    receiving text NOT NULL DEFAULT '',
    importance integer NOT NULL DEFAULT 1,
    read_receipt boolean NOT NULL DEFAULT false,
    delivery_receipt boolean NOT NULL DEFAULT false,
    size bigint NOT NULL DEFAULT 0,
    date timestamptz,
    received timestamptz,
    sent timestamptz,
    created timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    said text NOT NULL DEFAULT '',
    pending_since timestamptz,
    claimed timestamptz,
    claim_shard integer,
    claim_epoch bigint
);
CREATE UNIQUE INDEX activity_by_identity ON crm.activity (organization, direction, identity);
CREATE INDEX activity_by_message_id ON crm.activity USING hash (message_id) WHERE message_id <> '';
CREATE INDEX activity_by_token ON crm.activity (token) WHERE token <> '';
CREATE INDEX activity_by_regarding ON crm.activity (regarding, created) WHERE regarding IS NOT NULL;
CREATE INDEX activity_by_time ON crm.activity (organization, (coalesce(received, sent, created)), id);
CREATE INDEX activity_pending ON crm.activity (organization, sender, pending_since) WHERE status IN (6, 7);
CREATE TABLE crm.party (
    activity uuid NOT NULL REFERENCES crm.activity ON DELETE CASCADE,
    n integer NOT NULL,
    role text NOT NULL,
    address text NOT NULL,
    name text NOT NULL,
    record uuid,
    state text NOT NULL DEFAULT '',
    said text NOT NULL DEFAULT '',
    PRIMARY KEY (activity, n)
);
CREATE INDEX party_by_record ON crm.party (record) WHERE record IS NOT NULL;
CREATE TABLE crm.attachment (
    activity uuid NOT NULL REFERENCES crm.activity ON DELETE CASCADE,
    n integer NOT NULL,
    name text NOT NULL,
    content_type text NOT NULL,
    size bigint NOT NULL,
    sha256 bytea NOT NULL,
    content_id text NOT NULL,
    inline boolean NOT NULL,
    PRIMARY KEY (activity, n)
);
CREATE TABLE crm.content (
    sha256 bytea PRIMARY KEY,
    size bigint NOT NULL
);
CREATE TABLE crm.content_chunk (
    sha256 bytea NOT NULL REFERENCES crm.content ON DELETE CASCADE,
    n integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (sha256, n)
);
ALTER TABLE crm.content_chunk ALTER data SET STORAGE EXTERNAL;
CREATE TABLE crm.raw_chunk (
    activity uuid NOT NULL REFERENCES crm.activity ON DELETE CASCADE,
    n integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (activity, n)
);
ALTER TABLE crm.raw_chunk ALTER data SET STORAGE EXTERNAL;
CREATE TABLE crm.received_by (
    activity uuid NOT NULL REFERENCES crm.activity ON DELETE CASCADE,
    address text NOT NULL,
    receiver uuid,
    PRIMARY KEY (activity, address)
);
CREATE TABLE crm.queue_item (
    queue uuid NOT NULL,
    activity uuid NOT NULL REFERENCES crm.activity ON DELETE CASCADE,
    entered timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue, activity)
);
CREATE TABLE crm.term (
    shard integer PRIMARY KEY,
    epoch bigint NOT NULL
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)

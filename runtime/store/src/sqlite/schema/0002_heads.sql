-- Heads in the words of the rules (colony_core::ledger), a checksum in every row, and who the ledger is.
--
-- `checksum` is the last column of every table: CRC-32 over the table's name and the columns before it
-- (tables.rs). Those of the rows moved here are computed after this file has run.

-- First, for it reads the numbers that were given: the last ones of outbox and episodes, and the highest
-- time written, below which no stamp falls.
CREATE TABLE counters (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    accepted INTEGER NOT NULL,
    cursor INTEGER NOT NULL,
    changes_kept_from INTEGER NOT NULL,
    ready INTEGER NOT NULL,
    claimed INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    done INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    outbox INTEGER NOT NULL,
    episodes INTEGER NOT NULL,
    highest_us INTEGER NOT NULL,
    -- Durable writes, each a transaction: the mark beside the file says how many were acknowledged.
    writes INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
INSERT INTO counters
    SELECT only, accepted, cursor, changes_kept_from, ready, claimed, parked, done, failed, cancelled,
        expired, dead,
        coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0),
        coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'episodes'), 0),
        coalesce((SELECT max(at_us) FROM changes), 0), 0, 0
    FROM tally;
DROP TABLE tally;

-- One row. `tables` is the checksum over the definitions of all tables and indexes.
CREATE TABLE meta (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    id BLOB NOT NULL,
    schema INTEGER NOT NULL,
    -- The oldest schema whose version may write this file.
    oldest_schema INTEGER NOT NULL,
    tables INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);

-- Rows that could not be read, where they were found.
CREATE TABLE quarantined (
    place TEXT NOT NULL,
    key TEXT NOT NULL,
    reason TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (place, key)
) WITHOUT ROWID;

ALTER TABLE specs ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dedupe ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE changes ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;

DROP INDEX live_queue;
DROP INDEX live_due;
DROP INDEX live_deadline;
ALTER TABLE live RENAME TO live_1;
CREATE TABLE live (
    id BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    failed_attempts INTEGER NOT NULL,
    node_losses INTEGER NOT NULL,
    deadline_us INTEGER,
    sort_key INTEGER NOT NULL,
    agent_type TEXT,
    agent_ordinal INTEGER,
    submitted_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    -- The request that settled it last: 1 waited, 2 ended, 3 released, 4 cancelled; and its fence, or
    -- the 16 bytes of its id.
    last_request INTEGER,
    last_key BLOB,
    -- Who holds it, while claimed.
    node TEXT,
    incarnation INTEGER,
    batch INTEGER,
    -- Only while it is ready and waits for time; then it is not in the queue.
    not_before_us INTEGER,
    -- The question it waits for, while waiting.
    wait_approval BLOB,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
-- Deliveries counted the deaths of the node too: of live tasks they are node losses, which kill nobody.
INSERT INTO live
    SELECT id, tenant, type, state, 1, fence, 0, deliveries, deadline_us, sort_key, agent_type,
        agent_ordinal, submitted_us, updated_us, NULL, NULL, node, incarnation,
        -- Batches count from 1: no claim is a repeat of this one.
        CASE WHEN node IS NOT NULL THEN 0 END, due_us,
        CASE WHEN state = 2 THEN (
            SELECT a.id FROM approvals a WHERE a.task = live_1.id AND a.closed = 0
        ) END, 0
    FROM live_1;
DROP TABLE live_1;
CREATE INDEX live_claimable ON live (queue, tenant, sort_key, id)
    WHERE state = 0 AND not_before_us IS NULL;
CREATE INDEX live_due ON live (not_before_us) WHERE not_before_us IS NOT NULL;
CREATE INDEX live_deadline ON live (deadline_us) WHERE deadline_us IS NOT NULL;

DROP INDEX finished_otherwise;
ALTER TABLE finished RENAME TO finished_1;
CREATE TABLE finished (
    id BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    failed_attempts INTEGER NOT NULL,
    node_losses INTEGER NOT NULL,
    deadline_us INTEGER,
    sort_key INTEGER NOT NULL,
    agent_type TEXT,
    agent_ordinal INTEGER,
    submitted_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    last_request INTEGER,
    last_key BLOB,
    ending BLOB NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO finished
    SELECT id, tenant, type, state, 1, fence, deliveries, 0,
        (SELECT spec_deadline(body) FROM specs WHERE specs.id = finished_1.id),
        -- A new one is computed when it is revived.
        submitted_us, agent_type, agent_ordinal, submitted_us, updated_us, NULL, NULL, ending, 0
    FROM finished_1;
DROP TABLE finished_1;
-- Most tasks end well; the others are looked for.
CREATE INDEX finished_otherwise ON finished (state, id) WHERE state > 3;
CREATE INDEX finished_updated ON finished (updated_us);

DROP INDEX approvals_open;
DROP INDEX approvals_task;
ALTER TABLE approvals RENAME TO approvals_1;
CREATE TABLE approvals (
    id BLOB NOT NULL PRIMARY KEY,
    task BLOB NOT NULL,
    tenant TEXT NOT NULL,
    asked_us INTEGER NOT NULL,
    -- 0 open, 1 answered, 2 taken, 3 closed.
    state INTEGER NOT NULL,
    question BLOB NOT NULL,
    decision BLOB,
    -- The request that decided.
    request BLOB,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO approvals
    -- A decision went straight into the journal, under no request's name.
    SELECT id, task, tenant, asked_us,
        CASE WHEN closed = 0 THEN 0 WHEN decision IS NOT NULL THEN 2 ELSE 3 END,
        question, decision, CASE WHEN decision IS NOT NULL THEN zeroblob(16) END, 0
    FROM approvals_1;
DROP TABLE approvals_1;
CREATE INDEX approvals_open ON approvals (id) WHERE state = 0;
-- What a task's holder and its end ask for: its inbox, its open question.
CREATE INDEX approvals_task ON approvals (task, state) WHERE state < 2;

DROP INDEX outbox_queue;
ALTER TABLE outbox RENAME TO outbox_1;
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    -- Its place among the messages of the effect.
    place INTEGER NOT NULL,
    task BLOB NOT NULL,
    destination TEXT NOT NULL,
    body BLOB NOT NULL,
    -- 0: it was posted before this was written down.
    posted_us INTEGER NOT NULL,
    -- When somebody said that it was delivered.
    acknowledged_us INTEGER,
    checksum INTEGER NOT NULL,
    UNIQUE (key, place)
);
INSERT INTO outbox SELECT number, key, 0, task, queue, body, 0, NULL, 0 FROM outbox_1;
DROP TABLE outbox_1;
CREATE INDEX outbox_destination ON outbox (destination, number);
-- What is to be delivered, and what is to be forgotten.
CREATE INDEX outbox_pending ON outbox (number) WHERE acknowledged_us IS NULL;
CREATE INDEX outbox_acknowledged ON outbox (acknowledged_us) WHERE acknowledged_us IS NOT NULL;

ALTER TABLE episodes RENAME TO episodes_1;
CREATE TABLE episodes (
    number INTEGER PRIMARY KEY,
    task BLOB NOT NULL,
    tenant TEXT NOT NULL,
    agent_type TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    -- The number at which it was forgotten; its body has no text from then on.
    forgotten INTEGER,
    body BLOB NOT NULL,
    checksum INTEGER NOT NULL
);
INSERT INTO episodes SELECT number, task, tenant, type, at_us, NULL, body, 0 FROM episodes_1;
DROP TABLE episodes_1;
CREATE INDEX episodes_task ON episodes (task, number);
-- The two places of a row in its stream.
CREATE INDEX episodes_learned ON episodes (tenant, agent_type, number);
CREATE INDEX episodes_forgotten ON episodes (tenant, agent_type, forgotten)
    WHERE forgotten IS NOT NULL;

ALTER TABLE agents RENAME TO agents_1;
CREATE TABLE agents (
    agent_type TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    successes INTEGER NOT NULL,
    escalations INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (agent_type, ordinal)
) WITHOUT ROWID;
INSERT INTO agents
    SELECT type, ordinal, 1, version, tasks, successes, escalations, crashes, updated_us, 0
    FROM agents_1;
DROP TABLE agents_1;

ALTER TABLE snapshots RENAME TO snapshots_1;
CREATE TABLE snapshots (
    node TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    body BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (node, name)
) WITHOUT ROWID;
-- They were the one node's, under whatever name it had.
INSERT INTO snapshots SELECT nodes.name, s.name, 1, s.body, 0 FROM snapshots_1 s CROSS JOIN nodes;
DROP TABLE snapshots_1;

ALTER TABLE nodes RENAME TO nodes_1;
CREATE TABLE nodes (
    name TEXT NOT NULL PRIMARY KEY,
    incarnation INTEGER NOT NULL,
    -- The last claim request that took something.
    batch INTEGER,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO nodes SELECT name, incarnation, NULL, 0 FROM nodes_1;
DROP TABLE nodes_1;

-- Ids are the 16 bytes of a UUIDv7, so every key that starts with one grows at its end. Times are µs
-- since the Unix epoch. States: 0 ready, 1 claimed, 2 parked, 3 done, 4 failed, 5 cancelled, 6 expired,
-- 7 dead. Bodies are colony.store.v1 messages.

-- Written once, never again: live and finished rows are short because of it.
CREATE TABLE specs (
    id BLOB NOT NULL PRIMARY KEY,
    body BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE live (
    id BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    type TEXT NOT NULL,
    state INTEGER NOT NULL,
    -- Submission time less the head start of its priority; lowest first.
    sort_key INTEGER NOT NULL,
    -- Only while it waits for a backoff; then it is not in the queue.
    due_us INTEGER,
    deadline_us INTEGER,
    fence INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    -- Who holds it, while claimed.
    node TEXT,
    incarnation INTEGER,
    agent_type TEXT,
    agent_ordinal INTEGER,
    submitted_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    -- The sequence number of the next journal entry.
    next_sequence INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX live_queue ON live (type, sort_key, id) WHERE state = 0 AND due_us IS NULL;
CREATE INDEX live_due ON live (due_us) WHERE due_us IS NOT NULL;
CREATE INDEX live_deadline ON live (deadline_us) WHERE deadline_us IS NOT NULL;

CREATE TABLE finished (
    id BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    type TEXT NOT NULL,
    state INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    agent_type TEXT,
    agent_ordinal INTEGER,
    submitted_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    ending BLOB NOT NULL
) WITHOUT ROWID;
-- Most tasks end well; the others are looked for.
CREATE INDEX finished_otherwise ON finished (state, id) WHERE state > 3;

CREATE TABLE journal (
    task BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (task, sequence)
) WITHOUT ROWID;

CREATE TABLE approvals (
    id BLOB NOT NULL PRIMARY KEY,
    task BLOB NOT NULL,
    tenant TEXT NOT NULL,
    asked_us INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    question BLOB NOT NULL,
    decision BLOB
) WITHOUT ROWID;
CREATE INDEX approvals_open ON approvals (id) WHERE closed = 0;
CREATE INDEX approvals_task ON approvals (task) WHERE closed = 0;

-- Outlives tasks. The payload is a SHA-256 over what a repeated submit must agree on.
CREATE TABLE dedupe (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    task BLOB NOT NULL,
    payload BLOB NOT NULL,
    until_us INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE INDEX dedupe_until ON dedupe (until_us);

-- Autoincrement: a number is never given twice, so a reader that remembers one misses nothing.
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    task BLOB NOT NULL,
    queue TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX outbox_queue ON outbox (queue, number);

CREATE TABLE episodes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task BLOB NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    type TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    body BLOB NOT NULL
);

CREATE TABLE agents (
    type TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    version INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    successes INTEGER NOT NULL,
    escalations INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    PRIMARY KEY (type, ordinal)
) WITHOUT ROWID;

CREATE TABLE snapshots (
    name TEXT NOT NULL PRIMARY KEY,
    body BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE nodes (
    name TEXT NOT NULL PRIMARY KEY,
    incarnation INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE changes (
    cursor INTEGER PRIMARY KEY,
    task BLOB NOT NULL,
    state INTEGER NOT NULL,
    at_us INTEGER NOT NULL
);

-- One row, rewritten with every commit that changes a number: `counts` reads it and nothing else.
CREATE TABLE tally (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    accepted INTEGER NOT NULL,
    cursor INTEGER NOT NULL,
    changes_kept_from INTEGER NOT NULL,
    ready INTEGER NOT NULL,
    claimed INTEGER NOT NULL,
    parked INTEGER NOT NULL,
    done INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    dead INTEGER NOT NULL
);
INSERT INTO tally VALUES (1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0);

-- What clients asked of a task under ids of their own, as long as the task is known: a repeat is recognised
-- whatever became of the task since. Before, a head kept the last one, until it was settled again.
CREATE TABLE requests (
    task BLOB NOT NULL,
    request BLOB NOT NULL,
    -- 0 cancel, 1 revive.
    verb INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (task, request)
) WITHOUT ROWID;
INSERT INTO requests SELECT id, last_key, 0, 0 FROM live WHERE last_request = 4;
INSERT INTO requests SELECT id, last_key, 0, 0 FROM finished WHERE last_request = 4;

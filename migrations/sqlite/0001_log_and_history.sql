-- The log. `position` is epoch << 40 | offset, so rows are appended at the right edge of the tree and read in order.
CREATE TABLE log_records (
    position       INTEGER PRIMARY KEY,
    appended_at    INTEGER NOT NULL,
    scope          TEXT    NOT NULL,
    correlation_id TEXT    NOT NULL,
    value          BLOB    NOT NULL
) STRICT;

-- One row. `trimmed_to`: every position before it may have been removed by retention.
CREATE TABLE log_state (
    singleton  INTEGER PRIMARY KEY CHECK (singleton = 1),
    epoch      INTEGER NOT NULL,
    trimmed_to INTEGER NOT NULL
) STRICT;

-- Up to where the history has the log: everything before `committed`.
CREATE TABLE log_group (
    broker_partition INTEGER PRIMARY KEY,
    committed        INTEGER NOT NULL
) STRICT;

-- Records that can have no effect, kept for an operator after retention removed them from the log.
CREATE TABLE dead_letters (
    position    INTEGER PRIMARY KEY,
    error_class TEXT    NOT NULL,
    appended_at INTEGER NOT NULL,
    scope       TEXT    NOT NULL,
    value       BLOB    NOT NULL
) STRICT;

-- The history. A scope's messages stand together, in order.
CREATE TABLE chat_messages (
    scope            TEXT    NOT NULL,
    segment          INTEGER NOT NULL,
    position         INTEGER NOT NULL,
    message_id       BLOB    NOT NULL,
    sender_id        TEXT    NOT NULL,
    text             TEXT    NOT NULL,
    created_at       INTEGER NOT NULL,
    origin_pod_id    TEXT    NOT NULL,
    broker_partition INTEGER NOT NULL,
    PRIMARY KEY (scope, segment, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE scope_segments (
    scope            TEXT    NOT NULL,
    segment          INTEGER NOT NULL,
    first_created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, segment)
) STRICT, WITHOUT ROWID;

-- Two senders may use the same id, in the same scope or in two.
CREATE TABLE messages_by_id (
    message_id BLOB    NOT NULL,
    scope      TEXT    NOT NULL,
    sender_id  TEXT    NOT NULL,
    segment    INTEGER NOT NULL,
    position   INTEGER NOT NULL,
    PRIMARY KEY (message_id, scope, sender_id)
) STRICT, WITHOUT ROWID;

-- Each row carries a checksum of what readers are given of it, so that a disk that returns other bytes than it was given is noticed and no changed text
-- is ever shown. Rows that are there already get theirs in the same transaction.
ALTER TABLE log_records ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chat_messages ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE scope_segments ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;

-- Rows that wait for the database, oldest first. The message is a serialised WriteMeasurementsRequest, Recording or
-- PutAcquisitionRequest, as the kind says; measurements of one entry are of one acquisition.
CREATE TABLE waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    accepted_unix_ns INTEGER NOT NULL,
    kind TEXT NOT NULL,
    task_id TEXT NOT NULL,
    receiver_id TEXT NOT NULL,
    row_count INTEGER NOT NULL,
    message BLOB NOT NULL
) STRICT;

-- Finds what waits of an acquisition, and the newest state of a recording or an acquisition.
CREATE INDEX waiting_by_key ON waiting (kind, task_id, receiver_id, number);

-- Rows that the database refused, and why.
CREATE TABLE dead_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    accepted_unix_ns INTEGER NOT NULL,
    refused_unix_ns INTEGER NOT NULL,
    kind TEXT NOT NULL,
    task_id TEXT NOT NULL,
    receiver_id TEXT NOT NULL,
    row_count INTEGER NOT NULL,
    message BLOB NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;

-- How many rows there are of either, kept by the triggers below: counting them takes long where there are many.
CREATE TABLE totals (
    waiting_count INTEGER NOT NULL,
    dead_letter_count INTEGER NOT NULL
) STRICT;

INSERT INTO totals (waiting_count, dead_letter_count) VALUES (0, 0);

CREATE TRIGGER waiting_came AFTER INSERT ON waiting BEGIN
    UPDATE totals SET waiting_count = waiting_count + NEW.row_count;
END;

CREATE TRIGGER waiting_left AFTER DELETE ON waiting BEGIN
    UPDATE totals SET waiting_count = waiting_count - OLD.row_count;
END;

CREATE TRIGGER dead_letter_came AFTER INSERT ON dead_letters BEGIN
    UPDATE totals SET dead_letter_count = dead_letter_count + 1;
END;

CREATE TRIGGER dead_letter_left AFTER DELETE ON dead_letters BEGIN
    UPDATE totals SET dead_letter_count = dead_letter_count - 1;
END;

-- name: append
-- Puts rows behind all that wait.
INSERT INTO waiting (accepted_unix_ns, kind, task_id, receiver_id, row_count, message)
VALUES (:accepted_unix_ns, :kind, :task_id, :receiver_id, :row_count, :message);

-- name: newest
-- Returns the newest state that waits of a recording or an acquisition.
SELECT message FROM waiting
WHERE kind = :kind AND task_id = :task_id AND receiver_id = :receiver_id
ORDER BY number DESC LIMIT 1;

-- name: any_of_kind
-- Returns a row if any of the kind waits.
SELECT 1 FROM waiting WHERE kind = :kind LIMIT 1;

-- name: any_of_task
-- Returns a row if any of the kind and acquisition waits.
SELECT 1 FROM waiting WHERE kind = :kind AND task_id = :task_id LIMIT 1;

-- name: oldest
-- Looks at the oldest that wait.
SELECT number, kind, row_count, length(message) AS size_bytes FROM waiting ORDER BY number LIMIT :limit;

-- name: up_to
-- Returns the oldest that wait, up to a number.
SELECT number, accepted_unix_ns, kind, task_id, receiver_id, row_count, message FROM waiting
WHERE number <= :last ORDER BY number;

-- name: remove
-- Removes one that waits.
DELETE FROM waiting WHERE number = :number;

-- name: bury
-- Keeps rows that the database refused.
INSERT INTO dead_letters
    (accepted_unix_ns, refused_unix_ns, kind, task_id, receiver_id, row_count, message, reason, detail)
VALUES
    (:accepted_unix_ns, :refused_unix_ns, :kind, :task_id, :receiver_id, :row_count, :message, :reason, :detail);

-- name: totals
-- Counts rows.
SELECT waiting_count, dead_letter_count FROM totals;

-- name: dead_letters
-- Returns every dead letter, the oldest first.
SELECT number, accepted_unix_ns, refused_unix_ns, kind, task_id, receiver_id, row_count, message, reason, detail
FROM dead_letters ORDER BY number;

-- name: dead_letter_numbers
-- Returns the numbers of the dead letters.
SELECT number FROM dead_letters ORDER BY number;

-- name: retry
-- Puts a dead letter behind all that wait.
INSERT INTO waiting (accepted_unix_ns, kind, task_id, receiver_id, row_count, message)
SELECT accepted_unix_ns, kind, task_id, receiver_id, row_count, message FROM dead_letters WHERE number = :number;

-- name: drop
-- Removes a dead letter.
DELETE FROM dead_letters WHERE number = :number;

-- name: chunk_interval
-- Returns how long the chunks are that a hypertable makes from now on.
SELECT time_interval FROM timescaledb_information.dimensions
WHERE hypertable_schema = current_schema AND hypertable_name = :table;

-- name: set_chunk_interval
-- Sets it.
SELECT set_chunk_time_interval(CAST(CAST(:table AS text) AS regclass), CAST(:length AS interval));

-- name: policies
-- Returns the jobs of a hypertable or continuous aggregate, with the ages that they work with.
SELECT
    proc_name, schedule_interval, CAST(config ->> 'compress_after' AS interval) AS compress_after,
    CAST(config ->> 'drop_after' AS interval) AS drop_after, CAST(config ->> 'start_offset' AS interval) AS start_offset,
    CAST(config ->> 'end_offset' AS interval) AS end_offset
FROM timescaledb_information.jobs
WHERE hypertable_schema = current_schema AND hypertable_name = :table;

-- name: remove_policy_compression
-- Ends the compression of old chunks.
SELECT remove_compression_policy(CAST(CAST(:table AS text) AS regclass));

-- name: add_policy_compression
-- Compresses chunks of this age.
SELECT add_compression_policy(CAST(CAST(:table AS text) AS regclass), CAST(:age AS interval));

-- name: remove_policy_retention
-- Ends the deletion of old chunks.
SELECT remove_retention_policy(CAST(CAST(:table AS text) AS regclass));

-- name: add_policy_retention
-- Deletes chunks of this age.
SELECT add_retention_policy(CAST(CAST(:table AS text) AS regclass), CAST(:age AS interval));

-- name: remove_refresh
-- Ends the refresh of the hourly aggregate.
SELECT remove_continuous_aggregate_policy('measurements_hourly');

-- name: add_refresh
-- Refreshes the hourly aggregate between two ages, again and again.
SELECT add_continuous_aggregate_policy(
    'measurements_hourly',
    start_offset => CAST(:start_offset AS interval),
    end_offset => CAST(:end_offset AS interval),
    schedule_interval => CAST(:schedule_interval AS interval)
);

-- name: recordings_of
-- Returns where the samples of some recordings are and what became of them.
SELECT task_id, receiver_id, object_key, state
FROM unnest(CAST(:task_ids AS text[]), CAST(:receiver_ids AS text[])) AS wanted (task_id, receiver_id)
JOIN recordings USING (task_id, receiver_id);

-- name: known_measurements
-- Returns which summaries of some recordings are there, within a day of those that come, which no acquisition reaches. What
-- lies outside these days, in compressed chunks, is not looked at.
SELECT stored.task_id, stored.receiver_id, 0 AS first_sample_index
FROM unnest(CAST(:task_ids AS text[]), CAST(:receiver_ids AS text[])) AS wanted (task_id, receiver_id)
CROSS JOIN LATERAL (
    SELECT task_id, receiver_id FROM measurements
    WHERE measurements.task_id = wanted.task_id
        AND measurements.receiver_id = wanted.receiver_id
        AND measurements.time >= CAST(:first_time AS timestamptz) - INTERVAL '1 day'
        AND measurements.time <= CAST(:last_time AS timestamptz) + INTERVAL '1 day'
    OFFSET 0
) AS stored;

-- name: known_measurement_windows
-- Returns which windows of some recordings are there, between the first and the last that come; otherwise as above.
SELECT stored.task_id, stored.receiver_id, stored.first_sample_index
FROM unnest(
    CAST(:task_ids AS text[]), CAST(:receiver_ids AS text[]),
    CAST(:first_indices AS bigint[]), CAST(:last_indices AS bigint[])
) AS wanted (task_id, receiver_id, first_index, last_index)
CROSS JOIN LATERAL (
    SELECT task_id, receiver_id, first_sample_index FROM measurement_windows
    WHERE measurement_windows.task_id = wanted.task_id
        AND measurement_windows.receiver_id = wanted.receiver_id
        AND measurement_windows.first_sample_index >= wanted.first_index
        AND measurement_windows.first_sample_index <= wanted.last_index
        AND measurement_windows.time >= CAST(:first_time AS timestamptz) - INTERVAL '1 day'
        AND measurement_windows.time <= CAST(:last_time AS timestamptz) + INTERVAL '1 day'
    OFFSET 0
) AS stored;

-- name: insert_rows
-- Inserts measurements where COPY can not be used: one array a column.
INSERT INTO {table} (
    time, task_id, receiver_id, first_sample_index, first_sample_unix_ns, frequency_hz, sample_rate_hz,
    sample_count, lost_sample_count, duration_s, power_dbfs, power_dbm, noise_dbfs_per_hz, snr_db,
    snr_bandwidth_hz, carrier_to_noise_density_db_hz, frequency_offset_hz, frequency_offset_sigma_hz,
    occupied_bandwidth_hz, frequency_drift_hz_per_s, frequency_scatter_hz, x_db_bandwidth_hz, kurtosis,
    crest_factor_db, spectral_flatness_ratio, overload_ratio, clipped_ratio, wrapped_ratio, dc_offset_dbfs,
    image_ratio_db, estimate_details, spectrum, products, time_source,
    object_key, state
)
SELECT * FROM unnest(
    CAST(:time AS timestamptz[]),
    CAST(:task_id AS text[]),
    CAST(:receiver_id AS text[]),
    CAST(:first_sample_index AS bigint[]),
    CAST(:first_sample_unix_ns AS bigint[]),
    CAST(:frequency_hz AS double precision[]),
    CAST(:sample_rate_hz AS double precision[]),
    CAST(:sample_count AS bigint[]),
    CAST(:lost_sample_count AS bigint[]),
    CAST(:duration_s AS double precision[]),
    CAST(:power_dbfs AS double precision[]),
    CAST(:power_dbm AS double precision[]),
    CAST(:noise_dbfs_per_hz AS double precision[]),
    CAST(:snr_db AS double precision[]),
    CAST(:snr_bandwidth_hz AS double precision[]),
    CAST(:carrier_to_noise_density_db_hz AS double precision[]),
    CAST(:frequency_offset_hz AS double precision[]),
    CAST(:frequency_offset_sigma_hz AS double precision[]),
    CAST(:occupied_bandwidth_hz AS double precision[]),
    CAST(:frequency_drift_hz_per_s AS double precision[]),
    CAST(:frequency_scatter_hz AS double precision[]),
    CAST(:x_db_bandwidth_hz AS double precision[]),
    CAST(:kurtosis AS double precision[]),
    CAST(:crest_factor_db AS double precision[]),
    CAST(:spectral_flatness_ratio AS double precision[]),
    CAST(:overload_ratio AS double precision[]),
    CAST(:clipped_ratio AS double precision[]),
    CAST(:wrapped_ratio AS double precision[]),
    CAST(:dc_offset_dbfs AS double precision[]),
    CAST(:image_ratio_db AS double precision[]),
    CAST(:estimate_details AS jsonb[]),
    CAST(:spectrum AS bytea[]),
    CAST(:products AS bytea[]),
    CAST(:time_source AS text[]),
    CAST(:object_key AS text[]),
    CAST(:state AS text[])
);

-- name: select_summary
-- Returns a page of summary rows, newest first; the conditions are put in by the store.
SELECT
    time, task_id, receiver_id, first_sample_index, first_sample_unix_ns, frequency_hz, sample_rate_hz,
    sample_count, lost_sample_count, duration_s, power_dbfs, power_dbm, noise_dbfs_per_hz, snr_db,
    snr_bandwidth_hz, carrier_to_noise_density_db_hz, frequency_offset_hz, frequency_offset_sigma_hz,
    occupied_bandwidth_hz, frequency_drift_hz_per_s, frequency_scatter_hz, x_db_bandwidth_hz, kurtosis,
    crest_factor_db, spectral_flatness_ratio, overload_ratio, clipped_ratio, wrapped_ratio, dc_offset_dbfs,
    image_ratio_db, estimate_details, spectrum, products, time_source
FROM measurements
WHERE time <= :after_time
    AND (first_sample_unix_ns, task_id, receiver_id, first_sample_index)
    < (:after_0, :after_1, :after_2, :after_3)
    {conditions}
ORDER BY time DESC, first_sample_unix_ns DESC, task_id DESC, receiver_id DESC, first_sample_index DESC
LIMIT :limit;

-- name: mark_summary
-- Tells the summary rows of a recording where its samples are and what became of it.
UPDATE measurements SET object_key = CAST(:object_key AS text), state = CAST(:state AS text)
WHERE task_id = :task_id AND receiver_id = :receiver_id
    AND time >= CAST(:time AS timestamptz) - INTERVAL '1 day'
    AND time <= CAST(:time AS timestamptz) + INTERVAL '1 day'
    AND (object_key, state) IS DISTINCT FROM (CAST(:object_key AS text), CAST(:state AS text));

-- name: select_window
-- Returns a page of window rows, newest first; the conditions are put in by the store.
SELECT
    time, task_id, receiver_id, first_sample_index, first_sample_unix_ns, frequency_hz, sample_rate_hz,
    sample_count, lost_sample_count, duration_s, power_dbfs, power_dbm, noise_dbfs_per_hz, snr_db,
    snr_bandwidth_hz, carrier_to_noise_density_db_hz, frequency_offset_hz, frequency_offset_sigma_hz,
    occupied_bandwidth_hz, frequency_drift_hz_per_s, frequency_scatter_hz, x_db_bandwidth_hz, kurtosis,
    crest_factor_db, spectral_flatness_ratio, overload_ratio, clipped_ratio, wrapped_ratio, dc_offset_dbfs,
    image_ratio_db, estimate_details, spectrum, products, time_source
FROM measurement_windows
WHERE time <= :after_time
    AND (first_sample_unix_ns, task_id, receiver_id, first_sample_index)
    < (:after_0, :after_1, :after_2, :after_3)
    {conditions}
ORDER BY time DESC, first_sample_unix_ns DESC, task_id DESC, receiver_id DESC, first_sample_index DESC
LIMIT :limit;

-- name: mark_window
-- Tells the window rows of a recording where its samples are and what became of it.
UPDATE measurement_windows SET object_key = CAST(:object_key AS text), state = CAST(:state AS text)
WHERE task_id = :task_id AND receiver_id = :receiver_id
    AND time >= CAST(:time AS timestamptz) - INTERVAL '1 day'
    AND time <= CAST(:time AS timestamptz) + INTERVAL '1 day'
    AND (object_key, state) IS DISTINCT FROM (CAST(:object_key AS text), CAST(:state AS text));

-- name: put_recording
-- Makes or replaces a recording; returns nothing if one is stored already with other samples, or complete while this one
-- is not: it stays. One that is stored without samples gives way to any.
INSERT INTO recordings (
    time, task_id, receiver_id, window_start_unix_ns, window_end_unix_ns, frequency_hz, sample_rate_hz,
    sample_count, lost_sample_count, gap_count, state, complete, object_key, data_sha512,
    data_size_bytes, message
) VALUES (
    :time, :task_id, :receiver_id, :window_start_unix_ns, :window_end_unix_ns, :frequency_hz,
    :sample_rate_hz, :sample_count, :lost_sample_count, :gap_count, :state, :complete, :object_key,
    :data_sha512, :data_size_bytes, :message
) ON CONFLICT (task_id, receiver_id) DO UPDATE SET
    time = excluded.time,
    window_start_unix_ns = excluded.window_start_unix_ns,
    window_end_unix_ns = excluded.window_end_unix_ns,
    frequency_hz = excluded.frequency_hz,
    sample_rate_hz = excluded.sample_rate_hz,
    sample_count = excluded.sample_count,
    lost_sample_count = excluded.lost_sample_count,
    gap_count = excluded.gap_count,
    state = excluded.state,
    complete = excluded.complete,
    object_key = excluded.object_key,
    data_sha512 = excluded.data_sha512,
    data_size_bytes = excluded.data_size_bytes,
    message = excluded.message
WHERE recordings.state <> 'STORED'
    OR recordings.data_sha512 IS NULL
    OR (recordings.data_sha512 = excluded.data_sha512 AND (excluded.complete OR NOT recordings.complete))
RETURNING state;

-- name: get_recording
-- Returns one recording.
SELECT message FROM recordings WHERE task_id = :task_id AND receiver_id = :receiver_id;

-- name: select_recording
-- Returns a page of recordings, newest window first; the conditions are put in by the store.
SELECT message FROM recordings
WHERE time <= :after_time
    AND (window_start_unix_ns, task_id, receiver_id) < (:after_0, :after_1, :after_2)
    {conditions}
ORDER BY time DESC, window_start_unix_ns DESC, task_id DESC, receiver_id DESC
LIMIT :limit;

-- name: put_acquisition
-- Makes or replaces an acquisition that is at the expected revision; returns nothing if it is not.
INSERT INTO acquisitions (task_id, time, create_unix_ns, request_id, state, revision, message)
VALUES (:task_id, :time, :create_unix_ns, :request_id, :state, :revision, :message)
ON CONFLICT (task_id) DO UPDATE SET
    time = excluded.time,
    create_unix_ns = excluded.create_unix_ns,
    request_id = excluded.request_id,
    state = excluded.state,
    revision = excluded.revision,
    message = excluded.message
WHERE acquisitions.revision = :expected_revision
RETURNING revision;

-- name: get_acquisition
-- Returns one acquisition.
SELECT message FROM acquisitions WHERE task_id = :task_id;

-- name: select_acquisition
-- Returns a page of acquisitions, newest first; the conditions are put in by the store.
SELECT message FROM acquisitions
WHERE (create_unix_ns, task_id) < (:after_0, :after_1)
    {conditions}
ORDER BY create_unix_ns DESC, task_id DESC
LIMIT :limit;

-- name: aggregate_summary
-- Returns a page of the hourly aggregates put together to longer buckets, newest bucket first.
WITH hourly AS (
    SELECT
        *, CAST(extract(epoch FROM time) AS bigint) / (CAST(:bucket_hours AS bigint) * 3600) AS bucket,
        CAST(extract(epoch FROM time) AS bigint) * 1000000000 AS first_sample_unix_ns
    FROM measurements_hourly
), centred AS (
    SELECT
        *,
        sum(frequency_offset_hz_count * frequency_offset_hz_mean) OVER same / nullif(sum(frequency_offset_hz_count) OVER same, 0) AS frequency_offset_hz_centre,
        sum(occupied_bandwidth_hz_count * occupied_bandwidth_hz_mean) OVER same / nullif(sum(occupied_bandwidth_hz_count) OVER same, 0) AS occupied_bandwidth_hz_centre
    FROM hourly
    WHERE (-bucket, receiver_id, frequency_hz)
        > (-(CAST(:after_0 AS bigint) / (CAST(:bucket_hours AS bigint) * 3600)), CAST(:after_1 AS text), :after_2)
        {conditions}
    WINDOW same AS (PARTITION BY bucket, receiver_id, frequency_hz)
)
SELECT
    bucket * CAST(:bucket_hours AS bigint) * 3600 AS bucket_start_s, receiver_id, frequency_hz,
    CAST(sum(measurement_count) AS bigint) AS measurement_count, CAST(sum(sample_count) AS bigint) AS sample_count,
    CAST(sum(lost_sample_count) AS bigint) AS lost_sample_count,
    CAST(sum(power_dbfs_count) AS bigint) AS power_dbfs_count,
    10 * log(sum(power_dbfs_count * power(10::double precision, power_dbfs_mean / 10)) / nullif(sum(power_dbfs_count), 0)) AS power_dbfs_mean,
    min(power_dbfs_min) AS power_dbfs_min, max(power_dbfs_max) AS power_dbfs_max,
    CAST(sum(power_dbm_count) AS bigint) AS power_dbm_count,
    10 * log(sum(power_dbm_count * power(10::double precision, power_dbm_mean / 10)) / nullif(sum(power_dbm_count), 0)) AS power_dbm_mean,
    min(power_dbm_min) AS power_dbm_min, max(power_dbm_max) AS power_dbm_max,
    CAST(sum(noise_dbfs_per_hz_count) AS bigint) AS noise_dbfs_per_hz_count,
    10 * log(sum(noise_dbfs_per_hz_count * power(10::double precision, noise_dbfs_per_hz_mean / 10)) / nullif(sum(noise_dbfs_per_hz_count), 0)) AS noise_dbfs_per_hz_mean,
    min(noise_dbfs_per_hz_min) AS noise_dbfs_per_hz_min, max(noise_dbfs_per_hz_max) AS noise_dbfs_per_hz_max,
    CAST(sum(snr_db_count) AS bigint) AS snr_db_count,
    10 * log(sum(snr_db_count * power(10::double precision, snr_db_mean / 10)) / nullif(sum(snr_db_count), 0)) AS snr_db_mean,
    min(snr_db_min) AS snr_db_min, max(snr_db_max) AS snr_db_max,
    CAST(sum(frequency_offset_hz_count) AS bigint) AS frequency_offset_hz_count,
    sum(frequency_offset_hz_count * frequency_offset_hz_mean) / nullif(sum(frequency_offset_hz_count), 0) AS frequency_offset_hz_mean,
    sum(
        coalesce((frequency_offset_hz_count - 1) * power(frequency_offset_hz_standard_deviation, 2), 0)
        + frequency_offset_hz_count * power(frequency_offset_hz_mean - frequency_offset_hz_centre, 2)
    ) / nullif(sum(frequency_offset_hz_count) - 1, 0) AS frequency_offset_hz_variance,
    min(frequency_offset_hz_min) AS frequency_offset_hz_min, max(frequency_offset_hz_max) AS frequency_offset_hz_max,
    CAST(sum(occupied_bandwidth_hz_count) AS bigint) AS occupied_bandwidth_hz_count,
    sum(occupied_bandwidth_hz_count * occupied_bandwidth_hz_mean) / nullif(sum(occupied_bandwidth_hz_count), 0) AS occupied_bandwidth_hz_mean,
    sum(
        coalesce((occupied_bandwidth_hz_count - 1) * power(occupied_bandwidth_hz_standard_deviation, 2), 0)
        + occupied_bandwidth_hz_count * power(occupied_bandwidth_hz_mean - occupied_bandwidth_hz_centre, 2)
    ) / nullif(sum(occupied_bandwidth_hz_count) - 1, 0) AS occupied_bandwidth_hz_variance,
    min(occupied_bandwidth_hz_min) AS occupied_bandwidth_hz_min, max(occupied_bandwidth_hz_max) AS occupied_bandwidth_hz_max
FROM centred
GROUP BY bucket, receiver_id, frequency_hz
ORDER BY bucket DESC, receiver_id, frequency_hz
LIMIT :limit;

-- name: ping
-- Writes, and leaves one row.
INSERT INTO pings (singleton, time) VALUES (TRUE, now()) ON CONFLICT (singleton) DO UPDATE SET time = excluded.time;

-- name: lock_migrations
-- Waits until nobody else migrates this database; the number is heimdall's own.
SELECT pg_advisory_lock(4853494141);

-- name: unlock_migrations
-- Lets the next one migrate.
SELECT pg_advisory_unlock(4853494141);

-- name: extension_facts
-- Returns what is known of TimescaleDB: whether it is made, could be made, is loaded, and under which licence it runs.
SELECT
    EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AS is_made,
    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') AS is_available,
    current_setting('timescaledb.disable_load', TRUE) IS NOT NULL AS is_loaded,
    current_setting('timescaledb.license', TRUE) AS licence;

-- name: make_extension
-- Makes TimescaleDB in this database.
CREATE EXTENSION IF NOT EXISTS timescaledb;

-- name: find_migrations
-- Returns whether any migration was applied.
SELECT to_regclass('schema_migrations') IS NOT NULL AS is_there;

-- name: applied_migrations
-- Returns the numbers of the migrations that were applied.
SELECT number FROM schema_migrations;

-- name: note_migration
-- Notes that a migration was applied, in its own transaction.
INSERT INTO schema_migrations (number, name) VALUES (:number, :name);

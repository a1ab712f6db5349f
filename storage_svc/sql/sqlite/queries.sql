-- name: insert_summary
-- Stores a summary unless one of the same key is there; knows the recording if that is finished already.
INSERT INTO measurements (
    time, task_id, receiver_id, first_sample_index, first_sample_unix_ns, frequency_hz, sample_rate_hz,
    sample_count, lost_sample_count, duration_s, power_dbfs, power_dbm, noise_dbfs_per_hz, snr_db,
    snr_bandwidth_hz, carrier_to_noise_density_db_hz, frequency_offset_hz, frequency_offset_sigma_hz,
    occupied_bandwidth_hz, overload_ratio, estimate_details, spectrum, time_source,
    frequency_drift_hz_per_s, frequency_scatter_hz, x_db_bandwidth_hz, kurtosis, crest_factor_db,
    spectral_flatness_ratio, clipped_ratio, wrapped_ratio, dc_offset_dbfs, image_ratio_db, products,
    object_key, state
) VALUES (
    :time, :task_id, :receiver_id, :first_sample_index, :first_sample_unix_ns, :frequency_hz,
    :sample_rate_hz, :sample_count, :lost_sample_count, :duration_s, :power_dbfs, :power_dbm,
    :noise_dbfs_per_hz, :snr_db, :snr_bandwidth_hz, :carrier_to_noise_density_db_hz,
    :frequency_offset_hz, :frequency_offset_sigma_hz, :occupied_bandwidth_hz, :overload_ratio,
    :estimate_details, :spectrum, :time_source,
    :frequency_drift_hz_per_s, :frequency_scatter_hz, :x_db_bandwidth_hz, :kurtosis, :crest_factor_db,
    :spectral_flatness_ratio, :clipped_ratio, :wrapped_ratio, :dc_offset_dbfs, :image_ratio_db, :products,
    (SELECT object_key FROM recordings WHERE task_id = :task_id AND receiver_id = :receiver_id),
    (SELECT state FROM recordings WHERE task_id = :task_id AND receiver_id = :receiver_id)
) ON CONFLICT (task_id, receiver_id) DO NOTHING;

-- name: select_summary
-- Returns a page of summary rows, newest first; the conditions are put in by the store.
SELECT
    time, task_id, receiver_id, first_sample_index, first_sample_unix_ns, frequency_hz, sample_rate_hz,
    sample_count, lost_sample_count, duration_s, power_dbfs, power_dbm, noise_dbfs_per_hz, snr_db,
    snr_bandwidth_hz, carrier_to_noise_density_db_hz, frequency_offset_hz, frequency_offset_sigma_hz,
    occupied_bandwidth_hz, overload_ratio, estimate_details, spectrum, time_source,
    frequency_drift_hz_per_s, frequency_scatter_hz, x_db_bandwidth_hz, kurtosis, crest_factor_db,
    spectral_flatness_ratio, clipped_ratio, wrapped_ratio, dc_offset_dbfs, image_ratio_db, products
FROM measurements
WHERE (first_sample_unix_ns, task_id, receiver_id, first_sample_index)
    < (:after_0, :after_1, :after_2, :after_3)
    {conditions}
ORDER BY first_sample_unix_ns DESC, task_id DESC, receiver_id DESC, first_sample_index DESC
LIMIT :limit;

-- name: mark_summary
-- Tells the summary rows of a recording where its samples are and what became of it.
UPDATE measurements SET object_key = :object_key, state = :state
WHERE task_id = :task_id AND receiver_id = :receiver_id;

-- name: insert_window
-- Stores a window unless one of the same key is there; knows the recording if that is finished already.
INSERT INTO measurement_windows (
    time, task_id, receiver_id, first_sample_index, first_sample_unix_ns, frequency_hz, sample_rate_hz,
    sample_count, lost_sample_count, duration_s, power_dbfs, power_dbm, noise_dbfs_per_hz, snr_db,
    snr_bandwidth_hz, carrier_to_noise_density_db_hz, frequency_offset_hz, frequency_offset_sigma_hz,
    occupied_bandwidth_hz, overload_ratio, estimate_details, spectrum, time_source,
    frequency_drift_hz_per_s, frequency_scatter_hz, x_db_bandwidth_hz, kurtosis, crest_factor_db,
    spectral_flatness_ratio, clipped_ratio, wrapped_ratio, dc_offset_dbfs, image_ratio_db, products,
    object_key, state
) VALUES (
    :time, :task_id, :receiver_id, :first_sample_index, :first_sample_unix_ns, :frequency_hz,
    :sample_rate_hz, :sample_count, :lost_sample_count, :duration_s, :power_dbfs, :power_dbm,
    :noise_dbfs_per_hz, :snr_db, :snr_bandwidth_hz, :carrier_to_noise_density_db_hz,
    :frequency_offset_hz, :frequency_offset_sigma_hz, :occupied_bandwidth_hz, :overload_ratio,
    :estimate_details, :spectrum, :time_source,
    :frequency_drift_hz_per_s, :frequency_scatter_hz, :x_db_bandwidth_hz, :kurtosis, :crest_factor_db,
    :spectral_flatness_ratio, :clipped_ratio, :wrapped_ratio, :dc_offset_dbfs, :image_ratio_db, :products,
    (SELECT object_key FROM recordings WHERE task_id = :task_id AND receiver_id = :receiver_id),
    (SELECT state FROM recordings WHERE task_id = :task_id AND receiver_id = :receiver_id)
) ON CONFLICT (task_id, receiver_id, first_sample_index) DO NOTHING;

-- name: select_window
-- Returns a page of window rows, newest first; the conditions are put in by the store.
SELECT
    time, task_id, receiver_id, first_sample_index, first_sample_unix_ns, frequency_hz, sample_rate_hz,
    sample_count, lost_sample_count, duration_s, power_dbfs, power_dbm, noise_dbfs_per_hz, snr_db,
    snr_bandwidth_hz, carrier_to_noise_density_db_hz, frequency_offset_hz, frequency_offset_sigma_hz,
    occupied_bandwidth_hz, overload_ratio, estimate_details, spectrum, time_source,
    frequency_drift_hz_per_s, frequency_scatter_hz, x_db_bandwidth_hz, kurtosis, crest_factor_db,
    spectral_flatness_ratio, clipped_ratio, wrapped_ratio, dc_offset_dbfs, image_ratio_db, products
FROM measurement_windows
WHERE (first_sample_unix_ns, task_id, receiver_id, first_sample_index)
    < (:after_0, :after_1, :after_2, :after_3)
    {conditions}
ORDER BY first_sample_unix_ns DESC, task_id DESC, receiver_id DESC, first_sample_index DESC
LIMIT :limit;

-- name: mark_window
-- Tells the window rows of a recording where its samples are and what became of it.
UPDATE measurement_windows SET object_key = :object_key, state = :state
WHERE task_id = :task_id AND receiver_id = :receiver_id;

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
WHERE (window_start_unix_ns, task_id, receiver_id) < (:after_0, :after_1, :after_2)
    {conditions}
ORDER BY window_start_unix_ns DESC, task_id DESC, receiver_id DESC
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
-- Returns a page of summaries summarised by bucket, receiver and frequency, newest bucket first; only valid values count.
-- The functions of ratios are those that `connect` defines.
WITH valid AS (
    SELECT
        first_sample_unix_ns / (:bucket_hours * 3600000000000) AS bucket, receiver_id, frequency_hz, sample_count,
        lost_sample_count,
        CASE json_extract(estimate_details, '$.power_dbfs.validity') WHEN 'VALID' THEN power_dbfs END AS power_dbfs,
        CASE json_extract(estimate_details, '$.power_dbm.validity') WHEN 'VALID' THEN power_dbm END AS power_dbm,
        CASE json_extract(estimate_details, '$.noise_dbfs_per_hz.validity') WHEN 'VALID' THEN noise_dbfs_per_hz END AS noise_dbfs_per_hz,
        CASE json_extract(estimate_details, '$.snr_db.validity') WHEN 'VALID' THEN snr_db END AS snr_db,
        CASE json_extract(estimate_details, '$.frequency_offset_hz.validity') WHEN 'VALID' THEN frequency_offset_hz END AS frequency_offset_hz,
        CASE json_extract(estimate_details, '$.occupied_bandwidth_hz.validity') WHEN 'VALID' THEN occupied_bandwidth_hz END AS occupied_bandwidth_hz
    FROM measurements
    WHERE (-(first_sample_unix_ns / (:bucket_hours * 3600000000000)), receiver_id, frequency_hz)
        > (-(:after_0 / (:bucket_hours * 3600)), :after_1, :after_2)
        {conditions}
), centred AS (
    SELECT
        *,
        frequency_offset_hz - avg(frequency_offset_hz) OVER same AS frequency_offset_hz_deviation,
        occupied_bandwidth_hz - avg(occupied_bandwidth_hz) OVER same AS occupied_bandwidth_hz_deviation
    FROM valid
    WINDOW same AS (PARTITION BY bucket, receiver_id, frequency_hz)
)
SELECT
    bucket * :bucket_hours * 3600 AS bucket_start_s, receiver_id, frequency_hz, count(*) AS measurement_count,
    sum(sample_count) AS sample_count, sum(lost_sample_count) AS lost_sample_count,
    count(power_dbfs) AS power_dbfs_count, decibels(avg(ratio(power_dbfs))) AS power_dbfs_mean,
    min(power_dbfs) AS power_dbfs_min, max(power_dbfs) AS power_dbfs_max,
    count(power_dbm) AS power_dbm_count, decibels(avg(ratio(power_dbm))) AS power_dbm_mean,
    min(power_dbm) AS power_dbm_min, max(power_dbm) AS power_dbm_max,
    count(noise_dbfs_per_hz) AS noise_dbfs_per_hz_count, decibels(avg(ratio(noise_dbfs_per_hz))) AS noise_dbfs_per_hz_mean,
    min(noise_dbfs_per_hz) AS noise_dbfs_per_hz_min, max(noise_dbfs_per_hz) AS noise_dbfs_per_hz_max,
    count(snr_db) AS snr_db_count, decibels(avg(ratio(snr_db))) AS snr_db_mean,
    min(snr_db) AS snr_db_min, max(snr_db) AS snr_db_max,
    count(frequency_offset_hz) AS frequency_offset_hz_count, avg(frequency_offset_hz) AS frequency_offset_hz_mean,
    sum(frequency_offset_hz_deviation * frequency_offset_hz_deviation) / (count(frequency_offset_hz) - 1) AS frequency_offset_hz_variance,
    min(frequency_offset_hz) AS frequency_offset_hz_min, max(frequency_offset_hz) AS frequency_offset_hz_max,
    count(occupied_bandwidth_hz) AS occupied_bandwidth_hz_count, avg(occupied_bandwidth_hz) AS occupied_bandwidth_hz_mean,
    sum(occupied_bandwidth_hz_deviation * occupied_bandwidth_hz_deviation) / (count(occupied_bandwidth_hz) - 1) AS occupied_bandwidth_hz_variance,
    min(occupied_bandwidth_hz) AS occupied_bandwidth_hz_min, max(occupied_bandwidth_hz) AS occupied_bandwidth_hz_max
FROM centred
GROUP BY bucket, receiver_id, frequency_hz
ORDER BY bucket DESC, receiver_id, frequency_hz
LIMIT :limit;

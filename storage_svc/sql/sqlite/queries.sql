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
-- Makes or replaces a recording.
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
    message = excluded.message;

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
-- Makes or replaces an acquisition; the revision was compared in the same transaction.
INSERT INTO acquisitions (task_id, time, create_unix_ns, request_id, state, revision, message)
VALUES (:task_id, :time, :create_unix_ns, :request_id, :state, :revision, :message)
ON CONFLICT (task_id) DO UPDATE SET
    time = excluded.time,
    create_unix_ns = excluded.create_unix_ns,
    request_id = excluded.request_id,
    state = excluded.state,
    revision = excluded.revision,
    message = excluded.message;

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

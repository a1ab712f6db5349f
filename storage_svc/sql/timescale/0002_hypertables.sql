-- Summaries by time, in chunks.
SELECT create_hypertable('measurements', by_range('time'), create_default_indexes => FALSE, migrate_data => TRUE);

-- Windows by time, in chunks.
SELECT create_hypertable('measurement_windows', by_range('time'), create_default_indexes => FALSE, migrate_data => TRUE);

-- Old summaries are compressed by receiver: there is one a receiver and acquisition.
ALTER TABLE measurements SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'receiver_id',
    timescaledb.compress_orderby = 'time, task_id'
);

-- Old windows are compressed by recording: that is how they are read.
ALTER TABLE measurement_windows SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'task_id, receiver_id',
    timescaledb.compress_orderby = 'time, first_sample_index'
);

-- The ordinary view makes place.
DROP VIEW measurements_hourly;

-- The same columns, kept up to date; what is newer than the last refresh is summarised when asked.
CREATE MATERIALIZED VIEW measurements_hourly
WITH (timescaledb.continuous, timescaledb.materialized_only = FALSE) AS
SELECT
    time_bucket(INTERVAL '1 hour', time) AS time,
    receiver_id,
    frequency_hz,
    count(*) AS measurement_count,
    sum(sample_count) AS sample_count,
    sum(lost_sample_count) AS lost_sample_count,
    count(CASE estimate_details -> 'power_dbfs' ->> 'validity' WHEN 'VALID' THEN power_dbfs END)
        AS power_dbfs_count,
    10 * log(avg(power(10::double precision, CASE estimate_details -> 'power_dbfs' ->> 'validity' WHEN 'VALID' THEN power_dbfs / 10 END)))
        AS power_dbfs_mean,
    min(CASE estimate_details -> 'power_dbfs' ->> 'validity' WHEN 'VALID' THEN power_dbfs END)
        AS power_dbfs_min,
    max(CASE estimate_details -> 'power_dbfs' ->> 'validity' WHEN 'VALID' THEN power_dbfs END)
        AS power_dbfs_max,
    count(CASE estimate_details -> 'power_dbm' ->> 'validity' WHEN 'VALID' THEN power_dbm END)
        AS power_dbm_count,
    10 * log(avg(power(10::double precision, CASE estimate_details -> 'power_dbm' ->> 'validity' WHEN 'VALID' THEN power_dbm / 10 END)))
        AS power_dbm_mean,
    min(CASE estimate_details -> 'power_dbm' ->> 'validity' WHEN 'VALID' THEN power_dbm END)
        AS power_dbm_min,
    max(CASE estimate_details -> 'power_dbm' ->> 'validity' WHEN 'VALID' THEN power_dbm END)
        AS power_dbm_max,
    count(CASE estimate_details -> 'noise_dbfs_per_hz' ->> 'validity' WHEN 'VALID' THEN noise_dbfs_per_hz END)
        AS noise_dbfs_per_hz_count,
    10 * log(avg(power(10::double precision, CASE estimate_details -> 'noise_dbfs_per_hz' ->> 'validity' WHEN 'VALID' THEN noise_dbfs_per_hz / 10 END)))
        AS noise_dbfs_per_hz_mean,
    min(CASE estimate_details -> 'noise_dbfs_per_hz' ->> 'validity' WHEN 'VALID' THEN noise_dbfs_per_hz END)
        AS noise_dbfs_per_hz_min,
    max(CASE estimate_details -> 'noise_dbfs_per_hz' ->> 'validity' WHEN 'VALID' THEN noise_dbfs_per_hz END)
        AS noise_dbfs_per_hz_max,
    count(CASE estimate_details -> 'snr_db' ->> 'validity' WHEN 'VALID' THEN snr_db END)
        AS snr_db_count,
    10 * log(avg(power(10::double precision, CASE estimate_details -> 'snr_db' ->> 'validity' WHEN 'VALID' THEN snr_db / 10 END)))
        AS snr_db_mean,
    min(CASE estimate_details -> 'snr_db' ->> 'validity' WHEN 'VALID' THEN snr_db END)
        AS snr_db_min,
    max(CASE estimate_details -> 'snr_db' ->> 'validity' WHEN 'VALID' THEN snr_db END)
        AS snr_db_max,
    count(CASE estimate_details -> 'frequency_offset_hz' ->> 'validity' WHEN 'VALID' THEN frequency_offset_hz END)
        AS frequency_offset_hz_count,
    avg(CASE estimate_details -> 'frequency_offset_hz' ->> 'validity' WHEN 'VALID' THEN frequency_offset_hz END)
        AS frequency_offset_hz_mean,
    stddev_samp(CASE estimate_details -> 'frequency_offset_hz' ->> 'validity' WHEN 'VALID' THEN frequency_offset_hz END)
        AS frequency_offset_hz_standard_deviation,
    min(CASE estimate_details -> 'frequency_offset_hz' ->> 'validity' WHEN 'VALID' THEN frequency_offset_hz END)
        AS frequency_offset_hz_min,
    max(CASE estimate_details -> 'frequency_offset_hz' ->> 'validity' WHEN 'VALID' THEN frequency_offset_hz END)
        AS frequency_offset_hz_max,
    count(CASE estimate_details -> 'occupied_bandwidth_hz' ->> 'validity' WHEN 'VALID' THEN occupied_bandwidth_hz END)
        AS occupied_bandwidth_hz_count,
    avg(CASE estimate_details -> 'occupied_bandwidth_hz' ->> 'validity' WHEN 'VALID' THEN occupied_bandwidth_hz END)
        AS occupied_bandwidth_hz_mean,
    stddev_samp(CASE estimate_details -> 'occupied_bandwidth_hz' ->> 'validity' WHEN 'VALID' THEN occupied_bandwidth_hz END)
        AS occupied_bandwidth_hz_standard_deviation,
    min(CASE estimate_details -> 'occupied_bandwidth_hz' ->> 'validity' WHEN 'VALID' THEN occupied_bandwidth_hz END)
        AS occupied_bandwidth_hz_min,
    max(CASE estimate_details -> 'occupied_bandwidth_hz' ->> 'validity' WHEN 'VALID' THEN occupied_bandwidth_hz END)
        AS occupied_bandwidth_hz_max
FROM measurements
GROUP BY 1, 2, 3
WITH NO DATA;

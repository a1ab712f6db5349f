-- Migrations that were applied.
CREATE TABLE schema_migrations (
    number integer NOT NULL PRIMARY KEY,
    name text NOT NULL,
    time timestamptz NOT NULL DEFAULT now()
);

-- Summaries: one row a receiver and acquisition. A quantity that could not be measured is NULL; estimate_details has its reason.
-- The key needs the time for a hypertable; inserts look for a row of the same receiver and acquisition at another time.
CREATE TABLE measurements (
    time timestamptz NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    receiver_id text COLLATE "C" NOT NULL,
    first_sample_index bigint NOT NULL,
    first_sample_unix_ns bigint NOT NULL,
    frequency_hz double precision NOT NULL,
    sample_rate_hz double precision NOT NULL,
    sample_count bigint NOT NULL,
    lost_sample_count bigint NOT NULL,
    duration_s double precision,
    power_dbfs double precision,
    power_dbm double precision,
    noise_dbfs_per_hz double precision,
    snr_db double precision,
    snr_bandwidth_hz double precision,
    carrier_to_noise_density_db_hz double precision,
    frequency_offset_hz double precision,
    frequency_offset_sigma_hz double precision,
    occupied_bandwidth_hz double precision,
    frequency_drift_hz_per_s double precision,
    frequency_scatter_hz double precision,
    x_db_bandwidth_hz double precision,
    kurtosis double precision,
    crest_factor_db double precision,
    spectral_flatness_ratio double precision,
    overload_ratio double precision,
    clipped_ratio double precision,
    wrapped_ratio double precision,
    dc_offset_dbfs double precision,
    image_ratio_db double precision,
    estimate_details jsonb NOT NULL,
    spectrum bytea,
    products bytea,
    time_source text NOT NULL,
    object_key text,
    state text,
    PRIMARY KEY (task_id, receiver_id, time)
);

-- Summaries in the order of their time.
CREATE INDEX measurements_by_time
    ON measurements (time, first_sample_unix_ns, task_id, receiver_id, first_sample_index);

-- Summaries in the order of their frequency, then time.
CREATE INDEX measurements_by_frequency ON measurements (frequency_hz, time);

-- Windows: the same columns for one short stretch of a recording.
CREATE TABLE measurement_windows (
    time timestamptz NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    receiver_id text COLLATE "C" NOT NULL,
    first_sample_index bigint NOT NULL,
    first_sample_unix_ns bigint NOT NULL,
    frequency_hz double precision NOT NULL,
    sample_rate_hz double precision NOT NULL,
    sample_count bigint NOT NULL,
    lost_sample_count bigint NOT NULL,
    duration_s double precision,
    power_dbfs double precision,
    power_dbm double precision,
    noise_dbfs_per_hz double precision,
    snr_db double precision,
    snr_bandwidth_hz double precision,
    carrier_to_noise_density_db_hz double precision,
    frequency_offset_hz double precision,
    frequency_offset_sigma_hz double precision,
    occupied_bandwidth_hz double precision,
    frequency_drift_hz_per_s double precision,
    frequency_scatter_hz double precision,
    x_db_bandwidth_hz double precision,
    kurtosis double precision,
    crest_factor_db double precision,
    spectral_flatness_ratio double precision,
    overload_ratio double precision,
    clipped_ratio double precision,
    wrapped_ratio double precision,
    dc_offset_dbfs double precision,
    image_ratio_db double precision,
    estimate_details jsonb NOT NULL,
    spectrum bytea,
    products bytea,
    time_source text NOT NULL,
    object_key text,
    state text,
    PRIMARY KEY (task_id, receiver_id, first_sample_index, time)
);

-- Windows in the order of their time.
CREATE INDEX measurement_windows_by_time
    ON measurement_windows (time, first_sample_unix_ns, task_id, receiver_id, first_sample_index);

-- Windows in the order of their frequency, then time.
CREATE INDEX measurement_windows_by_frequency ON measurement_windows (frequency_hz, time);

-- Recordings: the columns are for searching, message holds the whole heimdall.common.v1.Recording.
CREATE TABLE recordings (
    time timestamptz NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    receiver_id text COLLATE "C" NOT NULL,
    window_start_unix_ns bigint NOT NULL,
    window_end_unix_ns bigint NOT NULL,
    frequency_hz double precision,
    sample_rate_hz double precision,
    sample_count bigint NOT NULL,
    lost_sample_count bigint NOT NULL,
    gap_count bigint NOT NULL,
    state text NOT NULL,
    complete boolean NOT NULL,
    object_key text,
    data_sha512 text,
    data_size_bytes bigint NOT NULL,
    message bytea NOT NULL,
    PRIMARY KEY (task_id, receiver_id)
);

-- Recordings in the order of their windows.
CREATE INDEX recordings_by_time ON recordings (time, window_start_unix_ns, task_id, receiver_id);

-- Recordings in the order of their frequency, then time.
CREATE INDEX recordings_by_frequency ON recordings (frequency_hz, time);

-- Acquisitions: the columns are for searching, message holds the whole heimdall.common.v1.Acquisition.
CREATE TABLE acquisitions (
    task_id text COLLATE "C" NOT NULL PRIMARY KEY,
    time timestamptz NOT NULL,
    create_unix_ns bigint NOT NULL,
    request_id text NOT NULL,
    state text NOT NULL,
    revision bigint NOT NULL,
    message bytea NOT NULL
);

-- Acquisitions in the order in which they were accepted.
CREATE INDEX acquisitions_by_time ON acquisitions (create_unix_ns, task_id);

-- The row that is written again and again to see whether the database can be written.
CREATE TABLE pings (
    singleton boolean NOT NULL PRIMARY KEY CHECK (singleton),
    time timestamptz NOT NULL
);

-- Summaries under the names that analysts of the predecessor know; limits are left out, dBm needs a calibration.
CREATE VIEW measurements_v0 AS
SELECT
    receiver_id AS websdr_id,
    frequency_hz / 1e6 AS frequency_mhz,
    sample_rate_hz / 1e3 AS sample_rate_khz,
    sample_count AS samples_count,
    time AS timestamp_utc,
    CASE estimate_details -> 'snr_db' ->> 'validity' WHEN 'VALID' THEN snr_db END AS snr_db,
    CASE estimate_details -> 'frequency_offset_hz' ->> 'validity' WHEN 'VALID' THEN frequency_offset_hz END
        AS frequency_offset_hz,
    CASE estimate_details -> 'power_dbm' ->> 'validity' WHEN 'VALID' THEN power_dbm END AS power_dbm,
    's3://heimdall-raw-iq/' || object_key AS s3_path
FROM measurements;

-- Summaries by hour, receiver and frequency; only valid values count, and means of decibels are those of the ratios.
CREATE VIEW measurements_hourly AS
SELECT
    date_trunc('hour', time, 'UTC') AS time,
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
GROUP BY 1, 2, 3;

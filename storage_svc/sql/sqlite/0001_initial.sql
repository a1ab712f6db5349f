-- Summaries: one row a receiver and acquisition. A quantity that could not be measured is NULL; estimate_details has its reason.
CREATE TABLE measurements (
    time TEXT NOT NULL,
    task_id TEXT NOT NULL,
    receiver_id TEXT NOT NULL,
    first_sample_index INTEGER NOT NULL,
    first_sample_unix_ns INTEGER NOT NULL,
    frequency_hz REAL NOT NULL,
    sample_rate_hz REAL NOT NULL,
    sample_count INTEGER NOT NULL,
    lost_sample_count INTEGER NOT NULL,
    duration_s REAL,
    power_dbfs REAL,
    power_dbm REAL,
    noise_dbfs_per_hz REAL,
    snr_db REAL,
    snr_bandwidth_hz REAL,
    carrier_to_noise_density_db_hz REAL,
    frequency_offset_hz REAL,
    frequency_offset_sigma_hz REAL,
    occupied_bandwidth_hz REAL,
    overload_ratio REAL,
    estimate_details TEXT NOT NULL,
    spectrum BLOB,
    time_source TEXT NOT NULL,
    object_key TEXT,
    state TEXT,
    PRIMARY KEY (task_id, receiver_id)
) STRICT;

-- Summaries in the order of their time.
CREATE INDEX measurements_by_time ON measurements (first_sample_unix_ns, task_id, receiver_id, first_sample_index);

-- Windows: the same columns for one short stretch of a recording.
CREATE TABLE measurement_windows (
    time TEXT NOT NULL,
    task_id TEXT NOT NULL,
    receiver_id TEXT NOT NULL,
    first_sample_index INTEGER NOT NULL,
    first_sample_unix_ns INTEGER NOT NULL,
    frequency_hz REAL NOT NULL,
    sample_rate_hz REAL NOT NULL,
    sample_count INTEGER NOT NULL,
    lost_sample_count INTEGER NOT NULL,
    duration_s REAL,
    power_dbfs REAL,
    power_dbm REAL,
    noise_dbfs_per_hz REAL,
    snr_db REAL,
    snr_bandwidth_hz REAL,
    carrier_to_noise_density_db_hz REAL,
    frequency_offset_hz REAL,
    frequency_offset_sigma_hz REAL,
    occupied_bandwidth_hz REAL,
    overload_ratio REAL,
    estimate_details TEXT NOT NULL,
    spectrum BLOB,
    time_source TEXT NOT NULL,
    object_key TEXT,
    state TEXT,
    PRIMARY KEY (task_id, receiver_id, first_sample_index)
) STRICT;

-- Windows in the order of their time.
CREATE INDEX measurement_windows_by_time
    ON measurement_windows (first_sample_unix_ns, task_id, receiver_id, first_sample_index);

-- Recordings: the columns are for searching, message holds the whole heimdall.common.v1.Recording.
CREATE TABLE recordings (
    time TEXT NOT NULL,
    task_id TEXT NOT NULL,
    receiver_id TEXT NOT NULL,
    window_start_unix_ns INTEGER NOT NULL,
    window_end_unix_ns INTEGER NOT NULL,
    frequency_hz REAL,
    sample_rate_hz REAL,
    sample_count INTEGER NOT NULL,
    lost_sample_count INTEGER NOT NULL,
    gap_count INTEGER NOT NULL,
    state TEXT NOT NULL,
    complete INTEGER NOT NULL,
    object_key TEXT,
    data_sha512 TEXT,
    data_size_bytes INTEGER NOT NULL,
    message BLOB NOT NULL,
    PRIMARY KEY (task_id, receiver_id)
) STRICT;

-- Recordings in the order of their windows.
CREATE INDEX recordings_by_time ON recordings (window_start_unix_ns, task_id, receiver_id);

-- Acquisitions: the columns are for searching, message holds the whole heimdall.common.v1.Acquisition.
CREATE TABLE acquisitions (
    task_id TEXT NOT NULL PRIMARY KEY,
    time TEXT NOT NULL,
    create_unix_ns INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    state TEXT NOT NULL,
    revision INTEGER NOT NULL,
    message BLOB NOT NULL
) STRICT;

-- Acquisitions in the order in which they were accepted.
CREATE INDEX acquisitions_by_time ON acquisitions (create_unix_ns, task_id);

-- Summaries in the order of their frequency, then time.
CREATE INDEX measurements_by_frequency ON measurements (frequency_hz, first_sample_unix_ns);

-- Windows in the order of their frequency, then time.
CREATE INDEX measurement_windows_by_frequency ON measurement_windows (frequency_hz, first_sample_unix_ns);

-- Recordings in the order of their frequency, then time.
CREATE INDEX recordings_by_frequency ON recordings (frequency_hz, window_start_unix_ns);

-- Summaries under the names that analysts of the predecessor know; limits are left out, dBm needs a calibration.
CREATE VIEW measurements_v0 AS
SELECT
    receiver_id AS websdr_id,
    frequency_hz / 1e6 AS frequency_mhz,
    sample_rate_hz / 1e3 AS sample_rate_khz,
    sample_count AS samples_count,
    time AS timestamp_utc,
    CASE json_extract(estimate_details, '$.snr_db.validity') WHEN 'VALID' THEN snr_db END AS snr_db,
    CASE json_extract(estimate_details, '$.frequency_offset_hz.validity') WHEN 'VALID' THEN frequency_offset_hz END
        AS frequency_offset_hz,
    CASE json_extract(estimate_details, '$.power_dbm.validity') WHEN 'VALID' THEN power_dbm END AS power_dbm,
    's3://heimdall-raw-iq/' || object_key AS s3_path
FROM measurements;

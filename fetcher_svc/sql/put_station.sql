-- Makes or replaces what is known of a station.
INSERT INTO stations (url, rest_end_unix_ns, rest_length_ns, rest_count, error, connects)
VALUES (:url, :rest_end_unix_ns, :rest_length_ns, :rest_count, :error, :connects)
ON CONFLICT (url) DO UPDATE SET
    rest_end_unix_ns = excluded.rest_end_unix_ns,
    rest_length_ns = excluded.rest_length_ns,
    rest_count = excluded.rest_count,
    error = excluded.error,
    connects = excluded.connects;

-- Returns all that is known of every station.
SELECT url, rest_end_unix_ns, rest_length_ns, rest_count, error, connects FROM stations;

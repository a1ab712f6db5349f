-- What each station asked of us: until when it is left alone and why, and when we connected within the last hour.
-- The error is a heimdall.common.v1.ErrorDetail; the connects are a JSON list of UTC in ns since 1970, the oldest first.
CREATE TABLE stations (
    url TEXT NOT NULL PRIMARY KEY,
    rest_end_unix_ns INTEGER NOT NULL,
    rest_length_ns INTEGER NOT NULL,
    rest_count INTEGER NOT NULL,
    error BLOB,
    connects TEXT NOT NULL
) STRICT;

"""Options of every channel and server, each set on purpose.

Names are those of the C core; a wrong name is ignored without a word, so a test looks each of them up in the binary.
"""

from __future__ import annotations

from typing import Final

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Largest message that is sent or accepted. Blocks are at most 1 MiB, so nobody ever needs to raise it."""

_SHARED: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Automatic window growth parks 6 to 8 MiB in every unread stream. A fixed window bounds memory, and
    # together with large frames it is faster than the default.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 512 * 1024),
    ("grpc.http2.max_frame_size", 1024 * 1024),
)

CHANNEL_OPTIONS: Final = (
    *_SHARED,
    # A dead peer is noticed within 15 s during a call, as long as a stream waits for a heartbeat: a stream that is
    # opened again would else be put on the same dead connection. No pings without calls: that is abuse to a server.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # What ends a connection; the one above is only told to the kernel (grpc/grpc#39239).
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # A service that comes back is found again within 2 s: while a fetcher is looked for, samples are lost.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A channel asks its peer itself. Else one that is opened to a service that has just come back fails at once,
    # because another channel of the process could not reach that before.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.dns_min_time_between_resolutions_ms", 10_000),
    ("grpc.enable_retries", 1),
)
"""Options of every client channel."""

SERVER_OPTIONS: Final = (
    *_SHARED,
    # A second server on the same port is a mistake, not a balancer.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 60_000),
    # Also how long TCP waits for a peer that takes no data. A caller that stood still for half a minute is to find what
    # was sent to it, and why its streams ended.
    ("grpc.keepalive_timeout_ms", 40_000),
    ("grpc.http2.ping_timeout_ms", 40_000),
    # Strictly below the clients' 5 s, or their pings end the connection.
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    # Connections are renewed so that balancing takes place; the grace stays infinite, so no stream is ever cut.
    ("grpc.max_connection_age_ms", 30 * 60_000),
)
"""Options of every server."""

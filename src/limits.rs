//! Bounds that several modules share: their values, the reasons for them, and what happens when they are reached.
//!
//! Settings (`settings.rs`) are what a user may want to choose; limits are what keeps one node alive under any load.

use std::time::Duration;

/// Length of one raft tick in milliseconds. Short, because the campaign delay of a fast failover is counted in ticks;
/// a tick that finds nothing to do costs a few microseconds.
pub const TICK_MS: u64 = 5;

/// Inbox of `core`, in messages. Full: connection threads and `recv-m` wait (back-pressure to their sockets);
/// `core` itself never waits for another thread, so there is no cycle.
pub const CORE_INBOX_MAX: usize = 4096;
/// Inbox of `disk`, in jobs. Full: `core` keeps the job in its own queue, which flow control bounds.
pub const DISK_INBOX_MAX: usize = 1024;
/// Inbox of `apply`, in committed ranges and queries. Full: as for `disk`.
pub const APPLY_INBOX_MAX: usize = 1024;
/// Inbox of `large-reads`, in reads. Full: the next one is refused as when the memory budget is in use.
pub const LARGE_READS_MAX: usize = 1024;
/// Inbox of each `send-m`, in signals to check its queue. Full: a signal is pending already.
pub const SEND_INBOX_MAX: usize = 16;
/// Bytes that wait for one peer's socket, twice what raft has on the way to it. More: drop; raft treats it as a loss.
pub const LINK_BYTES_MAX: usize = 2 * INFLIGHT_BYTES_MAX;
/// Inbox of `gossip`. Full: drop and count; the next heartbeat replaces what was lost.
pub const GOSSIP_INBOX_MAX: usize = 256;
/// Inbox of `watch`. Full: `apply` drops its message, because a check is due anyway; new watchers wait.
pub const WATCH_INBOX_MAX: usize = 256;
/// Inbox of `chat`. Full: `apply` drops its message, because a check is due anyway.
pub const CHAT_INBOX_MAX: usize = 16;
/// Inbox of `worker`. Full: `apply` drops its message, because a check is due anyway; threads of attempts wait.
pub const WORKER_INBOX_MAX: usize = 1024;
/// Inbox of `monitor`. Full: drop; a frame is built at least once a second anyway.
pub const MONITOR_INBOX_MAX: usize = 256;

/// Largest frame on the peer port. Larger: the connection is dropped.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// The same where a snapshot or a state is sent: chunks are smaller. Larger: the connection is dropped.
pub const SNAPSHOT_FRAME_BYTES_MAX: usize = 2 << 20;
/// Time for a large frame of a peer to arrive. Longer: the connection is dropped.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(30);
/// Time for a peer to finish its handshake. At 300 ms one way it takes 1.8 s; a packet that is lost costs 200 ms or more.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(4);
/// Snapshot chunk on its own connection: large enough to stream, small enough to abort quickly.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// Bytes of entries in one append message.
pub const APPEND_BYTES_MAX: usize = 1 << 20;
/// Bytes of entries on the way to one follower and not yet acknowledged.
pub const INFLIGHT_BYTES_MAX: usize = 8 << 20;
/// Batches of commands in the leader's log that are not committed yet. More: commands gather, so that the next batch is
/// larger. With 64 clients and 1, 2 and 4 batches a two-core machine did 24, 22 and 19 thousand writes a second: what a
/// batch costs three nodes (a sync each, a dozen wake-ups) is worth more than what overlapping hides.
pub const BATCHES_IN_FLIGHT: usize = 1;
/// Bytes of one command or query of a client. More: refused.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;
/// Bytes of entries that a leader holds uncommitted. Full: new commands are refused.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;

/// HTTP head: request line and headers. Larger: 431 (or 414 when the request line alone is too long).
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;
/// HTTP headers. More: 431.
pub const HTTP_HEADERS_MAX: usize = 100;
/// HTTP body. Larger: 413.
pub const HTTP_BODY_BYTES_MAX: usize = 8 << 20;
/// A database that is to be loaded: it is forwarded in pieces, one file at a time.
pub const HTTP_LOAD_BYTES_MAX: usize = 1 << 30;
/// The form of a log-in, from a client that is not known yet. More: 413.
pub const HTTP_LOGIN_BYTES_MAX: usize = 8 << 10;
/// Total time for a head to arrive, regardless of the pace of its bytes.
pub const HTTP_HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes a second that a body, a response or a piece of a stream moves at least, on average over a window. Slower: 408,
/// or the connection is closed. What fits into one window has no other deadline than its end.
pub const HTTP_RATE_MIN: usize = 8 << 10;
/// The window for bodies.
pub const HTTP_BODY_WINDOW: Duration = Duration::from_secs(30);
/// The window for responses, and for each piece of a stream.
pub const HTTP_WRITE_WINDOW: Duration = Duration::from_secs(10);
/// How long a node reads and drops what a client still sends after a response that came early: a refusal, a redirect.
/// Later: the connection is reset, and the client may not see the response.
pub const HTTP_LINGER_MAX: Duration = Duration::from_secs(30);
/// The same without a byte.
pub const HTTP_LINGER_SILENCE_MAX: Duration = Duration::from_secs(5);
/// Connections beyond `connections_max` that get one answer about health, status or administration each. More: the
/// address that has the most of them gives one up (`node/reserved_slots.rs`).
pub const RESERVED_CONNECTIONS: usize = 64;
/// Time for the request on such a connection to arrive: the next one waits for its place.
pub const RESERVED_DEADLINE: Duration = Duration::from_secs(1);
/// Stack of one client connection thread: 12,000 of them must fit, and only touched pages count.
pub const CONNECTION_STACK_BYTES: usize = 192 << 10;

/// Connections that read the database at once. More: reads wait for one until their deadline. Those that were opened
/// stay open, since that takes milliseconds; each has a cache of pages of some 2 MB.
pub const SQL_READERS_MAX: usize = 32;
/// Bytes by which reads of the database may make a node's memory grow, all of them together. More: they are
/// interrupted.
pub const SQL_READS_BYTES_MAX: u64 = 512 << 20;
/// Passwords of the chat that are hashed at once: each takes 19 MiB and some 20 ms of a processor. More: wait.
pub const CHAT_HASHES_MAX: usize = 2;
/// Clients that wait for that. More: 503.
pub const CHAT_HASHES_WAITING_MAX: usize = 256;
/// Events that a reader of the chat gets in one piece when it catches up. More: the next piece.
pub const CHAT_PIECE_EVENTS_MAX: usize = 64;
/// Bytes after which a piece takes no further line. A line alone may have some 50 KB.
pub const CHAT_PIECE_BYTES: usize = 16 << 10;
/// Bytes that the system may buffer for one reader of the chat; by itself it would go up to some megabytes. Linux
/// doubles it.
pub const CHAT_SOCKET_BYTES: usize = 64 << 10;

/// Events kept in memory for `/v1/events`. Full: the oldest goes.
pub const EVENTS_MAX: usize = 1000;
/// Heartbeats kept in memory for `/v1/gossip`. Full: the oldest goes.
pub const GOSSIP_LOG_MAX: usize = 500;
/// Sessions listed in one monitor frame; the total is always given. Frames go to every viewer each second.
pub const SESSIONS_SHOWN_MAX: usize = 50;
/// Events kept in the replicated history. Full: the oldest goes.
pub const HISTORY_MAX: usize = 100;
/// Bytes of the text of such an event. Longer: cut.
pub const HISTORY_TEXT_BYTES_MAX: usize = 512;
/// Changes of leader kept in the replicated history. Full: the oldest goes.
pub const FAILOVERS_MAX: usize = 20;

/// First segment of a node's log: five idle nodes take little room. Full: the next one is twice as large.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// Largest segment of the log: rotation, which takes three syncs, stays rare. Full: the next one.
pub const SEGMENT_BYTES_MAX: u64 = 16 << 20;

/// One request of the Redis protocol, as sent. A longer one is a protocol error; what is left of [`COMMAND_BYTES_MAX`]
/// is for the form in which it is forwarded.
pub const RESP_REQUEST_BYTES_MAX: usize = COMMAND_BYTES_MAX - (64 << 10);
/// The same from a client that has not named the password yet.
pub const RESP_UNKNOWN_BYTES_MAX: usize = 16 << 10;
/// Time in which a client of the Redis port must have named the password, if there is one. Later: the connection is
/// closed.
pub const RESP_AUTH_DEADLINE: Duration = Duration::from_secs(10);
/// Time in which its first request must be whole. Long enough for a person who types; later: the connection is closed.
pub const RESP_FIRST_DEADLINE: Duration = Duration::from_secs(60);
/// Time in which each later one must be whole once it has begun. Later: the connection is closed.
pub const RESP_COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// Time in which a client must read something of the replies that wait for it. Later: the connection is closed.
pub const RESP_WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// Words of one request. More: protocol error, as in Redis.
pub const RESP_WORDS_MAX: usize = 1 << 20;
/// A plain line, or the line before a word. Longer: protocol error, as in Redis.
pub const RESP_LINE_BYTES_MAX: usize = 64 << 10;
/// Bytes of commands that a pipelining client gets into one batch. More: the next batch.
pub const RESP_BATCH_BYTES_MAX: usize = 1 << 20;
/// Operations of one batch, which is executed as a whole while others wait. More: the next batch.
pub const RESP_BATCH_OPS_MAX: usize = 1024;
/// Batches of one connection that are not answered yet. More: it is not read from.
pub const RESP_BATCHES_MAX: usize = 1024;
/// Bytes of such batches and of what their reads may come to. More: it is not read from.
pub const RESP_BATCHES_BYTES_MAX: usize = 32 << 20;
/// Bytes of replies that one client has not taken yet. More: it is not read from.
pub const RESP_UNSENT_BYTES_MAX: usize = 32 << 20;
/// Inbox of `resp-drain`, in clients that read slowly, each once. Full: the connection is closed.
pub const RESP_DRAIN_INBOX_MAX: usize = 4096;
/// Positions of SCANs that a node stores for its clients. Full: the oldest is dropped, and that scan starts again.
pub const RESP_CURSORS_MAX: usize = 4096;
/// Time in which another node must tell the position of its cursor. Later: that scan starts again.
pub const SCAN_ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// Bytes of requests in which a client counts as busy sending, each [`RESP_WRITE_DEADLINE`]: it need not read
/// meanwhile.
pub const RESP_SENDING_BYTES_MIN: usize = 64 << 10;
/// Channels and patterns to which one connection subscribes. More: refused.
pub const RESP_SUBSCRIPTIONS_MAX: usize = 10_000;
/// A pattern of PSUBSCRIBE: each message is compared with all patterns. Longer: refused.
pub const RESP_PATTERN_BYTES_MAX: usize = 1 << 10;
/// Bytes that wait for one peer's socket beyond which messages of PUBLISH to it are dropped: heartbeats wait behind
/// them.
pub const PUBLISHED_BYTES_MAX: usize = 1 << 20;
/// Inbox of `takeover`, in messages to the voters that are hosted here. Full: dropped, as if the network had lost it.
pub const TAKEOVER_INBOX_MAX: usize = 1024;
/// Inbox of `pubsub`, in messages of other nodes. Full: dropped.
pub const PUBSUB_INBOX_MAX: usize = 4096;

"""Every bound of the product, by name; units last. Relations between them are checked at import.

Owns: numbers. Settings an operator may change default to these; the rest are fixed.
"""

from __future__ import annotations

from typing import Final

from hypercluster.errors import check

KIB: Final = 1024
MIB: Final = 1024 * 1024

# Commands and entries (D-4, WS-30, HUB-1).
COMMAND_BYTES_MAX: Final = 1 * MIB
COMMAND_KEYS_MAX: Final = 1_000
BATCH_OPS_MAX: Final = 512
BATCH_BYTES_MAX: Final = 1 * MIB
BATCH_CHUNK_BYTES_MAX: Final = 272 * KIB  # four chunk puts: whatever comes next waits for the whole entry (WS-37)
BATCH_WINDOW_MS: Final = 1
SUBMIT_COMMANDS_MAX: Final = 256  # commands in one Submit
SUBMITS_MAX: Final = 256  # Submits in one stream message
ENTRY_BYTES_MAX: Final = 2 * MIB + 64 * KIB  # one Raft entry: a full batch plus one largest command
APPEND_FRAME_BYTES_MAX: Final = 4 * MIB  # one append frame between peers
PEER_FRAME_BYTES_MAX: Final = 8 * MIB  # whatever a peer may send in one message
PEER_MESSAGE_FRAMES_MAX: Final = 1_024  # frames that travel together
PEER_CONNECTIONS_MAX: Final = 128  # to the peer port, strangers included; 13 peers at most have a use for one
PEER_HELLO_BYTES_MAX: Final = 2 * KIB
QUARANTINED_MAX: Final = 32  # commands refused as INTERNAL (CL-16); a hello lists them
PEER_IN_FLIGHT_BYTES_MAX: Final = 32 * MIB  # unacknowledged bytes to one peer
CLIENT_MESSAGE_BYTES_MAX: Final = 2 * MIB
SNAPSHOT_PIECE_BYTES: Final = 512 * KIB

# Client lanes (D-7).
LANE_MESSAGE_BYTES: Final = 68 * KIB  # a larger command goes alone: messages are what a leader chooses from (WS-37)
LANE_RESULTS_MAX: Final = 1_024
LANES_MAX: Final = 1_000_000
LANE_SILENT_FORGET_S: Final = 24 * 3600
PRINCIPAL_BYTES_MAX: Final = 255
SCOPE_NAME_BYTES_MAX: Final = 128
AGENT_BYTES_MAX: Final = 128
CAUSE_BYTES_MAX: Final = 256

# Hub (HUB-1).
HUB_KEY_BYTES_MAX: Final = 1 * KIB
HUB_PAYLOAD_BYTES_MAX: Final = 256 * KIB
HUB_NAMESPACE_BYTES_MAX: Final = 64
HUB_JSON_DEPTH_MAX: Final = 64

# Histories (HIS-1, HIS-3, HIS-7, HIS-13).
HISTORY_EVENT_BYTES_MAX: Final = 256 * KIB
HISTORY_DEPS_MAX: Final = 64
HISTORY_CHANNEL_BYTES_MAX: Final = 128
HISTORY_AUTHORS_MAX: Final = 256  # named in one request
HISTORY_BATCH_EVENTS_MAX: Final = 10_000
HISTORY_ENVELOPE_BYTES_MAX: Final = 64 * KIB - 256
HISTORY_PENDING_MAX: Final = 10_000  # events that wait for one before them
HISTORY_PENDING_OF_AUTHOR_MAX: Final = HISTORY_PENDING_MAX // 50
HISTORY_PENDING_S: Final = 3_600
HISTORY_FILTER_NAMES_MAX: Final = 256  # on each axis of a filter

# Workspace (WS-13, WS-14, WS-16, WS-24).
CHUNK_BYTES_MAX: Final = 64 * KIB
INLINE_BYTES_MAX: Final = 8 * KIB
NAME_BYTES_MAX: Final = 255
SYMLINK_TARGET_BYTES_MAX: Final = 4_095
XATTR_NAME_BYTES_MAX: Final = 255
XATTR_VALUE_BYTES_MAX: Final = 64 * KIB
XATTR_TOTAL_BYTES_MAX: Final = 1 * MIB
XATTRS_MAX: Final = 128  # of one inode: their table is one record
DIRECTORY_DEPTH_MAX: Final = 512  # a rename looks no further up than this
WRITE_BYTES_MAX: Final = 1 * MIB  # one write command, over all its extents
WRITE_EXTENTS_MAX: Final = 64
FILE_SIZE_MAX: Final = (1 << 63) - 1
COALESCE_EXTENTS: Final = 16  # WS-13: the last this many small contiguous extents become one chunk
COALESCE_EXTENT_BYTES_MAX: Final = 8 * KIB
COALESCE_TOTAL_BYTES_MAX: Final = 64 * KIB
COALESCE_ROUNDS_MAX: Final = 4  # by one command (D-4)
RECENT_BYTES_MAX: Final = 16 * MIB  # of small chunks a workspace keeps in its state, to coalesce them
RECENT_CHUNKS_MAX: Final = 65_536
OPEN_WORKSPACES_MAX: Final = 256  # kept as objects by a node
NLINK_MAX: Final = 65_000

# Locks, leases, reservations, hazards (WS-40 to WS-47).
LOCK_TTL_MS: Final = 5_000
LOCK_GRACE_MS: Final = 2_000
LOCK_MARGIN_MS: Final = 1_000  # a holder counts on its lock until this long before TTL and grace are over
LOCK_NAME_BYTES_MAX: Final = 128
LOCK_WAIT_MS_MAX: Final = 24 * 3600 * 1000
LOCKS_OF_CLIENT_MAX: Final = 1_000  # held and queued
LOCKS_OF_WORKSPACE_MAX: Final = 100_000  # held and queued; the leader keeps a timer for each
LOCK_QUEUE_MAX: Final = 1_000  # holders and waiters of one target
LOCK_PERMITS_MAX: Final = 10_000
LOCK_STEPS_MAX: Final = 100
RENEW_LOCKS_MAX: Final = 1_000  # in one renewal
RENEW_VERDICT_MS: Final = 2_000  # a renewal waits this long for what may end a lease, then says that it does not know
LEASES_A_TURN: Final = 500  # that a new leader reads before others have their turn
LOCK_GRAPH_STEPS_MAX: Final = 256
GUARDS_MAX: Final = 4
OPEN_REPORT_AFTER_MS: Final = 10_000  # a node held open for longer is told to the cluster
OPEN_LEASE_TTL_MS: Final = 15_000
OPEN_LEASES_A_COMMAND_MAX: Final = 400
OPENS_INSTANCE_BYTES_MAX: Final = 64
OPENS_INSTANCES_MAX: Final = 256  # mounts and processes of one worker that report what they hold open
OPEN_LEASES_OF_WORKER_MAX: Final = 4_000
ORPHAN_KEEP_MS: Final = 60_000  # at least three lock TTLs
ORPHANS_A_LOOK: Final = 1_000  # for those that are due, leased ones among them
REAP_A_COMMAND_MAX: Final = 100
RESERVATION_PATTERN_BYTES_MAX: Final = 1 * KIB
RESERVATION_TTL_MS: Final = (1_000, 24 * 3600 * 1000)
RESERVATIONS_MAX: Final = 256  # alive in one workspace
RESERVATION_IDS_MAX: Final = 4  # named by one operation
PATTERN_WILDCARDS_MAX: Final = 16  # of one reservation's pattern
PATH_BYTES_MAX: Final = 4_096
NAMES_OF_INODE_KEPT: Final = 8  # by which the path of an inode is found
HAZARD_WINDOW_OPS: Final = 256
HAZARD_WINDOW_BYTES_MAX: Final = 256 * KIB  # of memory, by the lengths of names
HAZARD_LIST_OPS_MAX: Final = 5_000  # looked at for a list of hazards
LOCAL_PATTERNS_BYTES_MAX: Final = 16 * KIB

# Retention (WS-53, WS-54).
SNAPSHOT_EVERY_S: Final = 300
SNAPSHOTS_KEPT: Final = 864
SNAPSHOT_EVERY_S_MAX: Final = 30 * 24 * 3600
SNAPSHOTS_MAX: Final = 4_096  # of one workspace, whatever the setting says
REPLAY_WINDOW_MS: Final = 600_000  # WS-52: a gap inside both is closed from the log
REPLAY_WINDOW_OPS: Final = 2_000_000
LAG_MAX_MS: Final = 1_800_000  # a connected worker behind by more than one of these is cut over to a snapshot
LAG_MAX_OPS: Final = 2_000_000
OPLOG_KEEP_S: Final = 72 * 3600  # the larger of the two
OPLOG_KEEP_OPS: Final = 10_000_000
OPLOG_BYTES_MAX: Final = 64 * 1024 * MIB  # of one workspace, uncompressed; beyond it the oldest goes early
ARCHIVE_KEEP_DAYS: Final = 90
ARCHIVE_BYTES_MAX: Final = 256 * 1024 * MIB  # of a node; beyond it the oldest goes early
SNAPSHOT_PAGES_A_REQUEST_MAX: Final = 8  # of a snapshot that a node fetches from another
SIDE_QUEUED_BYTES_MAX: Final = 512 * KIB  # with more than this towards a peer, what is not the engine's waits
COLLECT_CHUNKS_PER_S: Final = 1_000
SNAPSHOT_BYTES_PER_S: Final = 16 * MIB  # read from the state while a workspace snapshot is written
COLLECT_CHUNKS_MAX: Final = 300
CHUNK_PIN_MS: Final = 60_000

# Node queues (CL-13, WS-34).
PENDING_OPS_MAX: Final = 10_000
PENDING_BYTES_MAX: Final = 64 * MIB
STREAM_OUTBOX_MESSAGES_MAX: Final = 1_024
READS_PENDING_MAX: Final = 10_000
SEQ_HOLD_MS: Final = 1_000
SEQ_HOLD_OPS_MAX: Final = 64
SEQ_HOLD_BYTES_MAX: Final = 1 * MIB
SEQ_HOLD_TOTAL_BYTES_MAX: Final = 64 * MIB
BATCHES_IN_FLIGHT_MAX: Final = 2
RATE_OPS_PER_S: Final = 500  # a principal; settings (WS-34)
RATE_BYTES_PER_S: Final = 50_000_000
RATE_BURST_OPS: Final = 100
RATE_PRINCIPALS_MAX: Final = 10_000  # buckets kept; the longest full ones go first
QUARANTINE_AFTER: Final = 1_000  # refusals in a row that a client brought on by ignoring retry_after_ms
QUARANTINE_MS: Final = 5_000
WATCHERS_MAX: Final = 2_000
WATCH_QUEUE_EVENTS_MAX: Final = 1_000  # WS-51; beyond it the watcher is cut over to the op log
WATCH_QUEUE_BYTES_MAX: Final = 4 * MIB
WATCH_SLICE_BYTES: Final = 256 * KIB  # one message of a catch-up
EVENT_CLIENTS_MAX: Final = 1_000  # that one watch of events names
EVENT_QUEUE_MAX: Final = 1_000  # events of one watch; beyond it the watcher gets the present list instead
EVENT_WAITERS_TOLD_MAX: Final = 64  # of those who wait behind a lock that expires
EVENT_LIST_PAGE: Final = 500  # locks in one part of a list
WORKERS_MAX: Final = 2_000  # sessions of workers with one node
WORKER_PROBLEMS_SHOWN: Final = 32  # of them, in a node's status
FEATURES_MAX: Final = 32  # names in a worker's hello
FEATURE_BYTES_MAX: Final = 64
APPLY_TURN_US: Final = 2_000
VERSIONS_KEEP_ENTRIES: Final = 1_000_000  # old versions stay this many Raft entries (D-18)
VERSIONS_BYTES_MAX: Final = 16 * 1024 * MIB  # of old versions, uncompressed; beyond it the oldest go early
DISK_LOW_BYTES: Final = 256 * MIB  # with less room a node refuses writes; four flushes and a segment fit in it (CL-4)
APPLY_ROOM_BYTES: Final = 128 * MIB  # with less, apply waits: a flush and what the log makes ahead fit in it
DIGESTS_KEPT: Final = 1_024  # recent indexes whose digest is known without a read (CL-17)

# Detection (DET-2, DET-3) and mirror streams (QUO-5).
PHI_WINDOW: Final = 100  # clean durations kept, a phase type
PHI_BLEND_SAMPLES: Final = 10  # with fewer the prior has a say
PHI_TIMEOUT_PERCENT_MIN: Final = 120
PHI_TIMEOUT_PERCENT_MAX: Final = 200
RING_POINTS: Final = 256  # of one member on the ring
RING_MEMBERS_MAX: Final = 64
RING_STREAMS_MAX: Final = 10_000
RING_STABLE_S: Final = 300  # members unchanged for so long before anything moves; also the window of the next bound
RING_MOVES_PERCENT: Final = 25  # of the streams, a window; one where that is less than one

# RPC (CL-13).
RPCS_MAX: Final = 4_096
UNARY_DEADLINE_MS: Final = 30_000  # also of calls that bring no deadline, or a later one
STREAM_IDLE_S: Final = 600
STREAM_STALL_S: Final = 30  # a write the peer does not take for this long ends its stream
STREAM_IN_FLIGHT_MAX: Final = 1_024  # Submits read and not yet answered, a stream, before it reads another message
READ_KEYS_MAX: Final = 100
READ_LIST_MAX: Final = 1_000
PROOF_NAMES_MAX: Final = 128  # of a path that is proven: one leaf each, so that the answer fits a message
PROOF_SUBTREES_MAX: Final = 384  # of Merkle trees, kept by a node for its next proofs; some 80 KiB each
READ_BYTES_MAX: Final = 1 * MIB  # content of one unary answer, beyond its first record
CHUNK_HASHES_MAX: Final = 1_000
STOP_MS: Final = 10_000  # a graceful stop ends within it (OPS-6)

# Durable log (CL-4, CL-7, CL-9).
WAL_SEGMENT_BYTES: Final = 64 * MIB
WAL_RESERVE_BYTES: Final = 64 * MIB
WAL_TAIL_CACHE_BYTES: Final = 64 * MIB
FLUSH_BYTES: Final = 64 * MIB
FLUSH_ENTRIES: Final = 50_000
LOG_KEEP_ENTRIES: Final = 100_000  # kept behind a checkpoint for a lagging voter
LOG_KEEP_BYTES: Final = 1024 * MIB  # the same, in bytes: whichever is reached first
CHECKPOINT_EVERY_BYTES: Final = 512 * MIB  # of entries applied since the last one
CHECKPOINT_WINDOW_BYTES: Final = 4 * MIB  # pieces sent and not acknowledged
CHECKPOINT_RETRY_MS: Final = 2_000  # without progress: offer it again
CHUNK_REQUEST_HASHES_MAX: Final = 64

# Raft timing (design/raft-engine), in milliseconds.
HEARTBEAT_MS: Final = 125
ELECTION_MIN_MS: Final = 400
ELECTION_MAX_MS: Final = 800
FALLBACK_MS: Final = 500  # a leader that no majority has answered for this long steps down (CL-11)
TRANSFER_MS: Final = 2_000  # a leadership transfer that takes longer is given up
COMMIT_NOTICE_MS: Final = 2  # followers learn a new commit index within this, when no entry carries it
DISK_FULL_RETRY_MS: Final = 1_000
CLOCK_SKEW_MAX_MS: Final = 2_000
CLOCK_SAMPLE_S: Final = 30  # how long a peer's clock reading counts

# Membership (D-14) and replication.
VOTERS_MAX: Final = 8  # 7, and one more while a voter is replaced
LEARNERS_MAX: Final = 7
NODE_ID_BYTES_MAX: Final = 64
NODE_ADDRESS_BYTES_MAX: Final = 255
APPEND_ENTRIES_MAX: Final = 4_096  # entries in one append frame
PROMOTE_RETRY_MS: Final = 1_000  # a learner whose promotion was refused is asked for again after this
PROMOTE_LAG_ENTRIES_MAX: Final = 1_000  # a learner further behind is not promoted
HELD_FRAMES_MAX: Final = 4_096  # frames that wait for a sync

check(APPLY_ROOM_BYTES < DISK_LOW_BYTES, "writes are refused before apply has to wait")
check(WRITE_BYTES_MAX <= COMMAND_BYTES_MAX, "a write must fit a command")
check(
    BATCH_BYTES_MAX + COMMAND_BYTES_MAX <= ENTRY_BYTES_MAX, "a batch that just took its last command must fit an entry"
)
check(ENTRY_BYTES_MAX <= APPEND_FRAME_BYTES_MAX <= PEER_FRAME_BYTES_MAX, "an entry must fit a frame")
check(CLIENT_MESSAGE_BYTES_MAX < ENTRY_BYTES_MAX, "one Submit alone must fit an entry with its sender's names")
check(READ_BYTES_MAX + HUB_PAYLOAD_BYTES_MAX < CLIENT_MESSAGE_BYTES_MAX, "a read's answer must fit a message")
check(COMMAND_BYTES_MAX < CLIENT_MESSAGE_BYTES_MAX, "a command must fit a client message")
check(CHUNK_BYTES_MAX < LANE_MESSAGE_BYTES, "a chunk put needs no message beyond the usual size")
check(
    4 * LANE_MESSAGE_BYTES <= BATCH_CHUNK_BYTES_MAX <= BATCH_BYTES_MAX // 2,
    "puts get four messages, half a batch at most",
)
check(INLINE_BYTES_MAX <= CHUNK_BYTES_MAX, "inline content becomes one chunk")
check(ELECTION_MIN_MS >= 3 * HEARTBEAT_MS, "an election timeout must survive two lost heartbeats")
check(ELECTION_MAX_MS > ELECTION_MIN_MS, "election timeouts are drawn from a range")
check(SNAPSHOTS_KEPT < SNAPSHOTS_MAX, "what is kept by default fits, with room to drop the oldest after")
check(REPLAY_WINDOW_MS <= LAG_MAX_MS and REPLAY_WINDOW_OPS <= LAG_MAX_OPS, "who may begin by the log may go on by it")
check(CHUNK_PIN_MS <= LAG_MAX_MS, "a chunk that was in a tree stays at least as long as one that was only sent")
check(LOCK_MARGIN_MS < LOCK_GRACE_MS, "a holder that renews late, but within the grace, keeps its lock")
check(ORPHAN_KEEP_MS >= 3 * LOCK_TTL_MS, "orphans outlive the locks on them")
check(FALLBACK_MS < 2 * ELECTION_MIN_MS, "a leader without a majority steps down within two election timeouts")
check(
    SNAPSHOT_PAGES_A_REQUEST_MAX <= CHUNK_REQUEST_HASHES_MAX, "an answer with pages is no longer than one with chunks"
)
check(CHUNK_REQUEST_HASHES_MAX * CHUNK_BYTES_MAX < PEER_FRAME_BYTES_MAX, "an answer with chunks must fit a frame")

"""Every bound on a length, count, queue, retry and wait, in one place, with its reason.

Names put the unit before MAX. `proto/` quotes those that peers must agree on; a test compares.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- on the wire (proto/) -------------------------------------------------------------------------------------------

CHANNELS_MAX = 64  # a channel is a thread on each side; beyond the number of cores there is nothing to gain
SLOT_BYTES_MAX = 4 * MIB  # the largest slot that `bench` found useful; bounds the scratch memory of a channel
META_BYTES_MAX = 64 * KIB  # four times what EXTENTS_MAX needs
EXTENTS_MAX = 1000  # header and meta and this many pieces must fit in one sendmsg: IOV_MAX is 1024
CHUNK_BYTES_MAX = MIB  # a device chunk: small against a device's credit, so that several are under way
CHUNK_COST_BYTES = 256  # what an empty chunk costs in credit: about what it takes in memory at the destination
FRAME_BYTES_MAX = MIB  # an INVENTORY page of 4096 blocks with long names still fits
FIRST_FRAME_BYTES_MAX = 64 * KIB  # HELLO with a hundred features; for PENDING_CONNECTIONS_MAX strangers 16 MiB
TEXT_BYTES_MAX = 4096
NAME_BYTES_MAX = 1024
ITEMS_MAX = 4096
NESTING_MAX = 8
INVENTORY_PAGES_MAX = 64  # with ITEMS_MAX: at most 262144 blocks and devices
INVENTORY_ITEM_BYTES = 160  # what an item takes in a destination's memory besides its texts, about
INVENTORY_BYTES_MAX = 32 * MIB  # of all pages: 120000 blocks with names of 100 bytes; comes from strangers too
PAGE_SIZE_BYTES_MIN = 512  # a disk's sector; no memory has smaller pages
PAGE_SIZE_BYTES_MAX = GIB  # the largest page that processors have
SECONDS_MAX = 1e9  # 30 years: any time that a message carries, and far from where floats lose milliseconds
VERSION_MAX = 65535  # protocol versions are u16 where they stand alone
ZSTD_WINDOW_BYTES_MAX = 8 * MIB  # what RFC 8878 asks every decoder to have; twice the largest slot
CORRUPT_RESENDS_MAX = 8  # a link that corrupts more than that in one stop is broken
SWITCHOVER_RETURNS_MAX = 3  # each costs a stop and a start of the owner

# --- waits, seconds -------------------------------------------------------------------------------------------------

PREAMBLE_DEADLINE_S = 5.0  # one round trip is enough; short, since a silent connection costs the destination a place
CONNECT_DEADLINE_S = 10.0
HELLO_DEADLINE_S = 10.0
VERDICT_DEADLINE_S = 60.0  # the destination may populate memory and ask its devices before it answers
ATTACH_DEADLINE_S = 10.0
STALL_DEADLINE_S = 30.0  # slots under way and none settled
# a source that waits for a slow device may have nothing to send, but not for a quarter of an hour
SILENCE_DEADLINE_S = 900.0
LOADED_DEADLINE_S = 120.0  # devices finish their load in it, files go to disk
STARTED_DEADLINE_S = 40.0  # more than OWNER_DEADLINE_S, within which the owner starts or fails to
COMMIT_DEADLINE_S = 30.0  # how long a loaded destination holds everything for a source that says nothing
OUTCOME_DEADLINE_S = 5.0  # connecting, in one try
# a destination answers when its owner has started or failed to, and its devices are stopped again: OWNER_DEADLINE_S and
# CLOSE_DEADLINE_S; nobody who took longer is asked once more
OUTCOME_ANSWER_DEADLINE_S = 40.0
OUTCOME_TRIES = 3
OUTCOME_PAUSE_S = 0.5  # between two tries
OUTCOME_KEEP_S = 600.0  # how long a destination can still answer OUTCOME
OUTCOME_LINGER_S = 60.0  # a closing listener waits so long for a source that may still ask
LAST_WORDS_S = 0.5  # a lost channel's cause may be on its way on main
OUTCOMES_MAX = 256  # sessions remembered; the oldest goes first
OWNER_DEADLINE_S = 30.0  # stop or start of the owner; a device's last pass before the stop
SWITCHING_DEADLINE_S = 100.0  # devices end their passes, the owner stops, devices are asked: OWNER_DEADLINE_S each
SETTLED_DELAY_S = 0.01  # how long a count may wait for company: far below a round trip of any WAN
# Of the measured rate, what a stop is expected to reach: its last pages are more scattered than those before, and the
# limit is a promise. With all of it 2 of 5 stops of a 4 GiB workload took 4 to 9 % more than their 100 ms.
SWITCHOVER_RATE_SHARE = 0.75
SWITCHOVER_FIXED_S = 0.005  # stop and start of a local owner and the round trips of the end, as measured
CLOSE_DEADLINE_S = 5.0  # joining threads and closing connections

# between two looks at what is dirty while something else is waited for: a scan of 16 GiB takes 4 ms
SURVEY_PAUSE_S = 0.02
SURVEY_BUSY_PAUSE_S = 0.1  # while every class is in a round nothing can be decided: only progress wants to know
# between two rounds of a class that fits the limit already: keeps what is dirty small, costs little
ROUND_PAUSE_S = 0.05

# --- queues ---------------------------------------------------------------------------------------------------------

PENDING_CONNECTIONS_MAX = 256  # accepted and not yet known; beyond it the oldest is dropped
HANDSHAKES_MAX = 16  # main connections that said HELLO, each with a frame that is not whole: beyond it the oldest goes
INVENTORIES_BYTES_MAX = 32 * MIB  # of all handshakes together; with their frames less than 64 MiB for all strangers
INVENTORY_FREE_BYTES = 256 * KIB  # that a handshake has apart from it: 1000 blocks find room whatever strangers do
CHANNEL_QUEUE_ITEMS_MAX = 4  # work handed to a channel ahead of time: two to work on, two so that it never runs dry
UNSETTLED_SLOTS_MAX = 8192  # slots of a channel that wait to be settled: a second of the smallest at 1 M pages/s / 128
DEVICE_CREDIT_BYTES = 16 * MIB  # per device at the destination: what can pile up behind a slow load
EVENTS_MAX = 65536  # events from workers that the loop has not looked at; a worker waits beyond it
MAIN_BACKLOG_BYTES_MAX = 8 * MIB  # written to main and not read by the peer: eight of the largest frames
PROGRESS_MAX = 64  # snapshots that a slow reader of progress can be behind; older ones are dropped

# --- sizes that were chosen by measurement ---------------------------------------------------------------------------

SLOT_BYTES_MIN = 4 * KIB  # a page: below it headers would be most of what is sent
# Four runs each, alternating, 4 GiB over 2 channels on 2 cores: 512 KiB 4.1 GB/s, 1 MiB 4.7, 2 MiB 4.5. Larger slots of
# live memory are written to more often while they are sent, and then come again whole.
SLOT_BYTES = MIB
ITEM_BYTES = 4 * MIB  # what the scheduler hands over at once: 4 slots, so that a hand-over costs 1/4 a slot
SLOT_EXTENTS = 128  # extents that we put into a slot: 512 KiB of lone 4 KiB pages; others not tried
ZERO_ITEM_COST_BYTES = 16 * KIB  # what an item of zero extents counts for in fair shares: about its meta

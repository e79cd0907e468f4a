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
DEVICE_MESSAGE_BYTES_MAX = 4096  # a byte string of main; what devices have to say back is small
DEVICE_MESSAGES_MAX = 64  # of a device, said and not heard: a quarter of a MiB for one that does not listen
INVENTORY_PAGES_MAX = 64  # with ITEMS_MAX: at most 262144 blocks and devices
INVENTORY_ITEM_BYTES = 160  # what an item takes in a destination's memory besides its texts, about
INVENTORY_BYTES_MAX = 32 * MIB  # of all pages: 120000 blocks with names of 100 bytes; comes from strangers too
PAGE_SIZE_BYTES_MIN = 512  # a disk's sector; no memory has smaller pages
PAGE_SIZE_BYTES_MAX = GIB  # the largest page that processors have
SECONDS_MAX = 1e9  # 30 years: any time that a message carries, and far from where floats lose milliseconds
VERSION_MAX = 65535  # protocol versions are u16 where they stand alone
ZSTD_WINDOW_BYTES_MAX = 8 * MIB  # what RFC 8878 asks every decoder to have; twice the largest slot
# of a frame before it is decoded in place: 4 MiB in full blocks are 32; encoders make smaller ones where data changes
ZSTD_BLOCKS_FOLLOWED_MAX = 256
ZSTD_LEVEL_MAX = 9  # an encoder's; higher ones take 50 ms for a slot, and a channel's memory
CORRUPT_RESENDS_MAX = 8  # a link that corrupts more than that in one stop is broken
SWITCHOVER_RETURNS_MAX = 3  # each costs a stop and a start of the owner

# --- waits, seconds -------------------------------------------------------------------------------------------------

PREAMBLE_DEADLINE_S = 5.0  # one round trip is enough; short, since a silent connection costs the destination a place
CONNECT_DEADLINE_S = 10.0
TLS_HANDSHAKE_DEADLINE_S = 10.0  # two round trips and a signature on each side, whose loop may be busy meanwhile
HELLO_DEADLINE_S = 10.0
VERDICT_DEADLINE_S = 60.0  # the destination may populate memory and ask its devices before it answers
ATTACH_DEADLINE_S = 10.0
STALL_DEADLINE_S = 30.0  # slots under way and none settled
# a source that waits for a slow device may have nothing to send, but not for a quarter of an hour
SILENCE_DEADLINE_S = 900.0
LOADED_DEADLINE_S = 120.0  # devices finish their load in it, files go to disk
STARTED_DEADLINE_S = 40.0  # more than OWNER_DEADLINE_S, within which the owner starts or fails to
COMMIT_DEADLINE_S = 30.0  # how long a loaded destination holds everything for a source that says nothing
RELEASE_DEADLINE_S = 25.0  # an owner gives up the right to run; less than COMMIT_DEADLINE_S: COMMIT must be in time
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
SETTLED_DELAY_S = 0.015  # how long a count may wait for company: each wakes both loops; below SURVEY_PAUSE_S
# Of the measured rate, what a stop is expected to reach: its last pages are more scattered than those before, and the
# limit is a promise. With all of it 2 of 5 stops of a 4 GiB workload took 4 to 9 % more than their 100 ms.
SWITCHOVER_RATE_SHARE = 0.75
# The same while only the first sweep was measured: it is dense, and what a running owner wrote is lone pages, which are
# two to three times slower. With the share above 3 of 10 stops took 311 to 864 ms in place of 300.
FIRST_SWEEP_RATE_SHARE = 0.2
SWITCHOVER_FIXED_S = 0.005  # stop and start of a local owner and the round trips of the end, as measured
CLOSE_DEADLINE_S = 5.0  # joining threads and closing connections

# between two looks at what is dirty while something else is waited for: a scan of 16 GiB takes 1 ms on huge pages, 13
# on small ones, 20 where nothing was ever touched
SURVEY_PAUSE_S = 0.02
# while every class is in a round, or all that is left fits and a round is under way: its end calls for a look by itself
SURVEY_BUSY_PAUSE_S = 0.1
# between two rounds of a class that fits the limit already: keeps what is dirty small, costs little
ROUND_PAUSE_S = 0.05

# --- queues ---------------------------------------------------------------------------------------------------------

PENDING_CONNECTIONS_MAX = 256  # accepted and not yet known; beyond it the oldest is dropped
HANDSHAKES_MAX = 16  # main connections that said HELLO, each with a frame that is not whole: beyond it the oldest goes
INVENTORIES_BYTES_MAX = 32 * MIB  # of all handshakes together; with their frames less than 64 MiB for all strangers
INVENTORY_FREE_BYTES = 256 * KIB  # that a handshake has apart from it: 1000 blocks find room whatever strangers do
CHANNEL_QUEUE_ITEMS_MAX = 4  # work handed to a channel ahead of time: two to work on, two so that it never runs dry
UNSETTLED_SLOTS_MAX = 8192  # slots of a channel that wait to be settled: two seconds at 1 M pages/s, 256 a slot
UNSETTLED_BYTES_MAX = 256 * MIB  # the same in bytes: lone pages and pages of files are copies; 0.2 s at 10 Gbit/s
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
SLOT_EXTENTS = 256  # extents that we put into a slot: 1 MiB of lone 4 KiB pages; 128 and 1000 were 10 % slower
ZERO_ITEM_COST_BYTES = 16 * KIB  # what an item of zero extents counts for in fair shares: about its meta

# --- qemu ---

QEMU_CHANNELS_MAX = 255  # what QEMU's parameter multifd-channels takes
QEMU_PACKET_BYTES = 512 * KIB  # of pages that a packet can list: fixed in QEMU, 128 pages of 4 KiB
QEMU_PAYLOAD_BYTES_MAX = MIB  # a compressed packet's: what QEMU's own buffers hold
QEMU_DEVICE_PAYLOAD_BYTES_MAX = 16 * MIB  # sixteen times what VFIO sends at once; taken before it has arrived
QEMU_ZSTD_WINDOW_BYTES_MAX = 32 * MIB  # what level 20, the highest that QEMU takes, asks of a decoder
QEMU_SETUP_DEADLINE_S = 30.0  # a source connects all its channels at once; with a missing one it would wait for ever
QEMU_PREPARE_DEADLINE_S = 600.0  # storage of the blocks is reserved in it: 1 TiB on a slow disk
# While the source lives its bytes arrive; 60 s without any is more than a congested link or a busy host takes.
QEMU_SYNC_DEADLINE_S = 60.0  # a mark is there and SYNC packets are not
QEMU_STOP_SILENCE_S = 60.0  # the guest is stopped for as long: whoever hangs then must let it go on
QEMU_STALL_DEADLINE_S = 60.0  # a destination that takes no more bytes
QEMU_STORE_DEADLINE_S = 600.0  # the guest is stopped meanwhile; 60 GiB at 100 MB/s
QEMU_PONG_DEADLINE_S = 20.0  # a destination answers the first PING when all channels are there, before it loads
QEMU_SHUT_DEADLINE_S = 120.0  # a destination loads its devices in it
QEMU_ACKS_MAX = 4096  # requests of devices for SWITCHOVER_ACK; each is kept for the report
QEMU_SECTIONS_BYTES_MAX = 512 * MIB  # all device sections of a machine, in memory until they are stored
QEMU_SECTION_COST_BYTES = 512  # what a section takes beside its body, about
QEMU_SECTION_BYTES_MAX = 288 * MIB  # one body: virtio-gpu sends its resources, 256 MiB unless told otherwise
QEMU_SECTIONS_MAX = 4096  # of a machine; ten times what the largest have
QEMU_MACHINE_BYTES_MAX = 128  # a machine type's name; the longest have 30
QEMU_CAPABILITIES_MAX = 64  # that the configuration lists: QEMU knows 30, and lists two of them at most
QEMU_PAGE_BITS_MIN = 10  # pages of 1 KiB, the smallest target that QEMU had; the flags of RAM records need ten bits
QEMU_PAGE_BITS_MAX = 16  # pages of 64 KiB, the largest
QEMU_RAM_BLOCKS_MAX = 4096  # 256 memory slots, and a ROM or a video memory for each device
QEMU_RAM_BYTES_MAX = 65536 * GIB  # of all blocks; four times what the largest guest has
QEMU_ZERO_RECORDS_MAX = 65536  # zero pages that come as one element: half a MiB of offsets
QEMU_DESCRIPTION_BYTES_MAX = 16 * MIB  # 44 KiB for a plain machine, about 10 KiB more for each virtual CPU
QEMU_DESCRIPTION_ITEMS_MAX = 1000000  # objects, arrays and their members: some hundred bytes of memory each
QEMU_DESCRIPTION_NESTING_MAX = 64  # levels of subsections; devices have three
QEMU_PLAN_PAGES_MAX = 262144  # whose offsets a source has worked out ahead: 2 MiB of them, for 1 GiB of a guest
QEMU_PENDING_CONNECTIONS_MAX = 512  # accepted and not yet known: twice what one source opens at once
QEMU_FIRST_BYTES_DEADLINE_S = 10.0  # a source writes main's header only after it has begun all its channels
QEMU_TURN_ELEMENTS_MAX = 256  # of main, handled in one turn of the loop: some ms, so that all else goes on
QEMU_ZERO_NOW_PAGES_MAX = 1024  # zeroed on the loop: 4 MiB take less than a hop to a thread and back; more goes there
QEMU_FLUSH_BYTES = GIB  # that arrived since the last early flush: a second of a fast disk
QEMU_GONE_DEADLINE_S = 5.0  # after SHUT 0 a source closes its connections within milliseconds
QEMU_FLUSH_PAUSE_S = 1.0  # between two early flushes: a guest that writes little would keep the disk busy for nothing
QEMU_EARLY_BYTES = 256 * KIB  # kept free in a saved machine's file for sections before RAM; those seen have 100 bytes
QEMU_MANIFEST_BYTES_MAX = 8 * MIB  # of a saved machine; sections and blocks take some 200 bytes each
QEMU_DIGEST_BYTES = 4 * MIB  # hashed at a time: 3 ms, so that whoever follows sees it move and can end it
QEMU_DONE_DEADLINE_S = 30.0  # a source that took SHUT 0 closes main within milliseconds; a doubt is a person's work
QEMU_CONTINUE_DEADLINE_S = 30.0  # a far end's QEMU that was told to go on does so at once, if its main loop is free
QEMU_QMP_DEADLINE_S = 10.0  # an answer of its monitor; the main loop stands still while it waits for SYNCs
QEMU_HOP_PACKETS_MAX = 4  # of a channel, between its worker and the native dialect: half a MiB each
QEMU_HOP_ALIVE_S = 60.0  # a relay that has nothing to pass on says so this often; far below SILENCE_DEADLINE_S
QEMU_HOP_CREDIT_BYTES = 8 * MIB  # of each channel, under way to the far relay: 80 MB/s at 100 ms

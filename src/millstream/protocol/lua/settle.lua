-- Settle deliveries of a consumer, promote what is due or urgent, and tell what is left to read.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] senders  KEYS[15] room  KEYS[16..] results, result-ends and waiters, if the
-- queue has results; kept, if it keeps messages
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] now in ms or ''  ARGV[4] most messages to promote
-- ARGV[5] '1': wake a reader if a retry is due first  ARGV[6] which priorities to move to the front
-- (lib/priority) or ''  ARGV[7] number of plain acks, all in ready
-- ARGV[8..] their ids, then the other settlements (see lib/round)
-- Returns lost tokens, {token, error} that could not be settled now, us to the next due message
-- or -1, whether front has unread messages, whether suspect has (1 or 0), now, waiting priorities; if
-- the queue has results: ids of messages that have ended, each followed by who waits for it.
-- @include clock
-- @include acks
-- @include usual_round
local now = clock(ARGV[3])
local reply = usual_round(now)
if reply then return reply end
-- @include lanes
-- @include moves
-- @include arrive
-- @include expire
-- @include keep
-- @include settle
-- @include group
-- @include due
-- @include round
-- @include priority
-- @include room
local lost, kept, due = settle_and_promote(8, now)
local left, refused = raise(ARGV[6], now)
-- Those behind are left for other readers, who may be asleep.
if left then redis.pcall('XADD', KEYS[8], 'MAXLEN', 16, '*', 'priority', 'more') end
call_sender(KEYS[14], KEYS[15])
-- Without memory for the urgent ones the consumer must not spin.
local waiting = {}
if refused then due = 1000000 else waiting = levels() end
return { lost, kept, due, unread(KEYS[2]), unread(KEYS[3]), now, waiting, awaited }

-- Acknowledge one plain message of ready: the end that has nothing to bring along.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] senders  KEYS[9] room
-- ARGV[1] group  ARGV[2] id
-- Returns 1, or 0 when the message is not the consumer's any more.
-- @include room
local acked = redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
-- As in lib/acks: an id in ready has one owner in its life.
local deleted = redis.call('XDEL', KEYS[1], ARGV[2])
if acked == 1 then redis.pcall('HINCRBY', KEYS[5], 'acked', 1) end
call_sender(KEYS[8], KEYS[9])
return (acked + deleted > 0) and 1 or 0

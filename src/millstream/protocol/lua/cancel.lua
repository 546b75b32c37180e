-- Delete one message that nobody has read yet, wherever it waits.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] senders  KEYS[15] room
-- ARGV[1] group  ARGV[2] id of the message  ARGV[3] token of its entry or ''  ARGV[4] now in ms or ''
-- ARGV[5] '1': a call whose answer was lost is repeated
-- Returns 1, 0 when it does not wait there, or -1 when it waits in a topic's log for others, too.
-- @include clock
-- @include lanes
-- @include moves
-- @include arrive
-- @include expire
-- @include group
-- @include waiting
-- @include room
local fields, stands = take_waiting(ARGV[2], ARGV[3])
if stands then return -1 end
if not fields then
  local lost = ARGV[5] == '1' and redis.call('HGET', KEYS[5], 'last_cancelled') == ARGV[2]
  return lost and 1 or 0
end
finish(ARGV[2], fields, clock(ARGV[4]))
redis.pcall('HINCRBY', KEYS[5], 'cancelled', 1)
redis.pcall('HSET', KEYS[5], 'last_cancelled', ARGV[2])
call_sender(KEYS[14], KEYS[15])
return 1

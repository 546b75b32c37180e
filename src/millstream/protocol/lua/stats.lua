-- Count a queue's messages by state, at one moment.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] kept
-- ARGV[1] group
-- Returns ready, in flight, delayed, dead, id of the message that has been ready longest or '',
-- the server's time in ms, counters (name, value, ...), consumers ({name, in flight, idle ms}, ...),
-- 1 when paused and 0 if not, kept.
-- @include clock
-- @include group
-- @include census
local keys = { KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[9], KEYS[10], KEYS[13] }
local ready, in_flight, delayed, dead, oldest, counters, consumers, paused = census(keys, ARGV[1])
return { ready, in_flight, delayed, dead, oldest, clock(''), counters, consumers, paused,
  redis.call('XLEN', KEYS[14]) }

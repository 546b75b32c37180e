-- Send the message of a tick and go on to the next tick, together and once: whoever comes later
-- finds another tick.
-- KEYS[1] schedules  KEYS[2] ready  KEYS[3] counters
-- ARGV[1] name  ARGV[2] JSON: spec, tz  ARGV[3] the tick in ms  ARGV[4] the next tick in ms
-- ARGV[5] now in ms or ''  ARGV[6] body  ARGV[7] headers (JSON); neither: the tick is left out
-- Returns 1 if it was done and 0 if the tick is over, paused or removed; the server's time in ms.
-- @include clock
-- @include schedule
local now = clock(ARGV[5])
local found = read_schedule(ARGV[1])
local ours = found and found.next == tonumber(ARGV[3]) and not found.paused
if not ours or not same_timing(found, cjson.decode(ARGV[2])) then return { 0, now } end
if ARGV[6] then
  redis.call('XADD', KEYS[2], '*', 'b', ARGV[6], 'h', ARGV[7])
  redis.call('HINCRBY', KEYS[3], 'sent', 1)
  found.last = found.next
end
found.next, found.claimed_by, found.claimed_until = tonumber(ARGV[4]), nil, nil
write_schedule(ARGV[1], found)
return { 1, now }

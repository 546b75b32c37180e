-- Ask for the due tick of a schedule: one worker at a time is granted it, for a while.
-- KEYS[1] schedules  KEYS[2] mark of its removal
-- ARGV[1] name  ARGV[2] JSON: spec, tz  ARGV[3] worker  ARGV[4] ms to grant
-- ARGV[5] now in ms or ''
-- Returns what is so, the server's time in ms, a time in ms, what to do with missed ticks. The time
-- is the tick if it is 'granted' or 'early', and the end of another worker's grant if it is 'taken'.
-- Both are empty if the schedule is 'paused', 'changed', 'removed' by people or 'lost'.
-- @include clock
-- @include schedule
local now = clock(ARGV[5])
local found = read_schedule(ARGV[1])
if not found then
  return { redis.call('EXISTS', KEYS[2]) == 1 and 'removed' or 'lost', now, 0, '' }
end
if not same_timing(found, cjson.decode(ARGV[2])) then return { 'changed', now, 0, '' } end
if found.paused then return { 'paused', now, 0, '' } end
if found.next > now then return { 'early', now, found.next, found.missed } end
if found.claimed_by and found.claimed_by ~= ARGV[3] and (found.claimed_until or 0) > now then
  return { 'taken', now, found.claimed_until, found.missed }
end
found.claimed_by, found.claimed_until = ARGV[3], now + tonumber(ARGV[4])
write_schedule(ARGV[1], found)
return { 'granted', now, found.next, found.missed }

-- Declare a schedule: the last word counts, but what ticks as before keeps its next tick.
-- KEYS[1] schedules  KEYS[2] mark of its removal
-- ARGV[1] name  ARGV[2] JSON: spec, tz, missed  ARGV[3] next tick in ms, if it is new or changed
-- Returns 1 if it is new or ticks at other times than before, else 0.
-- @include schedule
local declared = cjson.decode(ARGV[2])
local found = read_schedule(ARGV[1])
redis.call('DEL', KEYS[2])
if found and same_timing(found, declared) then
  -- Not written without need: a worker gets in on a server without free memory.
  if found.missed ~= declared.missed then
    found.missed = declared.missed
    write_schedule(ARGV[1], found)
  end
  return 0
end
declared.next = tonumber(ARGV[3])
declared.last = found and found.last
declared.paused = found and found.paused
write_schedule(ARGV[1], declared)
return 1

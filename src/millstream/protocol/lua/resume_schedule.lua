-- Resume a paused schedule with its next tick; what it would have sent meanwhile is not missed.
-- KEYS[1] schedules
-- ARGV[1] name  ARGV[2] JSON: spec, tz  ARGV[3] first tick after now, in ms
-- Returns 1; 0 when its times were changed meanwhile, so that another tick is the next.
-- @include schedule
local found = read_schedule(ARGV[1])
if not found or not same_timing(found, cjson.decode(ARGV[2])) then return 0 end
if found.paused then
  found.paused, found.next = nil, tonumber(ARGV[3])
  write_schedule(ARGV[1], found)
end
return 1

-- Pause a schedule.
-- KEYS[1] schedules
-- ARGV[1] name
-- Returns 1, or 0 when there is none. Safe to repeat.
-- @include schedule
local found = read_schedule(ARGV[1])
if not found then return 0 end
found.paused, found.claimed_by, found.claimed_until = true, nil, nil
write_schedule(ARGV[1], found)
return 1

-- A schedule as it is stored: JSON in a hash, by its name.
local function read_schedule(name)
  local ok, found = pcall(cjson.decode, redis.call('HGET', KEYS[1], name) or '')
  -- What anybody else has written there is no schedule.
  local valid = ok and type(found) == 'table'
    and type(found.next) == 'number' and type(found.missed) == 'string'
  if valid then return found end
end

local function write_schedule(name, schedule)
  redis.call('HSET', KEYS[1], name, cjson.encode(schedule))
end

-- Workers that were declared differently (an older release, say) must not count with each other's
-- ticks.
local function same_timing(schedule, other)
  return schedule.spec == other.spec and schedule.tz == other.tz
end

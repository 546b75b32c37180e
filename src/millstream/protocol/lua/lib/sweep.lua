-- One lane's share of a sweep, and the end of consumers that nobody misses.
local leases = {}
local function lease_of(consumer)
  if not leases[consumer] then
    leases[consumer] = tonumber(redis.call('HGET', KEYS[14], consumer) or ARGV[5])
  end
  return leases[consumer]
end

-- A delivery made just now expires no sooner than the shortest lease, so an idle queue needs
-- no look before that.
local function shortest_lease()
  local shortest = tonumber(ARGV[5])
  for _, lease in ipairs(redis.call('HVALS', KEYS[14])) do
    shortest = math.min(shortest, tonumber(lease))
  end
  return shortest
end

-- Returns how many entries it looked at, the last one's id, and ms until the first lease ends.
local function sweep_lane(lane, cursor, limit, outcomes, now)
  local first_expiry = math.huge
  if redis.call('EXISTS', lane) == 0 then return 0, nil, first_expiry end
  local pending = redis.call('XPENDING', lane, ARGV[1], cursor, '+', limit)
  local last
  for _, entry in ipairs(pending) do
    last = entry[1]
    local remaining = lease_of(entry[2]) - entry[3]
    if remaining > 0 then
      first_expiry = math.min(first_expiry, remaining)
    else
      local outcome = take_over(lane, ARGV[1], last, true, tonumber(ARGV[6]), now)
      outcomes[outcome] = outcomes[outcome] + 1
    end
  end
  return #pending, last, first_expiry
end

-- A reader follows a wake-up within milliseconds, or it is dead or busy: then it is for another.
-- Returns ms until one that is newer has to be looked at.
local function wake_again()
  local again, stale = math.huge, false
  for _, entry in ipairs(redis.pcall('XPENDING', KEYS[8], ARGV[1], '-', '+', 100)) do
    if entry[3] < 1000 then
      again = math.min(again, 1000 - entry[3])
    else
      remove(KEYS[8], ARGV[1], entry[1])
      stale = true
    end
  end
  if stale then tell_of_slots() end
  return again
end

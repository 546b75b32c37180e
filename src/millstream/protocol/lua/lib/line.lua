-- The line of producers that wait for room. Include room before it.
-- KEYS[14] senders  KEYS[15] room  KEYS[16] alive: ticket -> until when its producer counts as alive
local LAPSE_MS = 6000

-- Whoever has not been heard of holds nobody up.
local function forget_lapsed(now)
  for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', KEYS[16], '-inf', now)) do
    redis.call('ZREM', KEYS[14], ticket)
    redis.call('ZREM', KEYS[16], ticket)
  end
end

-- Changes a producer's ticket, either of which may be ''; it keeps its place, or goes to the end.
local function line_up(old, new, to_the_end, now)
  -- The new one is there already when a call is repeated whose answer was lost.
  local place = not to_the_end
    and (redis.call('ZSCORE', KEYS[14], old) or redis.call('ZSCORE', KEYS[14], new))
  redis.call('ZREM', KEYS[14], old)
  redis.call('ZREM', KEYS[16], old)
  if new ~= '' then
    local last = redis.call('ZRANGE', KEYS[14], -1, -1, 'WITHSCORES')[2] or 0
    redis.call('ZADD', KEYS[14], place or last + 1, new)
    redis.call('ZADD', KEYS[16], now + LAPSE_MS, new)
    redis.call('PEXPIRE', KEYS[14], LAPSE_MS)
    redis.call('PEXPIRE', KEYS[16], LAPSE_MS)
  end
  -- It has answered its call.
  local called = redis.call('XREVRANGE', KEYS[15], '+', '-', 'COUNT', 1)[1]
  if called and called[2][2] == old then redis.call('XTRIM', KEYS[15], 'MAXLEN', 0) end
end

-- Count the messages of a list queue by state, at one moment.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV: none
-- Returns what stats.lua does.
-- @include clock
-- @include elements
local consumers, in_flight = {}, redis.call('ZCARD', KEYS[3])
local now, seen = clock(''), redis.call('ZRANGE', KEYS[10], 0, -1, 'WITHSCORES')
for i = 1, #seen, 2 do
  local owned = redis.call('HLEN', processing(seen[i]))
  consumers[#consumers + 1] = { seen[i], owned, math.max(0, now - seen[i + 1]) }
end
-- A wake-up is no message, also where a read that slept has put it.
local ready = (has_nudge() and -1 or 0) - #redis.call('LPOS', KEYS[8], NUDGE, 'COUNT', 0)
-- Nobody has noted when a plain body came; the first element that tells is no older.
local oldest, oldest_ms = '', math.huge
for _, list in ipairs({ KEYS[1], KEYS[2], KEYS[8], KEYS[13] }) do
  ready = ready + redis.call('LLEN', list)
  local from = list == KEYS[8] and 0 or -2
  for _, element in ipairs(redis.call('LRANGE', list, from, from + 1)) do
    local _, id = decode(element)
    local ms = id and tonumber(string.match(id, '^%d+'))
    if ms and ms < oldest_ms then oldest, oldest_ms = id, ms end
  end
end
return {
  ready, in_flight, redis.call('ZCARD', KEYS[6]), redis.call('XLEN', KEYS[4]), oldest, now,
  redis.call('HGETALL', KEYS[5]), consumers, redis.call('EXISTS', KEYS[11]),
}

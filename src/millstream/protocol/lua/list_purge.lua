-- Delete messages of a list queue that nobody has taken yet, and delayed ones, some a call.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] most to delete, up to 1000
-- Returns how many were deleted; fewer than asked for means that nothing is left.
-- @include elements
local deleted, limit = 0, tonumber(ARGV[1])
drop_nudge()
redis.call('LREM', KEYS[8], 0, NUDGE)
for _, name in ipairs(redis.call('ZRANGE', KEYS[6], 0, limit - 1)) do
  redis.call('ZREM', KEYS[6], name)
  redis.call('HDEL', KEYS[7], name)
  deleted = deleted + 1
end
for _, list in ipairs({ KEYS[13], KEYS[2], KEYS[8], KEYS[1] }) do
  local length = math.min(limit - deleted, redis.call('LLEN', list))
  if length > 0 then
    redis.call('LTRIM', list, 0, -length - 1)
    deleted = deleted + length
  end
end
if deleted > 0 then redis.pcall('HINCRBY', KEYS[5], 'purged', deleted) end
return deleted

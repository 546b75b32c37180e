-- Delete messages that nobody has read yet, and delayed ones, some a call.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] due  KEYS[5] delayed  KEYS[6] counters
-- KEYS[7] paused
-- ARGV[1] group  ARGV[2] most to delete, up to 1000
-- Returns how many were deleted; fewer than asked for means that nothing is left.
-- @include group
local deleted, limit = 0, tonumber(ARGV[2])
for i = 1, 3 do
  if deleted < limit then
    local from = unread_from(find_group(KEYS[i], ARGV[1]), KEYS[i], KEYS[7])
    local ids = {}
    for _, entry in ipairs(redis.call('XRANGE', KEYS[i], from, '+', 'COUNT', limit - deleted)) do
      ids[#ids + 1] = entry[1]
    end
    if #ids > 0 then deleted = deleted + redis.call('XDEL', KEYS[i], unpack(ids)) end
  end
end
if deleted < limit then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[4], 0, limit - deleted - 1)) do
    redis.call('ZREM', KEYS[4], id)
    redis.call('HDEL', KEYS[5], id)
    deleted = deleted + 1
  end
end
if deleted > 0 then redis.pcall('HINCRBY', KEYS[6], 'purged', deleted) end
return deleted

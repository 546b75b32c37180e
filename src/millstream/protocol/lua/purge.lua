-- Delete messages that nobody has read yet, and delayed ones, some a call. In a topic's log they stay
-- for others: the subscription passes them over.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] senders  KEYS[15] room
-- ARGV[1] group  ARGV[2] most to delete, up to 1000  ARGV[3] now in ms or ''
-- Returns how many were deleted; fewer than asked for means that nothing is left.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include group
-- @include room
local now, deleted, limit = clock(ARGV[3]), 0, tonumber(ARGV[2])
-- The lines first: a message whose end lets the next one go on would only make more work.
for _, set in ipairs({ KEYS[10], KEYS[9], KEYS[6] }) do
  for _, member in ipairs(redis.call('ZRANGE', set, 0, limit - deleted - 1)) do
    local id = string.match(member, '%z([^%z]*)$') or member
    local packed = redis.call('HGET', KEYS[7], id)
    redis.call('ZREM', set, member)
    redis.call('HDEL', KEYS[7], id)
    if packed then finish(id, cmsgpack.unpack(packed), now) end
    deleted = deleted + 1
  end
  if deleted == limit then break end
end
for i = 1, 3 do
  if deleted < limit then
    local from = unread_from(find_group(KEYS[i], ARGV[1]), KEYS[i], KEYS[13])
    local entries = redis.call('XRANGE', KEYS[i], from, '+', 'COUNT', limit - deleted)
    if KEYS[i] == log then
      if #entries > 0 then stand_at(entries[#entries][1], log, KEYS[13]) end
    else
      for _, entry in ipairs(entries) do
        local state, rest = state_of(entry[1], entry[2])
        redis.call('XDEL', KEYS[i], entry[1])
        finish(state.id, rest, now)
      end
    end
    deleted = deleted + #entries
  end
end
if deleted > 0 then redis.pcall('HINCRBY', KEYS[5], 'purged', deleted) end
call_sender(KEYS[14], KEYS[15])
return deleted

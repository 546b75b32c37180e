-- Show messages that nobody has read yet, next to be delivered first, without touching them.
-- KEYS[1] front  KEYS[2] suspect  KEYS[3] ready  KEYS[4] paused
-- ARGV[1] group  ARGV[2] most entries
-- Returns entries as XRANGE does.
-- @include group
local found, limit = {}, tonumber(ARGV[2])
for i = 1, 3 do
  local from = unread_from(find_group(KEYS[i], ARGV[1]), KEYS[i], KEYS[4])
  if #found < limit then
    for _, entry in ipairs(redis.call('XRANGE', KEYS[i], from, '+', 'COUNT', limit - #found)) do
      found[#found + 1] = entry
    end
  end
end
return found

-- Show messages that nobody has read yet, next to be delivered first, without touching them.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused
-- ARGV[1] group  ARGV[2] most entries
-- Returns entries as XRANGE does; those that are in no lane yet have the id of their message.
-- @include group
local found, limit = {}, tonumber(ARGV[2])

local function show_lane(lane)
  if #found == limit then return end
  local from = unread_from(find_group(lane, ARGV[1]), lane, KEYS[13])
  for _, entry in ipairs(redis.call('XRANGE', lane, from, '+', 'COUNT', limit - #found)) do
    found[#found + 1] = entry
  end
end

local function show_set(set)
  if #found == limit then return end
  for _, member in ipairs(redis.call('ZRANGE', set, 0, limit - #found - 1)) do
    local id = string.match(member, '%z([^%z]*)$') or member
    local packed = redis.call('HGET', KEYS[7], id)
    if packed then found[#found + 1] = { id, cmsgpack.unpack(packed) } end
  end
end

show_lane(KEYS[2])
show_lane(KEYS[3])
show_set(KEYS[9])
show_lane(KEYS[1])
show_set(KEYS[10])
return found

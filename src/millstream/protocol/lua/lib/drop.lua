-- Making room in a full queue: the oldest messages that nobody has read are deleted.
-- Include moves, arrive, group and room before it.
local known = {}
local function group_of(i)
  -- It reads nothing meanwhile.
  if known[i] == nil then known[i] = find_group(KEYS[i], ARGV[6]) or false end
  return known[i] or nil
end

local function drop_entry(i, now)
  local from = unread_from(group_of(i), KEYS[i], KEYS[13])
  local entry = redis.call('XRANGE', KEYS[i], from, '+', 'COUNT', 1)[1]
  if not entry then return false end
  local state, rest = state_of(entry[1], entry[2])
  redis.call('XDEL', KEYS[i], entry[1])
  finish(state.id, rest, now)
  return true
end

local function drop_member(set, member, now)
  if not member then return false end
  local id = string.match(member, '%z([^%z]*)$') or member
  local packed = redis.call('HGET', KEYS[7], id)
  redis.call('ZREM', set, member)
  redis.call('HDEL', KEYS[7], id)
  if packed then
    local state, rest = state_of(id, cmsgpack.unpack(packed))
    finish(state.id, rest, now)
  end
  return true
end

local function least_urgent()
  local score = redis.call('ZRANGE', KEYS[9], -1, -1, 'WITHSCORES')[2]
  return score and redis.call('ZRANGEBYSCORE', KEYS[9], score, score, 'LIMIT', 0, 1)[1]
end

-- What was handed back comes last: somebody had begun with it, or was about to.
local function drop_oldest(now)
  return drop_entry(1, now)
    or drop_member(KEYS[9], least_urgent(), now)
    or drop_member(KEYS[10], redis.call('ZRANGE', KEYS[10], 0, 0)[1], now)
    or drop_member(KEYS[6], redis.call('ZRANGE', KEYS[6], 0, 0)[1], now)
    or drop_entry(2, now) or drop_entry(3, now)
end

-- Whether room can be made for so many messages: not in the place of those that somebody is at.
local function can_drop(count, most)
  local free = most
  for i = 1, 3 do
    local group = group_of(i)
    free = free - (group and group.pending or 0)
  end
  return free >= count
end

-- Makes room for so many messages. Returns whether it did; if it cannot, nothing is dropped.
-- A queue that was longer when it got its bound shrinks a thousand a call: the server has others.
local function drop(count, most, now)
  if not can_drop(count, most) then return false end
  local dropped, limit = 0, count + 1000
  while dropped < limit and queue_length() + count > most and drop_oldest(now) do dropped = dropped + 1 end
  redis.call('HINCRBY', KEYS[5], 'dropped', dropped)
  return dropped == limit or queue_length() + count <= most
end

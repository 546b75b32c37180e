-- The due set: when the next message is due, and the way back into the lanes.
local function next_due()
  local score = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')[2]
  return score and tonumber(score)
end

-- A suspect stays one while it waits: the time does not make it harmless to its neighbours.
local function lane_of(fields)
  if fields[#fields - 1] == 's' then
    local state = cjson.decode(fields[#fields])
    if (state.crashes or 0) > 1 then return KEYS[3] end
  end
  return KEYS[1]
end

-- Returns whether the server refused to store a message.
local function promote(now, limit)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', now, 'LIMIT', 0, limit)) do
    local packed = redis.call('HGET', KEYS[7], name)
    if packed then
      local fields = cmsgpack.unpack(packed)
      local reply = redis.pcall('XADD', lane_of(fields), '*', unpack(fields))
      -- Out of memory: it stays due, and the acks of the next calls will make room.
      if failed(reply) then return true end
      redis.call('HDEL', KEYS[7], name)
    end
    redis.call('ZREM', KEYS[6], name)
  end
  return false
end

-- Whether a lane has messages that nobody has read yet: 1 or 0. The lane is nearly always empty.
-- Lengths do not tell: somebody may have acknowledged an entry without deleting it.
local function unread(lane)
  if redis.call('XLEN', lane) == 0 then return 0 end
  return #redis.call('XRANGE', lane, unread_from(find_group(lane, ARGV[1])), '+', 'COUNT', 1)
end

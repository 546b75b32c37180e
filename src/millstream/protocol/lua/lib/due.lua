-- The due set: when the next message is due, and the way back into the lanes.
local function next_due()
  local score = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')[2]
  return score and tonumber(score)
end

-- Returns whether the server refused to store a message.
local function promote(now, limit)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', now, 'LIMIT', 0, limit)) do
    local packed = redis.call('HGET', KEYS[7], name)
    -- Out of memory: it stays due, and the acks of the next calls will make room.
    if packed and not arrive(name, cmsgpack.unpack(packed), true, now) then return true end
    redis.call('ZREM', KEYS[6], name)
  end
  return false
end

-- A sleeping reader knows of the first due time that there was when it fell asleep.
local function wake_if_earlier(first_due, due, now)
  if due and due > now and (not first_due or due < first_due) then
    redis.pcall('XADD', KEYS[8], 'MAXLEN', 16, '*', 'due', due)
  end
end

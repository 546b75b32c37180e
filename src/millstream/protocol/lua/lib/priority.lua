-- Messages above the normal priority, on their way to the front. Include expire before it.
local function lift(id, now)
  local packed, score = redis.call('HGET', KEYS[7], id), redis.call('ZSCORE', KEYS[9], id)
  -- A full server refuses a script only at its first write. This one needs no memory, so the
  -- message can be handed out, and its end will free some.
  redis.call('ZREM', KEYS[9], id)
  if packed then
    local fields = cmsgpack.unpack(packed)
    local expired, problem = has_expired(named(fields), now), nil
    if expired then
      problem = end_expired(id, fields, now)
    else
      problem = failed(redis.pcall('XADD', KEYS[2], '*', unpack(fields)))
    end
    if problem then
      redis.call('ZADD', KEYS[9], score, id)
      return false
    end
    redis.call('HDEL', KEYS[7], id)
    if expired then finish(id, fields, now) end
  end
  return true
end

-- Whether there are some, and the queue is not paused.
local function urgent_wait()
  return redis.call('EXISTS', KEYS[9]) == 1 and redis.call('EXISTS', KEYS[13]) == 0
end

-- Moves them to the front: `plan` is how many, from the highest on ('12'), or how many of each
-- level ('9=3 5=2'). Returns whether some are left, and whether the server refused to store one.
local function raise(plan, now)
  if plan == '' or not urgent_wait() then return false, false end
  local ids = {}
  if tonumber(plan) then ids = redis.call('ZRANGE', KEYS[9], 0, tonumber(plan) - 1) end
  for level, count in string.gmatch(plan, '(%d)=(%d+)') do
    local some = redis.call('ZRANGEBYSCORE', KEYS[9], '-' .. level, '-' .. level, 'LIMIT', 0, count)
    for _, id in ipairs(some) do ids[#ids + 1] = id end
  end
  for _, id in ipairs(ids) do
    if not lift(id, now) then return false, true end
  end
  return redis.call('EXISTS', KEYS[9]) == 1, false
end

-- Which priorities have messages that wait, the highest first. In a paused queue nobody is to look
-- for them.
local function levels()
  local found = {}
  if redis.call('EXISTS', KEYS[9]) == 0 or redis.call('EXISTS', KEYS[13]) == 1 then return found end
  for level = 9, 1, -1 do
    if redis.call('ZCOUNT', KEYS[9], -level, -level) > 0 then found[#found + 1] = level end
  end
  return found
end

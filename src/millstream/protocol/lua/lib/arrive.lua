-- Where a message goes whose time has come, and what follows its end. Include moves before it.
-- KEYS are those of QueueKeys.common.
local arrive

local function named(fields)
  local by_name = {}
  for i = 1, #fields, 2 do by_name[fields[i]] = fields[i + 1] end
  return by_name
end

-- The key whose gate a message goes through, if any. In a line a zero byte ends the key; only a
-- foreign producer writes a key with one.
local function gated(it)
  return it.o and it.k and not string.find(it.k, '%z') and it.k
end

-- A gate lets so many messages of one key into circulation; `holders` has their ids. `left`: those
-- that it has, if that is known. Returns whether this one is in, or nil when the server has no
-- memory to store it.
local function enter(key, id, gate, left)
  local held = left or redis.call('HGET', KEYS[11], key)
  -- One gets in at the least: whoever waits for nobody would wait for ever.
  local free = math.max(1, tonumber(gate) or 1)
  for other in string.gmatch(held or '', '%S+') do
    if other == id then
      if left then redis.call('HSET', KEYS[11], key, left) end
      return true
    end
    free = free - 1
  end
  if free <= 0 then return false end
  local reply = redis.pcall('HSET', KEYS[11], key, (held or '') ~= '' and held .. ' ' .. id or id)
  return not failed(reply) and true or nil
end

-- A message's place in the line of its key. A log counts its ids from 0 in each ms, so as texts they do
-- not sort as they came, but with zeros before them.
local function line_member(key, name)
  local ms, seq = string.match(name, '^(%d+)%-(%d+)')
  if not log or not ms then return key .. '\0' .. name end
  local sorted = string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #seq) .. seq
  return key .. '\0' .. sorted .. '\0' .. name
end

-- A message has left the gate of its key: the next of the line takes its place.
local function leave_gate(key, id, now)
  local held = redis.call('HGET', KEYS[11], key)
  if not held then return end
  local left = ''
  if held ~= id then
    local others = {}
    for other in string.gmatch(held, '%S+') do
      if other ~= id then others[#others + 1] = other end
    end
    left = table.concat(others, ' ')
    if left == held then return end
  end
  local from, to = '[' .. key .. '\0', '(' .. key .. '\1'
  for expired = 0, math.huge do
    local first = redis.call('ZRANGEBYLEX', KEYS[10], from, to, 'LIMIT', 0, 1)[1]
    if not first then break end
    redis.call('ZREM', KEYS[10], first)
    local name = string.match(first, '%z([^%z]*)$')
    local packed = redis.call('HGET', KEYS[7], name)
    -- The next one may have expired meanwhile. After many of those, one goes on as if it had not,
    -- for its consumer to find out: others want to use the server, too.
    local moment = expired < 100 and now or 0
    local became = packed and arrive(name, cmsgpack.unpack(packed), true, moment, left)
    if became == 'placed' then return end
    -- It may be parked again: its gate may be narrower than that of those who are still in.
    if packed and became ~= 'expired' then break end
  end
  -- Whoever came in has been noted with those that are left.
  if left == '' then redis.call('HDEL', KEYS[11], key) else redis.call('HSET', KEYS[11], key, left) end
end

-- For how many ms to keep what its handler returns, if its sender wants that.
local function wants_result(it)
  local ms = it.r and tonumber(string.match(it.r, '^result=(%d+)$'))
  return ms and math.min(ms, 1e13)
end

-- To be called when a message has ended for good; `it` has its fields by their names.
local function finish_named(id, it, now)
  local key = it.u and string.match(it.u, '^%l+:(.*)$')
  if key and redis.call('HGET', KEYS[12], key) == id then redis.call('HDEL', KEYS[12], key) end
  if wants_result(it) then redis.call('HDEL', KEYS[12], '\0' .. id) end
  if gated(it) then leave_gate(it.k, id, now) end
end

local function finish(id, fields, now)
  finish_named(id, named(fields), now)
end

-- The same for one whose entry is gone from the log, with its key: only the gate that it is in knows that.
local function finish_trimmed(id, now)
  local held = redis.call('HGETALL', KEYS[11])
  for i = 1, #held, 2 do
    for other in string.gmatch(held[i + 1], '%S+') do
      if other == id then return leave_gate(held[i], id, now) end
    end
  end
end

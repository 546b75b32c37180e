-- Accepting one message: its id, its unique key, and the place where it belongs.
local last_ms, last_number

-- The id of a message that gets no entry of its own yet. It is as unique as those that the server
-- gives: a stream does not count to a million within a millisecond.
local function new_id(now)
  if not last_ms then
    local last = redis.call('HMGET', KEYS[5], 'last_ms', 'last_number')
    last_ms, last_number = tonumber(last[1]) or 0, tonumber(last[2]) or 0
  end
  -- Ids only grow, whatever the clock does: the order of a key's messages is that of their ids, as
  -- texts. So the number keeps its seven digits, also when the clock is set back for hours.
  if now > last_ms then
    last_ms, last_number = now, 0
  elseif last_number < 8999999 then
    last_number = last_number + 1
  else
    last_ms, last_number = last_ms + 1, 0
  end
  redis.call('HSET', KEYS[5], 'last_ms', last_ms, 'last_number', last_number)
  return string.format('%.0f-%.0f', last_ms, 1000000 + last_number)
end

-- The message that a unique key or its window stands for already, if any.
local function first_of(unique, window)
  local kind, rest = string.match(unique, '^(%l+):(.*)$')
  local key = kind == 'window' and string.match(rest, '^%d+:(.*)$') or rest
  return redis.call('HGET', KEYS[12], key) or redis.call('GET', window)
end

local function claim(unique, window, id)
  local kind, rest = string.match(unique, '^(%l+):(.*)$')
  if kind == 'window' then
    redis.call('SET', window, id, 'PX', string.match(rest, '^%d+'))
  else
    redis.call('HSET', KEYS[12], rest, id)
  end
end

local function due_time(time, now)
  local delay = string.match(time, '^%+(%d+)$')
  local due = delay and after(now, tonumber(delay)) or tonumber(time)
  return due and due > now and due
end

-- Its sender may ask after a message that wants a result: until its end it is named here.
local function expect_result(id)
  redis.call('HSET', KEYS[12], '\0' .. id, id)
end

-- Places the message at ARGV[i]; returns its id.
local function place(i, now)
  local body, headers, key, gate, priority, time, ttl, unique, result = unpack(ARGV, i, i + 8)
  local fields = { 'b', body }
  local function add(name, value)
    if value == '' then return end
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  local lives, drop = string.match(ttl, '^(%d+)(.*)$')
  add('h', headers)
  add('k', key)
  add('o', gate)
  add('p', priority)
  add('x', lives and string.format('%.0f', now + lives) .. drop or '')
  add('u', string.sub(unique, 1, 7) == 'window:' and '' or unique)
  add('r', result ~= '' and 'result=' .. result or '')
  local due = due_time(time, now)
  if not due and gate == '' and priority == '' then
    local id = redis.call('XADD', KEYS[1], '*', unpack(fields))
    if result ~= '' then expect_result(id) end
    return id
  end
  local id = new_id(now)
  if result ~= '' then expect_result(id) end
  add('s', '{"id":"' .. id .. '"}')
  if due then
    redis.call('HSET', KEYS[7], id, cmsgpack.pack(fields))
    redis.call('ZADD', KEYS[6], due, id)
  else
    arrive(id, fields, false, now)
  end
  return id
end

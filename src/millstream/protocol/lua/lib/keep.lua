-- Keeping what has been handled, and what came of it, in a queue that is declared so. Include moves and
-- arrive before it.
local keeping

-- The bounds are '' where there is none: age in ms, how many, bytes. The stream is the last key.
local function begin_keeping(age, length, bytes)
  keeping = { stream = KEYS[#KEYS], age = tonumber(age), length = tonumber(length), bytes = tonumber(bytes) }
end

-- A message is acknowledged and its entry is gone: a full server refuses a script only at its first write,
-- so it lets this one pass. It goes behind those that were handled before.
local function keep_handled(id, fields, it)
  if not keeping then return end
  if not it.s or #fields > 2000 then
    local state, rest = state_of(id, fields)
    fields = with_state(it.s and state or { id = state.id }, rest)
  end
  redis.pcall('XADD', keeping.stream, '*', unpack(fields))
end

-- The bounds hold after each call that acknowledges something; all of them do.
local function trim_kept(now)
  local stream = keeping.stream
  if keeping.age then redis.call('XTRIM', stream, 'MINID', math.max(0, now - keeping.age)) end
  if keeping.length then redis.call('XTRIM', stream, 'MAXLEN', keeping.length) end
  local bytes = keeping.bytes and redis.call('MEMORY', 'USAGE', stream) or 0
  if keeping.bytes and bytes > keeping.bytes then
    -- Whole blocks of entries: without them nothing is freed, and the next call would want to trim again.
    local length = redis.call('XLEN', stream)
    redis.call('XTRIM', stream, 'MAXLEN', '~', math.floor(length * keeping.bytes / bytes))
  end
end

-- Results: a hash of what handlers have returned, a sorted set of when that is dropped, and a hash of who
-- waits for it. `awaited` has the ids of those that have ended, each followed by who waits.
local results, ends, waiters, awaited

local function begin_results(first)
  results, ends, waiters, awaited = KEYS[first], KEYS[first + 1], KEYS[first + 2], {}
end

local function call_waiters(id, it)
  local noted = results and wants_result(it) and redis.call('HGET', waiters, id)
  if not noted then return end
  redis.call('HDEL', waiters, id)
  awaited[#awaited + 1] = id
  awaited[#awaited + 1] = noted
end

-- What has come before it, and is over, goes: a few more a call than can come.
local function keep_result(id, it, value, now)
  local ms = results and wants_result(it)
  if not ms then return end
  redis.pcall('HSET', results, id, value)
  redis.pcall('ZADD', ends, now + ms, id)
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 10)) do
    redis.call('HDEL', results, old)
    redis.call('ZREM', ends, old)
  end
  local last = redis.call('ZRANGE', ends, -1, -1, 'WITHSCORES')[2]
  if last then
    redis.call('PEXPIRE', results, last - now + 1)
    redis.call('PEXPIRE', ends, last - now + 1)
  end
  call_waiters(id, it)
end

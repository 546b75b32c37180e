-- Keeping what has been handled, in a queue that is declared so. Include moves before it.
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

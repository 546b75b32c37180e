-- The time to live: the field `x` is when a message that no handler has begun with expires, in ms,
-- and perhaps the word drop. Include arrive before it.
local function has_expired(it, now)
  local at = it.x and tonumber(string.match(it.x, '^%d+'))
  if not at or at > now then return false end
  local state = it.s and read_state(it.s) or {}
  return whole(state.attempts) + whole(state.crashes) == 0
end

-- Returns what was refused, or nil.
local function end_expired(id, fields, now)
  local drops = string.find(named(fields).x or '', 'drop', 1, true)
  if not drops then
    local state, rest = state_of(id, fields)
    state.reason = 'expired'
    local problem = failed(bury(KEYS[4], state, rest, now))
    if problem then return problem end
  end
  redis.pcall('HINCRBY', KEYS[5], drops and 'dropped' or 'died', 1)
  redis.pcall('HINCRBY', KEYS[5], 'expired', 1)
end

-- A suspect stays one while it waits: the time does not make it harmless to its neighbours.
local function is_suspect(it)
  -- Most have no crashes: looking for the word costs less than reading all.
  return it.s ~= nil and string.find(it.s, '"crashes"', 1, true) ~= nil
    and whole(read_state(it.s).crashes) > 1
end

-- Keeps the body of a message that waits somewhere. Returns whether there was memory.
local function keep(id, fields, stored)
  return stored or not failed(redis.pcall('HSET', KEYS[7], id, cmsgpack.pack(fields)))
end

-- Puts a message into the line of its key, among those of its priority, or into its lane; `stored`:
-- its body is in `delayed`; `left`: who is in its gate, if known. Returns 'placed', 'parked' (in a line), 'expired', or nil: no memory.
arrive = function(id, fields, stored, now, left)
  local it = named(fields)
  if has_expired(it, now) then
    if end_expired(id, fields, now) then return nil end
    redis.call('HDEL', KEYS[7], id)
    finish(id, fields, now)
    return 'expired'
  end
  -- A name may have more behind the id of the message (see retry); the gate knows only ids.
  local entered = not gated(it) or enter(it.k, string.match(id, '^[^/]*'), it.o, left)
  if entered == nil then return nil end
  local suspect, level = is_suspect(it), string.match(it.p or '', '^[1-9]$')
  if not entered or level and not suspect then
    if not keep(id, fields, stored) then return nil end
    if not entered then
      return not failed(redis.pcall('ZADD', KEYS[10], 0, line_member(it.k, id))) and 'parked' or nil
    end
    if failed(redis.pcall('ZADD', KEYS[9], '-' .. level, id)) then return nil end
    -- Those who sleep see no sorted set.
    if redis.call('ZCARD', KEYS[9]) == 1 then redis.pcall('XADD', KEYS[8], 'MAXLEN', 16, '*', 'priority', id) end
    return 'placed'
  end
  if failed(redis.pcall('XADD', suspect and KEYS[3] or home, '*', unpack(fields))) then return nil end
  if stored then redis.call('HDEL', KEYS[7], id) end
  return 'placed'
end

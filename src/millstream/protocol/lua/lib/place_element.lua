-- Where the messages of a list queue go. Include arrive, expire and elements before it.
-- In the place of the one for streams: no message of a list has a gate, a priority or a unique key.
arrive = function(id, fields, stored, now)
  local it = named(fields)
  if has_expired(it, now) then
    if end_expired(id, fields, now) then return nil end
    redis.call('HDEL', KEYS[7], id)
    return 'expired'
  end
  local suspect = is_suspect(it)
  -- A name may have more behind the id of the message (see retry).
  local element = encode(string.match(id, '^[^/]*'), fields)
  if failed(redis.pcall('LPUSH', suspect and KEYS[2] or KEYS[1], element)) then return nil end
  if stored then redis.call('HDEL', KEYS[7], id) end
  if suspect then nudge() end
  return 'placed'
end

-- Among those that are taken before the others. Returns what was refused, or nil.
local function hand_back(state, rest, suspect)
  local element = encode(state.id, with_state(state, rest))
  local problem = failed(redis.pcall('LPUSH', suspect and KEYS[2] or KEYS[13], element))
  if not problem then nudge() end
  return problem
end

-- Takes what a consumer has of a message; call it after its copy is safe elsewhere.
local function let_go(consumer, token)
  redis.call('ZREM', KEYS[3], token .. ' ' .. consumer)
  return redis.call('HDEL', processing(consumer), token)
end

local function read_taken(consumer, token)
  local element = redis.call('HGET', processing(consumer), token)
  if not element then return nil end
  local fields, id = decode(element)
  return state_of(id or token, fields)
end

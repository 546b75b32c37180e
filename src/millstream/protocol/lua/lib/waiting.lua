-- Finding a message that nobody has read yet, and taking it out. Include arrive before it.
local function is_unread(entry)
  local from = unread_from(find_group(log, ARGV[1]), log, KEYS[13])
  local first = redis.call('XRANGE', log, from, entry, 'COUNT', 1)[1]
  return first ~= nil
end

-- An entry of a lane, unless a consumer has it. Returns the message's fields, or nil, and then
-- whether it stands in a log for others, too: nobody can take it out.
local function take_entry(lane, entry, id)
  local state, rest = read(lane, entry)
  if not state or state.id ~= id then return nil end
  -- Without a group nobody has read anything; the error has no elements.
  if #redis.pcall('XPENDING', lane, ARGV[1], entry, entry, 1) > 0 then return nil end
  if lane == log then return nil, is_unread(entry) end
  redis.call('XDEL', lane, entry)
  return with_state(state, rest)
end

-- `token` names its entry, when the message has been moved; '' when it may have its first one.
local function take_waiting(id, token)
  local packed = redis.call('HGET', KEYS[7], id)
  if not packed then
    local lane, entry = locate(token == '' and id or token)
    return take_entry(lane, entry, id)
  end
  local fields = cmsgpack.unpack(packed)
  local key = named(fields).k
  redis.call('ZREM', KEYS[6], id)
  redis.call('ZREM', KEYS[9], id)
  if key then redis.call('ZREM', KEYS[10], line_member(key, id)) end
  redis.call('HDEL', KEYS[7], id)
  return fields
end

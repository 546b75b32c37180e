-- Giving elements of a list to a consumer. Include place and place_element before it.
-- A delivery's token is the id of its message, if it is the first one. A message that has been
-- handed back, or whose id the consumer has already, gets another, so a late owner owns nothing.
local function deliver(elements, prefix, key, now)
  local tokens, all, found = {}, {}, {}
  for i = #elements, 1, -1 do
    if elements[i] ~= NUDGE then
      local fields, id = decode(elements[i])
      id = id or new_id(now)
      found[#found + 1] = fields
      all[#all + 1] = id
      local moved = #fields > 2 and named(fields).s
      tokens[#tokens + 1] = moved and prefix .. new_id(now) or prefix .. id
    end
  end
  local held, seen = #tokens > 0 and redis.call('HMGET', key, unpack(tokens)) or {}, {}
  for i, token in ipairs(tokens) do
    if held[i] or seen[token] then tokens[i] = prefix .. new_id(now) end
    seen[tokens[i]] = true
    if tokens[i] ~= all[i] and not named(found[i]).s then
      found[i] = with_state({ id = all[i] }, found[i])
    end
  end
  return tokens, all, found
end

-- Moves up to so many elements, some hundred at a time: Lua can hand over only some thousand values.
-- What is written first is what a full server refuses: then nothing has been moved. Returns how many
-- more it may be, and what was refused, if anything.
local function take(list, prefix, limit, consumer, lease, now, entries)
  local key = processing(consumer)
  while limit > 0 do
    local elements = redis.call('LRANGE', list, -math.min(limit, 500), -1)
    if #elements == 0 then break end
    local tokens, ids, found = deliver(elements, prefix, key, now)
    local values, ends = {}, {}
    for i, token in ipairs(tokens) do
      values[2 * i - 1], values[2 * i] = token, encode(ids[i], found[i])
      ends[2 * i - 1], ends[2 * i] = string.format('%.0f', now + lease), token .. ' ' .. consumer
      entries[#entries + 1] = { token, found[i] }
    end
    if #tokens > 0 then
      local problem = failed(redis.pcall('HSET', key, unpack(values)))
      if problem then return limit, problem end
      redis.call('ZADD', KEYS[3], unpack(ends))
    end
    redis.call('LTRIM', list, 0, -#elements - 1)
    limit = limit - #tokens
  end
  return limit
end

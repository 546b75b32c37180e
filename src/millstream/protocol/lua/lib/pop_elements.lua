-- Taking elements of a list for good. Include place_element and place before it.
local function put_back(state, rest) return hand_back(state, rest, state.crashes > 1) end

-- The id of a message that came without one. What has been popped must not be lost because a server
-- without memory refuses to note that the id is given.
local function given_id(now, number)
  local ok, id = pcall(new_id, now)
  return ok and id or string.format('%.0f-%.0f', now, 9000000 + number)
end

local function pop(list, most, taken, now)
  while #taken < most do
    local elements = redis.call('RPOP', list, most - #taken)
    if not elements then return end
    for _, element in ipairs(elements) do
      if element ~= NUDGE then
        local id, ends = string.match(element, '^ms1 (%d+%-%d+)()\n')
        if not id or ends > 46 then
          local fields, own = decode(element)
          element = { own or given_id(now, #taken), fields }
        end
        taken[#taken + 1] = element
      end
    end
  end
end

-- Nobody sweeps where nothing is in flight: each call removes some consumers that are long gone.
local function forget_silent(before)
  for _, consumer in ipairs(redis.call('ZRANGEBYSCORE', KEYS[10], '-inf', before, 'LIMIT', 0, 100)) do
    if redis.call('EXISTS', processing(consumer)) == 0 then
      redis.call('HDEL', KEYS[9], consumer)
      redis.call('ZREM', KEYS[10], consumer)
    end
  end
end

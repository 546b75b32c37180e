-- The end of consumers that are gone. Include slots before it.
-- XGROUP DELCONSUMER drops what the consumer owns: it must own nothing but wake-ups. What it has
-- not followed is for another reader.
local function remove_consumer(name)
  for _, i in ipairs({ 1, 2, 3, 8 }) do
    if redis.call('EXISTS', KEYS[i]) == 1 then
      local dropped = redis.call('XGROUP', 'DELCONSUMER', KEYS[i], ARGV[1], name)
      if i == 8 and dropped > 0 then tell_of_slots() end
    end
  end
  redis.call('HDEL', KEYS[14], name)
end

-- Those that own nothing in any lane, and have not been heard of for so long.
local function remove_dead_consumers(silent_ms)
  local alive, idle_in = {}, {}
  for i = 1, 3 do
    -- An error (there is no such lane) has no elements.
    for _, info in ipairs(redis.pcall('XINFO', 'CONSUMERS', KEYS[i], ARGV[1])) do
      local name, pending, idle = info[2], info[4], info[6]
      if pending > 0 or idle < silent_ms then alive[name] = true end
      idle_in[name] = true
    end
  end
  for name in pairs(idle_in) do
    if not alive[name] and name ~= ARGV[2] then
      remove_consumer(name)
    end
  end
end

-- Tell what has become of requests that nobody has answered yet.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] members
-- ARGV[1] group  ARGV[2..] ids
-- Returns whether anybody serves the endpoint (1 or 0), and for each: ms since its delivery, or since
-- its lease was last extended; -1: it waits; -2: it is not there; -3: it was handed back by a worker.
local moved
-- Few are ever handed back: a worker was stopped, or a request that may be repeated has crashed.
local function is_moved(id)
  if not moved then
    moved = {}
    for i = 2, 3 do
      for _, entry in ipairs(redis.call('XRANGE', KEYS[i], '-', '+', 'COUNT', 1000)) do
        for j = 1, #entry[2], 2 do
          local own = entry[2][j] == 's' and string.match(entry[2][j + 1], '"id":"(%d+%-%d+)"')
          if own then moved[own] = true end
        end
      end
    end
  end
  return moved[id]
end

local found = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  -- Without a group an error has no elements.
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if pending then
    found[#found + 1] = pending[3]
  elseif #redis.call('XRANGE', KEYS[1], id, id) > 0 then
    found[#found + 1] = -1
  else
    found[#found + 1] = is_moved(id) and -3 or -2
  end
end
return { redis.call('EXISTS', KEYS[4]), found }

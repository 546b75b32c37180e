-- The groups of a consumer's streams. Include group before it.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] wake  KEYS[6] paused

-- Makes those that are missing; `start`: the last entry of ready that is not for this group. One that
-- is there keeps its place.
local function make_groups(name, start)
  local paused = redis.call('EXISTS', KEYS[6]) == 1
  for i = 1, 4 do
    -- Looking first lets a worker start on a server without free memory, which it will free.
    if not has_group(KEYS[i], name) then
      local from = i == 1 and start or '0-0'
      -- A lane of a paused queue comes back paused, and begins there when the queue goes on.
      local held = paused and i < 4
      if held then redis.call('HSET', KEYS[6], lane_name(KEYS[i]), from) end
      redis.call('XGROUP', 'CREATE', KEYS[i], name, held and NOWHERE or from, 'MKSTREAM')
    end
  end
end

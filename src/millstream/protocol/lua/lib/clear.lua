-- Deleting what is behind the group of a lane and pending for nobody: it was read at most once. Include
-- expire and group before it.

-- The first id behind this one, or nil: Lua does not count above 2^53, which only foreign ids reach.
local function behind(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  if tonumber(seq) >= 2 ^ 53 then return nil end
  return ms .. '-' .. string.format('%.0f', seq + 1)
end

-- Some entries a time, for one that has a unique key or stands in a gate is followed by something.
local function clear_range(lane, from, last, now)
  local cleared = 0
  while true do
    local page, ids = redis.call('XRANGE', lane, from, last, 'COUNT', 500), {}
    if #page == 0 then return cleared end
    for i, entry in ipairs(page) do ids[i] = entry[1] end
    -- First, since it frees the memory that what follows may need.
    cleared = cleared + redis.call('XDEL', lane, unpack(ids))
    for _, entry in ipairs(page) do
      if #entry[2] > 2 then
        local state, rest = state_of(entry[1], entry[2])
        finish(state.id, rest, now)
      end
    end
  end
end

-- Returns how many. What is pending belongs to consumers that acknowledge: it stays, and so does all
-- before it, which is theirs as well. A paused group stands behind everything, and has read nothing.
local function clear(lane, group, now)
  local last = group and group['last-delivered-id']
  if not last or last == NOWHERE or last == '0-0' then return 0 end
  local from, minimum = '-', behind(last)
  if group.pending > 0 then
    from = '(' .. redis.call('XPENDING', lane, ARGV[1])[3]
  elseif minimum and redis.call('EXISTS', KEYS[11], KEYS[12]) == 0 then
    -- Nothing follows from the end of any of them. Whole blocks of a stream go at once.
    return redis.call('XTRIM', lane, 'MINID', minimum)
  end
  return clear_range(lane, from, last, now)
end

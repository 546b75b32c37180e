-- Deleting from a log what its topic does not keep. KEYS and ARGV[2] are those of trim.lua; include
-- handled before it.

local left, more = tonumber(ARGV[2]), false
local policy = cjson.decode(redis.call('HGET', KEYS[2], 'retain') or '{}')
local bounded = policy.max_age or policy.max_length or policy.max_bytes

-- How many of the oldest entries are above the bounds of number and size.
local function excess()
  local length = redis.call('XLEN', KEYS[1])
  local over = policy.max_length and length - policy.max_length or 0
  if policy.max_bytes and length > 0 then
    local size = redis.call('MEMORY', 'USAGE', KEYS[1])
    over = math.max(over, math.min(length, math.ceil((size - policy.max_bytes) * length / size)))
  end
  return math.max(0, over)
end

-- Deletes what is before an entry. Whole nodes of the stream go first, at next to no cost; that stops
-- before the node that would exceed the limit. What is left then is a part of one node.
local function delete_before(id)
  local gone = redis.call('XTRIM', KEYS[1], 'MINID', '~', id, 'LIMIT', left)
  if gone > left / 2 then
    more = true
  else
    gone = gone + redis.call('XTRIM', KEYS[1], 'MINID', id)
  end
  left = left - gone
  return gone
end

-- The same with at most so many.
local function delete_some(id, count)
  if count > left then count, more = left, true end
  local gone = redis.call('XTRIM', KEYS[1], 'MINID', '~', id, 'LIMIT', count)
  if gone < count then
    local rest = #redis.call('XRANGE', KEYS[1], '-', '(' .. id, 'COUNT', count - gone)
    gone = gone + redis.call('XTRIM', KEYS[1], 'MAXLEN', redis.call('XLEN', KEYS[1]) - rest)
  end
  left = left - gone
  return gone
end

-- Deletes what is before an entry and above a bound; without bounds, all that is before it. `oldest`: the
-- first id that is young enough.
local function delete(id, oldest)
  if not bounded then return delete_before(id) end
  local gone = 0
  if oldest then gone = delete_before(sortable(oldest) < sortable(id) and oldest or id) end
  local over = excess()
  if over > 0 and left > 0 then gone = gone + delete_some(id, over) end
  return gone
end

-- Deletes what is above a bound, handled or not. It goes in steps, from where one group stands to where the
-- next one does: what a step deletes has been missed by all groups before it.
local FEWEST = 1000
local function delete_unhandled(groups, oldest)
  local order = {}
  for name, group in pairs(groups) do
    local place = place_of(name, group)
    order[#order + 1] = { name = name, group = group, place = place, sorted = sortable(place) }
  end
  table.sort(order, function(one, other) return one.sorted < other.sorted end)
  local gone, front = 0, sortable(first_id(KEYS[1], '-'))
  local behind = {}
  for i = 1, #order + 1 do
    local one = order[i]
    if not one or one.sorted >= front then
      -- Less than this may not be enough to delete a whole node.
      more = more or left < FEWEST
      if left < FEWEST then break end
      local id = one and first_id(KEYS[1], '(' .. one.place) or LAST
      gone = gone + delete(id, oldest)
      front = sortable(first_id(KEYS[1], '-'))
      if id == LAST or front < sortable(id) then break end
    end
    if one then
      one.before = gone
      behind[#behind + 1] = one
    end
  end
  local added = gone > 0 and stream_info(KEYS[1])['entries-added']
  local read = added and added - redis.call('XLEN', KEYS[1])
  for _, one in ipairs(behind) do
    if gone > one.before then note_missed(one.name, one.group, gone - one.before, read) end
  end
  return gone
end

-- Returns how many entries it has deleted.
local function trim(now)
  local oldest = policy.max_age and string.format('%.0f-0', math.max(0, now - policy.max_age))
  local first = first_id(KEYS[1], '-')
  if first == LAST then return 0 end
  local old = oldest and sortable(first) < sortable(oldest)
  -- Nothing is above a bound: no need to look who has handled what.
  if bounded and not old and excess() == 0 then return 0 end
  local groups = groups_of(KEYS[1])
  if policy.until_consumed == false then return delete_unhandled(groups, oldest) end
  return delete(first_unhandled(groups), oldest)
end

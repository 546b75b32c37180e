-- The reads of take.lua. Include fill before it.
-- Divides what may be read among the priorities that wait: one of priority p has p + 1 times the
-- chance of a normal one. Returns what to move to the front, and how much that is.
local function shares(plan, room)
  local luck, total = tonumber(string.match(plan, '%+(.*)')), 0
  for level in string.gmatch(plan, '(%d) ') do total = total + level + 1 end
  local urgent, normal, weights, before = {}, 0, 0, 0
  for level in string.gmatch(plan, '(%d) ') do
    weights = weights + level + 1
    -- Systematic sampling: over many calls each gets its share, also when one message is read a call.
    local after = math.floor(room * weights / total + luck)
    urgent[#urgent + 1] = level .. '=' .. after - before
    normal, before = after - before, after
  end
  urgent[#urgent] = nil
  return table.concat(urgent, ' '), room - normal
end

-- ARGV[6] is 'all' (a message comes before all of a lower priority), '' (no priority is known to
-- wait), or the priorities that wait and a place in the rounding ('9 5 0 +0.6').
-- Returns entries by lane (with `refused`: the server stored no urgent one), how many they are, and
-- an error (the group is gone) or nil.
local function take_lanes(most, grant, now)
  local taken, total = { s = {}, f = {}, r = {} }, 0
  if ARGV[12] == '1' then total = fill(taken, 's', KEYS[3], math.min(1, grant)) end
  -- A suspect comes on top of the others.
  local room = math.min(most, grant - total)
  local plan = ARGV[6]
  if room > 0 and plan ~= '' and plan ~= 'all' then
    local urgent, front = shares(plan, room)
    taken.refused = select(2, raise(urgent, now))
    total = total + fill(taken, 'f', KEYS[2], front) + fill(taken, 'r', KEYS[1], room - front)
    return taken, total, taken.problem
  end
  local front = fill(taken, 'f', KEYS[2], room)
  if plan == 'all' and front < room then
    taken.refused = select(2, raise(tostring(room - front), now))
    front = front + fill(taken, 'f', KEYS[2], room - front)
  end
  return taken, total + front + fill(taken, 'r', KEYS[1], room - front), taken.problem
end

-- Where a plain read has to begin to be woken by the next entry: it consumes none, for what it
-- would be given might be above a limit.
local function last_ids()
  local wake = redis.call('XREVRANGE', KEYS[8], '+', '-', 'COUNT', 1)[1]
  local ids = { wake and wake[1] or '0-0' }
  for i = 1, 3 do
    local group = find_group(KEYS[i], ARGV[1])
    ids[i + 1] = group and group['last-delivered-id'] or '0-0'
  end
  return ids
end

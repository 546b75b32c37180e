-- What the subscriptions of a topic have handled. KEYS[1] log; include group and ids before it.

-- A key of one of them.
local function key_of(name, key)
  return string.sub(KEYS[1], 1, -4) .. 'subscription:' .. name .. ':' .. key
end

-- The last entry that a group has been given, or will have been when it goes on.
local function place_of(name, group)
  local last = group['last-delivered-id']
  if last ~= NOWHERE then return last end
  return redis.call('HGET', key_of(name, 'paused'), 'log') or '0-0'
end

-- The first entry that some group has not handled, or LAST. A group that other hands have made counts,
-- too.
local function first_unhandled(groups)
  local behind, place, first, known = nil, nil, LAST, nil
  for name, group in pairs(groups) do
    local stands = place_of(name, group)
    -- Many stand where the one before does.
    if stands ~= known then
      local sorted = sortable(stands)
      if not behind or sorted < behind then behind, place = sorted, stands end
      known = stands
    end
    if group.pending > 0 then
      local pending = redis.call('XPENDING', KEYS[1], name)[2]
      if sortable(pending) < sortable(first) then first = pending end
    end
  end
  local unread = place and first_id(KEYS[1], '(' .. place) or LAST
  return sortable(unread) < sortable(first) and unread or first
end

-- A group has missed some entries, which are gone. It stays where it stands; the server learns anew how
-- many entries there were before the first that is left (`read`), and goes on counting what is unread.
local function note_missed(name, group, missed, read)
  if redis.call('HEXISTS', KEYS[4], name) == 1 then
    redis.call('HINCRBY', key_of(name, 'counters'), 'trimmed', missed)
  end
  if not read then return end
  local place, paused = group['last-delivered-id'], key_of(name, 'paused')
  if place ~= NOWHERE then
    move_group(KEYS[1], name, place, read)
  elseif redis.call('EXISTS', paused) == 1 then
    redis.call('HSET', paused, 'read', read)
  end
end

-- The look of trim.lua at all subscriptions; include forgotten before it. It is due once a minute, or more
-- often for one that does not live long; the time of the next look stands under the empty name.
local function find_forgotten(now, living)
  local due = redis.call('HGET', KEYS[5], '')
  if due and tonumber(due) > now then return {} end
  local found, wait = {}, 60000
  local rows = redis.call('HGETALL', KEYS[4])
  for i = 1, #rows, 2 do
    local name, expires = rows[i], cjson.decode(rows[i + 1]).expires
    if expires then
      wait = math.min(wait, math.max(1000, math.floor(expires / 10)))
      local span, listed = unused_for(KEYS[1], KEYS[5], name, now)
      if not span then redis.pcall('HSET', KEYS[5], name, now) end
      if is_over(span, listed, expires, living) then found[#found + 1] = name end
    end
  end
  redis.pcall('HSET', KEYS[5], '', now + wait)
  return found
end

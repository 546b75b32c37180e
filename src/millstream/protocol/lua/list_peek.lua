-- Show messages of a list queue that nobody has taken yet, next to be delivered first.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] most messages
-- Returns {id, fields} for each; the id of a plain body, which has none yet, is 0-0.
-- @include elements
local found, limit = {}, tonumber(ARGV[1])
for _, list in ipairs({ KEYS[13], KEYS[2], KEYS[8], KEYS[1] }) do
  -- What reads that slept have brought stands the other way round.
  local landed = list == KEYS[8]
  local elements = redis.call('LRANGE', list, landed and 0 or -limit - 1, -1)
  for i = 1, #elements do
    local element = elements[landed and i or #elements + 1 - i]
    if #found < limit and element ~= NUDGE then
      local fields, id = decode(element)
      found[#found + 1] = { id or '0-0', fields }
    end
  end
end
return found

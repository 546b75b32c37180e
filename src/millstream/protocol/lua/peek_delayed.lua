-- Show delayed messages, the next one due first, without touching them.
-- KEYS[1] due  KEYS[2] delayed
-- ARGV[1] most messages
-- Returns {id, fields, due time in ms} for each.
local found = {}
local due = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')
for i = 1, #due, 2 do
  local packed = redis.call('HGET', KEYS[2], due[i])
  if packed then found[#found + 1] = { due[i], cmsgpack.unpack(packed), tonumber(due[i + 1]) } end
end
return found

-- Show all that a consumer of a list queue has, and begin the leases anew.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] consumer  ARGV[2] now in ms or ''
-- Returns {token, fields} for each, the oldest delivery first.
-- @include clock
-- @include elements
local found, all = {}, redis.call('HGETALL', processing(ARGV[1]))
local lease = redis.call('HGET', KEYS[9], ARGV[1])
local ends = lease and string.format('%.0f', clock(ARGV[2]) + lease)
for i = 1, #all, 2 do
  found[#found + 1] = { all[i], (decode(all[i + 1])) }
  if ends then redis.pcall('ZADD', KEYS[3], 'XX', ends, all[i] .. ' ' .. ARGV[1]) end
end
table.sort(found, function(one, other) return one[1] < other[1] end)
return found

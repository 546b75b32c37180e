-- Show messages of a list queue in flight: who has them, and how much of the lease is used up.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] most messages  ARGV[2] now in ms or ''
-- Returns {token, fields, consumer, idle ms} for each, those whose leases end first.
-- @include clock
-- @include elements
local found, now = {}, clock(ARGV[2])
local leases = redis.call('ZRANGE', KEYS[3], 0, ARGV[1] - 1, 'WITHSCORES')
for i = 1, #leases, 2 do
  local token, consumer = string.match(leases[i], '^(%S+) (.*)$')
  local element = redis.call('HGET', processing(consumer), token)
  local lease = redis.call('HGET', KEYS[9], consumer) or 0
  if element then
    local idle = math.max(0, now - (leases[i + 1] - lease))
    found[#found + 1] = { token, (decode(element)), consumer, idle }
  end
end
return found

-- Begin the leases of deliveries of a list queue anew.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] consumer  ARGV[2] now in ms or ''  ARGV[3] ms of the lease that count as used up already
-- ARGV[4..] tokens
-- Returns those that are lost.
-- @include clock
-- @include elements
local consumer, now, lost = ARGV[1], clock(ARGV[2]), {}
local lease = redis.call('HGET', KEYS[9], consumer) or 0
local ends = string.format('%.0f', now + math.max(0, lease - ARGV[3]))
for i = 4, #ARGV do
  local member = ARGV[i] .. ' ' .. consumer
  if redis.call('HEXISTS', processing(consumer), ARGV[i]) == 0 then
    lost[#lost + 1] = ARGV[i]
  else
    -- A full server refuses it; nobody can take the message over then, either.
    redis.pcall('ZADD', KEYS[3], ends, member)
  end
end
redis.pcall('ZADD', KEYS[10], 'XX', now, consumer)
return lost

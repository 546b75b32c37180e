-- Begin the leases of deliveries anew that were read from a topic's log.
-- KEYS[1] log  KEYS[2] counters
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] ms of the lease that count as used up  ARGV[4..] their ids, up to 1000
-- Returns the ids of those that this consumer owns.
local owned = { unpack(ARGV, 4) }
-- XCLAIM takes an entry from others, too. After a seek another consumer may have it under the same id.
if redis.call('HEXISTS', KEYS[2], 'sought') == 1 then
  owned = {}
  for i = 4, #ARGV do
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
    if #pending > 0 then owned[#owned + 1] = ARGV[i] end
  end
end
if #owned == 0 then return owned end
owned[#owned + 1] = 'IDLE'
owned[#owned + 1] = ARGV[3]
owned[#owned + 1] = 'JUSTID'
return redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(owned))

-- Begin the leases of a subscription's deliveries anew.
-- KEYS[1] log  KEYS[2] counters
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] ms of the lease that are used up  ARGV[4..] ids of entries
-- Returns the ids that the consumer still owns.
-- @include ids
local front = sortable(first_id(KEYS[1], '-'))
-- XCLAIM takes an entry from others, too. After a seek another consumer may have it under the same id.
local sought = redis.call('HEXISTS', KEYS[2], 'sought') == 1
local there, owned = {}, {}
for i = 4, #ARGV do
  -- What retention has deleted from the log is not claimed: from 7.0 on XCLAIM drops it, and nobody
  -- could acknowledge it any more.
  local gone = sortable(ARGV[i]) < front
  local unsure = gone or sought
  if not unsure or #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) > 0 then
    local ids = gone and owned or there
    ids[#ids + 1] = ARGV[i]
  end
end
for from = 1, #there, 1000 do
  local ids = { unpack(there, from, math.min(from + 999, #there)) }
  ids[#ids + 1], ids[#ids + 2], ids[#ids + 3] = 'IDLE', ARGV[3], 'JUSTID'
  for _, id in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))) do
    owned[#owned + 1] = id
  end
end
return owned

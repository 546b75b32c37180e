-- Have a subscription go on from another place in its topic's log; what it has not done is forgotten.
-- KEYS[1] log  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] control  KEYS[15] consumers
-- ARGV[1] group  ARGV[2] the last entry that is not for it, '$': the last one there is, '': only look
-- ARGV[3] ms without a sign of life until a consumer counts as gone  ARGV[4] most sleeping readers to wake
-- Returns the names of the consumers that run, and how many messages are ahead of the place; or 'NONE' when
-- there is no such subscription. Safe to repeat.
-- @include group
-- @include census
-- @include tell
if not has_group(KEYS[1], ARGV[1]) then return 'NONE' end
local running, gone = {}, {}
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  -- Before 7.2 one that sleeps in a read shows life with its sweeps only, about once a lease.
  local lease = tonumber(redis.call('HGET', KEYS[15], info[2]) or 0)
  local some = info[6] < math.max(tonumber(ARGV[3]), lease * 1.1) and running or gone
  some[#some + 1] = info[2]
end
if ARGV[2] == '' then return { running, 0 } end

-- First, since it frees memory (see resume.lua).
redis.call('UNLINK', unpack(KEYS, 9, 12))
redis.call('UNLINK', KEYS[6], KEYS[7])
local position, read, log = ARGV[2], nil, stream_info(KEYS[1])
if position == '$' then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  position, read = last and last[1] or '0-0', log['entries-added']
elseif log['entries-added'] and #redis.call('XRANGE', KEYS[1], '-', position, 'COUNT', 1) == 0 then
  read = log['entries-added'] - log.length
end
local paused = redis.call('EXISTS', KEYS[13]) == 1
if paused then
  redis.call('HSET', KEYS[13], 'log', position)
  redis.call('HDEL', KEYS[13], 'read')
  if read then redis.call('HSET', KEYS[13], 'read', read) end
end
for i, lane in ipairs({ KEYS[1], KEYS[2], KEYS[3] }) do
  -- Trimmed and not deleted: no entry may get the id of one that somebody has in hand.
  if i > 1 then redis.call('XTRIM', lane, 'MAXLEN', 0) end
  -- A new group has nothing in flight, and a read that sleeps is served from its place.
  if has_group(lane, ARGV[1]) then redis.call('XGROUP', 'DESTROY', lane, ARGV[1]) end
  local from = paused and NOWHERE or i == 1 and position or '$'
  redis.call('XGROUP', 'CREATE', lane, ARGV[1], from, 'MKSTREAM')
end
if read and not paused then move_group(KEYS[1], ARGV[1], position, read) end
-- Sweeps find consumers by the group; those that are gone are in none any more.
for _, name in ipairs(gone) do redis.call('HDEL', KEYS[15], name) end
for _, name in ipairs(running) do redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], name) end
redis.call('HINCRBY', KEYS[5], 'sought', 1)
for _ = 1, math.min(redis.call('HLEN', KEYS[15]), tonumber(ARGV[4])) do
  redis.pcall('XADD', KEYS[8], 'MAXLEN', ARGV[4], '*', 'sought', 1)
end
tell(KEYS[14], 'op', 'seek')
return { running, count_unread(KEYS[1], find_group(KEYS[1], ARGV[1]), KEYS[13], KEYS[5]) }

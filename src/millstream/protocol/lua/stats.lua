-- Count a queue's messages by state, at one moment.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused
-- ARGV[1] group
-- Returns ready, in flight, delayed, dead, id of the message that has been ready longest or '',
-- the server's time in ms, counters (name, value, ...), consumers ({name, in flight, idle ms}, ...),
-- 1 when paused and 0 if not.
-- @include clock
-- @include group
local ready, in_flight, oldest, oldest_ms, consumers = 0, 0, '', math.huge, {}
local function consider(id)
  local ms = tonumber(string.match(id, '^%d+'))
  if ms and ms < oldest_ms then oldest, oldest_ms = id, ms end
end
for i = 1, 3 do
  local length = redis.call('XLEN', KEYS[i])
  local group = find_group(KEYS[i], ARGV[1])
  local pending = group and group.pending or 0
  in_flight = in_flight + pending
  ready = ready + math.max(0, length - pending)
  if group then
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[i], ARGV[1])) do
      consumers[#consumers + 1] = { consumer[2], consumer[4], consumer[6] }
    end
  end
  local first = redis.call('XRANGE', KEYS[i], unread_from(group, KEYS[i], KEYS[13]), '+', 'COUNT', 1)[1]
  if first then consider(first[1]) end
end
-- Those who wait for their key to be free are no older than the message that has it.
local urgent = redis.call('ZCARD', KEYS[9])
for level = 1, urgent > 0 and 9 or 0 do
  local first = redis.call('ZRANGEBYSCORE', KEYS[9], -level, -level, 'LIMIT', 0, 1)[1]
  if first then consider(first) end
end
ready = ready + urgent + redis.call('ZCARD', KEYS[10])
return {
  ready, in_flight, redis.call('ZCARD', KEYS[6]), redis.call('XLEN', KEYS[4]), oldest, clock(''),
  redis.call('HGETALL', KEYS[5]), consumers, redis.call('EXISTS', KEYS[13]),
}

-- Counting a queue's messages by state. Include group before it.

-- How many entries of a log a group has not read. The server's own count (from 7.0 on) is exact while
-- nobody has deleted single entries; retention corrects it where it deletes what is unread.
local function count_unread(log, group, paused)
  local length = redis.call('XLEN', log)
  if length == 0 or not group then return length end
  local from = unread_from(group, log, paused)
  if #redis.call('XRANGE', log, from, '+', 'COUNT', 1) == 0 then return 0 end
  if #redis.call('XRANGE', log, '-', string.sub(from, 2), 'COUNT', 1) == 0 then return length end
  local read = group['entries-read']
  if group['last-delivered-id'] == NOWHERE then read = redis.call('HGET', paused, 'read') end
  if read then
    local info = stream_info(log)
    if info['max-deleted-entry-id'] == '0-0' then return info['entries-added'] - read end
  end
  local count = 0
  while true do
    local page = redis.call('XRANGE', log, from, '+', 'COUNT', 1000)
    count = count + #page
    if #page < 1000 then return count end
    from = '(' .. page[1000][1]
  end
end

-- `keys`: ready, front, suspect, dead, counters, due, priority, lines, paused; `known`: the group of
-- ready, if somebody has looked. Returns what stats.lua does, but for the time.
local function census(keys, name, known)
  local ready, front, suspect, dead, counters, due, priority, lines, paused = unpack(keys)
  local waiting, in_flight, oldest, oldest_ms, consumers = 0, 0, '', math.huge, {}
  local function consider(id)
    local ms = tonumber(string.match(id, '^%d+'))
    if ms and ms < oldest_ms then oldest, oldest_ms = id, ms end
  end
  for i, lane in ipairs({ ready, front, suspect }) do
    local group = i == 1 and known or find_group(lane, name)
    local pending = group and group.pending or 0
    in_flight = in_flight + pending
    if lane_name(lane) == 'log' then
      waiting = waiting + count_unread(lane, group, paused)
    else
      waiting = waiting + math.max(0, redis.call('XLEN', lane) - pending)
    end
    if group then
      for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', lane, name)) do
        consumers[#consumers + 1] = { consumer[2], consumer[4], consumer[6] }
      end
    end
    local first = redis.call('XRANGE', lane, unread_from(group, lane, paused), '+', 'COUNT', 1)[1]
    if first then consider(first[1]) end
  end
  -- Those who wait for their key to be free are no older than the message that has it.
  local urgent = redis.call('ZCARD', priority)
  for level = 1, urgent > 0 and 9 or 0 do
    local first = redis.call('ZRANGEBYSCORE', priority, -level, -level, 'LIMIT', 0, 1)[1]
    if first then consider(first) end
  end
  waiting = waiting + urgent + redis.call('ZCARD', lines)
  return waiting, in_flight, redis.call('ZCARD', due), redis.call('XLEN', dead), oldest,
    redis.call('HGETALL', counters), consumers, redis.call('EXISTS', paused)
end

-- Count what a topic has, and the messages of each of its subscriptions by state, at one moment.
-- KEYS[1] log  KEYS[2] counters  KEYS[3..] nine for each subscription: log, front, suspect, dead,
-- counters, due, priority, lines, paused
-- ARGV: the name of each subscription
-- Returns entries of the log, its bytes, messages published, the server's time in ms, and of each
-- subscription what stats.lua returns without the time; then the oldest id that it has not handled,
-- or ''.
-- @include clock
-- @include group
-- @include census
local function older(one, other)
  if one == '' or other == '' then return one == '' and other or one end
  local ms, seq = string.match(one, '^(%d+)%-(%d+)')
  local other_ms, other_seq = string.match(other, '^(%d+)%-(%d+)')
  if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) and one or other end
  return tonumber(seq) < tonumber(other_seq) and one or other
end

-- Its own lanes are in the order in which messages came back: a look at their beginnings.
local function oldest_of(keys, name, group)
  local oldest = ''
  local first = redis.call('XRANGE', keys[1], unread_from(group, keys[1], keys[9]), '+', 'COUNT', 1)[1]
  if first then oldest = first[1] end
  if group and group.pending > 0 then oldest = older(oldest, redis.call('XPENDING', keys[1], name)[2]) end
  for _, lane in ipairs({ keys[2], keys[3] }) do
    for _, entry in ipairs(redis.call('XRANGE', lane, '-', '+', 'COUNT', 100)) do
      local fields = entry[2]
      local id = fields[#fields - 1] == 's' and string.match(fields[#fields], '"id":"(%d+%-%d+)"')
      oldest = older(oldest, id or entry[1])
    end
  end
  for _, id in ipairs(redis.call('ZRANGE', keys[6], 0, 99)) do
    oldest = older(oldest, string.match(id, '^%d+%-%d+') or '')
  end
  return oldest
end

local answer = { redis.call('XLEN', KEYS[1]), redis.call('MEMORY', 'USAGE', KEYS[1]) or 0,
  tonumber(redis.call('HGET', KEYS[2], 'published') or 0), clock('') }
local groups = groups_of(KEYS[1])
for i, name in ipairs(ARGV) do
  local keys = { unpack(KEYS, 9 * i - 6, 9 * i + 2) }
  local row = { census(keys, name, groups[name]) }
  row[#row + 1] = oldest_of(keys, name, groups[name])
  answer[#answer + 1] = row
end
return answer

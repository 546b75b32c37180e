-- Push a batch of messages to a list queue; a repeated batch stores nothing and gets its first answer.
-- KEYS[1] list  KEYS[2] counters  KEYS[3] producer
-- ARGV[1] number of the batch  ARGV[2] ms to remember it  ARGV[3] 'b' or 'bh'
-- ARGV[4..] the bodies ('b'), or body and headers in turn ('bh'; headers '' when there are none)
-- Returns the id of the first message; the others follow it by one each.
local last = redis.call('GET', KEYS[3])
if last then
  local number, first = string.match(last, '^(%d+) (.+)$')
  -- Numbers only grow, so a smaller one is a late copy that nobody waits for any more.
  if tonumber(number) >= tonumber(ARGV[1]) then
    -- A repetition writes, too (see lib/append).
    redis.call('PEXPIRE', KEYS[3], ARGV[2])
    return first
  end
end
local step = ARGV[3] == 'bh' and 2 or 1
local count = (#ARGV - 3) / step
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Ids only grow, whatever the clock does, and those of a batch follow one another (see lib/place).
local known = redis.call('HMGET', KEYS[2], 'last_ms', 'last_number')
local ms, from = tonumber(known[1]) or 0, (tonumber(known[2]) or 0) + 1
if now > ms then
  ms, from = now, 0
elseif from + count > 8999999 then
  ms, from = ms + 1, 0
end
local prefix = 'ms1 ' .. string.format('%.0f', ms) .. '-'
local elements = {}
for i = 4, #ARGV, step do
  local head = prefix .. string.format('%.0f', 1000000 + from + #elements)
  if step == 2 and ARGV[i + 1] ~= '' then head = head .. ' ' .. cjson.encode({ h = ARGV[i + 1] }) end
  elements[#elements + 1] = head .. '\n' .. ARGV[i]
end
redis.call('HSET', KEYS[2], 'last_ms', string.format('%.0f', ms), 'last_number', from + count - 1)
redis.call('LPUSH', KEYS[1], unpack(elements))
redis.call('HINCRBY', KEYS[2], 'sent', count)
local first = string.format('%.0f-%.0f', ms, 1000000 + from)
redis.call('SET', KEYS[3], ARGV[1] .. ' ' .. first, 'PX', ARGV[2])
return first

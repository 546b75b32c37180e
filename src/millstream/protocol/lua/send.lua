-- Append a batch of messages to a queue; a repeated batch stores nothing and gets its first answer.
-- KEYS[1] ready  KEYS[2] counters  KEYS[3] producer
-- ARGV[1] number of the batch  ARGV[2] ms to remember it  ARGV[3] 'b' or 'bh'
-- ARGV[4..] the bodies ('b'), or body and headers in turn ('bh'; headers '' when there are none)
-- Returns the id of the first message; the others follow it by one each.
local last = redis.call('GET', KEYS[3])
if last then
  local number, first = string.match(last, '^(%d+) (.+)$')
  -- Numbers only grow, so a smaller one is a late copy that nobody waits for any more.
  if tonumber(number) >= tonumber(ARGV[1]) then return first end
end

local function fields(i)
  if ARGV[3] == 'bh' and ARGV[i + 1] ~= '' then return 'b', ARGV[i], 'h', ARGV[i + 1] end
  return 'b', ARGV[i]
end

local ready, step = KEYS[1], ARGV[3] == 'bh' and 2 or 1
local first = redis.call('XADD', ready, '*', fields(4))
local ms, seq = string.match(first, '^(%d+%-)(%d+)$')
seq = tonumber(seq)
-- Before 7.2 the clock may move in a script, so ids are given. Lua cannot count above 2^53; only a
-- foreign entry gets there, and it is ahead of the clock.
local frozen = (redis.REDIS_VERSION_NUM or 0) >= 0x070200
local sent = 1
for i = 4 + step, #ARGV, step do
  local id = '*'
  if not frozen and seq + sent < 2 ^ 53 then id = ms .. string.format('%.0f', seq + sent) end
  if step == 1 then
    redis.call('XADD', ready, id, 'b', ARGV[i])
  else
    redis.call('XADD', ready, id, fields(i))
  end
  sent = sent + 1
end
redis.call('HINCRBY', KEYS[2], 'sent', sent)
redis.call('SET', KEYS[3], ARGV[1] .. ' ' .. first, 'PX', ARGV[2])
return first

-- Tell what has come of messages whose results are wanted, and note who waits for those not finished.
-- KEYS[1] results  KEYS[2] result-ends  KEYS[3] waiters  KEYS[4] unique  KEYS[5] due  KEYS[6] delayed
-- KEYS[7] ready
-- ARGV[1] group  ARGV[2] now in ms or ''  ARGV[3] ms for which a note is good
-- ARGV[4..] id of a message, and the address of who waits for it or '', in turn
-- Returns for each: its result as it is stored; '?' and 'queued', 'running', 'delayed' or 'unknown' when
-- it is not finished; or '': it is not there, and there is no result of it.
-- @include clock
local now, good_for = clock(ARGV[2]), tonumber(ARGV[3])

-- Without a group an error has no elements.
local function state_of(id)
  if redis.call('ZSCORE', KEYS[5], id) then return '?delayed' end
  if redis.call('HEXISTS', KEYS[6], id) == 1 then return '?queued' end
  if redis.pcall('XPENDING', KEYS[7], ARGV[1], id, id, 1)[1] then return '?running' end
  -- One that was moved has an entry of another id.
  return #redis.call('XRANGE', KEYS[7], id, id) == 1 and '?queued' or '?unknown'
end

-- Those that are over belong to clients that have gone.
local function living(noted)
  local left = {}
  for until_ms, address in string.gmatch(noted or '', '(%d+) ([^;]+)') do
    if tonumber(until_ms) > now then left[address] = tonumber(until_ms) end
  end
  return left
end

-- Of a message that died without a worker nobody takes them away: a look at some others does.
local function forget_some()
  for _, id in ipairs(redis.call('HRANDFIELD', KEYS[3], 3)) do
    if not next(living(redis.call('HGET', KEYS[3], id))) then redis.call('HDEL', KEYS[3], id) end
  end
end

local function note(id, address)
  local left, notes = living(redis.call('HGET', KEYS[3], id)), {}
  if (left[address] or 0) > now + good_for / 2 then return end
  left[address] = now + good_for
  for other, until_ms in pairs(left) do notes[#notes + 1] = string.format('%.0f %s', until_ms, other) end
  -- Without memory nobody is told; who waits looks again by itself.
  redis.pcall('HSET', KEYS[3], id, table.concat(notes, ';'))
  redis.call('PEXPIRE', KEYS[3], good_for)
  forget_some()
end

local answer = {}
for i = 4, #ARGV, 2 do
  local id, address = ARGV[i], ARGV[i + 1]
  local ends = redis.call('ZSCORE', KEYS[2], id)
  local result = ends and tonumber(ends) > now and redis.call('HGET', KEYS[1], id)
  if not result and redis.call('HEXISTS', KEYS[4], '\0' .. id) == 1 then
    result = state_of(id)
    if address ~= '' then note(id, address) end
  end
  answer[#answer + 1] = result or ''
end
return answer

-- Room in a queue with a bound, and the producers that wait for it. A ticket has a producer's name,
-- a space, and the length of the queue at which its next messages fit.
-- `senders` has the tickets in their order; `room` tells whose turn has come.
local function queue_length()
  local length = redis.call('HLEN', KEYS[7])
  for i = 1, 3 do length = length + redis.call('XLEN', KEYS[i]) end
  return length
end

-- Returns the first ticket, if any, and whether there is room for it.
local function first_sender(senders)
  local first = redis.call('ZRANGE', senders, 0, 0)[1]
  return first, first and queue_length() <= tonumber(string.match(first, '%d+$'))
end

-- To be called where messages end: tells the producer that has waited longest when there is room.
local function call_sender(senders, room)
  if redis.call('EXISTS', senders) == 0 then return end
  local first, fits = first_sender(senders)
  if not fits then return end
  local last = redis.call('XREVRANGE', room, '+', '-', 'COUNT', 1)[1]
  -- It has been told and has not come yet: it is woken once, however much is settled meanwhile.
  if last and last[2][2] == first then return end
  redis.pcall('XADD', room, 'MAXLEN', 1, '*', 'ticket', first)
  redis.pcall('PEXPIRE', room, 60000)
end

-- Send messages again that were handled and kept, some a call: as new ones, behind those that wait.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] producer  KEYS[15] kept
-- ARGV[1] number of the call  ARGV[2] ms to remember it  ARGV[3] now in ms or ''
-- ARGV[4] where to start (as in XRANGE)  ARGV[5] the last entry to send  ARGV[6] most to send
-- Returns the next start or '' at the end, and how many were sent. A repeated call sends nothing and
-- gets its first answer.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include answered
-- @include place
local repeated = answered(KEYS[14], ARGV[1])
if repeated then return repeated end
local now, most = clock(ARGV[3]), tonumber(ARGV[6])

-- As it was sent, but for the time to live, which is over, a unique key, which others may have by now
-- (who sends again wants it twice), and the wish for a result: nobody has the id to ask for it.
local function send_again(entry)
  local _, rest = state_of(entry[1], entry[2])
  local fields = {}
  for i = 1, #rest, 2 do
    if rest[i] ~= 'x' and rest[i] ~= 'u' and not (rest[i] == 'r' and wants_result({ r = rest[i + 1] })) then
      fields[#fields + 1] = rest[i]
      fields[#fields + 1] = rest[i + 1]
    end
  end
  local it = named(fields)
  if not gated(it) and not it.p then
    redis.call('XADD', KEYS[1], '*', unpack(fields))
    return true
  end
  local id = new_id(now)
  return arrive(id, with_state({ id = id }, fields), false, now)
end

local entries = redis.call('XRANGE', KEYS[15], ARGV[4], ARGV[5], 'COUNT', most)
for _, entry in ipairs(entries) do
  -- Only the first one can be refused: a full server refuses a script at its first write.
  if not send_again(entry) then
    return redis.error_reply('OOM the server has no memory to store the message')
  end
end
if #entries > 0 then redis.call('HINCRBY', KEYS[5], 'sent', #entries) end
local answer = { #entries < most and '' or '(' .. entries[most][1], #entries }
redis.call('SET', KEYS[14], ARGV[1] .. ' ' .. cmsgpack.pack(answer), 'PX', ARGV[2])
return answer

-- Cancel a message in flight: it goes to the dead letters, and its consumer is told.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] control  KEYS[15] senders  KEYS[16] room
-- ARGV[1] group  ARGV[2] id of the message  ARGV[3] now in ms or ''
-- ARGV[4] 1: from the beginning, or which lane to go on with  ARGV[5] where in it (as in XPENDING)
-- ARGV[6] most deliveries to look at  ARGV[7] '1': a call whose answer was lost is repeated
-- Returns 1 when it was cancelled, 0 when it is not in flight, or {lane, where} to go on.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include room
-- @include slots
-- @include tell
local prefixes, order = { '', 'f', 's' }, { 2, 3, 1 }

-- Returns 1, an error, or nil when this entry is another message.
local function cancel(lane, entry)
  local state, rest = read(KEYS[lane], entry)
  if not state or state.id ~= ARGV[2] then return nil end
  state.reason = 'cancelled'
  local now = clock(ARGV[3])
  local reply = bury(KEYS[4], state, rest, now)
  if failed(reply) then return reply end
  -- It has no owner any more: whoever comes to settle it is refused.
  remove(KEYS[lane], ARGV[1], entry)
  tell_of_slots()
  finish(state.id, rest, now)
  redis.pcall('HINCRBY', KEYS[5], 'died', 1)
  call_sender(KEYS[15], KEYS[16])
  tell(KEYS[14], 'op', 'cancel', 'id', ARGV[2], 'token', prefixes[lane] .. entry)
  return 1
end

local function told_already()
  for _, entry in ipairs(redis.call('XRANGE', KEYS[14], '-', '+')) do
    if entry[2][2] == 'cancel' and entry[2][4] == ARGV[2] then return 1 end
  end
  return 0
end

local at, start, left = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
-- A message that never moved has the id of its entry. Without a group an error has no elements.
for _, pending in ipairs(redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)) do
  local done = cancel(1, pending[1])
  if done then return done end
end
while at <= 3 and left > 0 do
  local page = redis.pcall('XPENDING', KEYS[order[at]], ARGV[1], start, '+', left)
  for _, pending in ipairs(page) do
    local done = cancel(order[at], pending[1])
    if done then return done end
  end
  left = left - #page
  if left > 0 then at, start = at + 1, '-' else start = '(' .. page[#page][1] end
end
return at <= 3 and { at, start } or ARGV[7] == '1' and told_already() or 0

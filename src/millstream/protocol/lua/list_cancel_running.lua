-- Cancel a message of a list queue in flight: it goes to the dead letters, its consumer is told.
-- KEYS[1] list  KEYS[2] list-suspect  KEYS[3] leases  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] landing  KEYS[9] consumers  KEYS[10] seen  KEYS[11] paused  KEYS[12] control
-- KEYS[13] list-front
-- ARGV[1] id of the message  ARGV[2] now in ms or ''
-- ARGV[3] '1': a call whose answer was lost is repeated
-- Returns 1 when it was cancelled, 0 when it is not in flight.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include elements
-- @include place_element
-- @include tell
local now, id = clock(ARGV[2]), ARGV[1]
for _, member in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local token, consumer = string.match(member, '^(%S+) (.*)$')
  local state, rest = read_taken(consumer, token)
  if state and state.id == id then
    state.reason = 'cancelled'
    local reply = bury(KEYS[4], state, rest, now)
    if failed(reply) then return reply end
    -- It has no owner any more: whoever comes to settle it is refused.
    let_go(consumer, token)
    redis.pcall('HINCRBY', KEYS[5], 'died', 1)
    tell(KEYS[12], 'op', 'cancel', 'id', id, 'token', token)
    return 1
  end
end
for _, entry in ipairs(ARGV[3] == '1' and redis.call('XRANGE', KEYS[12], '-', '+') or {}) do
  if entry[2][2] == 'cancel' and entry[2][4] == id then return 1 end
end
return 0

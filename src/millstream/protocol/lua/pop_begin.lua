-- Before messages are taken at most once: take back what was handed out, promote what is due or urgent.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] returned
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] now in ms or ''  ARGV[4] most messages to promote
-- ARGV[5] which priorities to move to the front (lib/priority) or ''
-- ARGV[6..] what comes back (see lib/give_back)
-- Returns {number, error} of what could not be stored now, and 1 if the server refused to store what
-- is due or urgent, else 0.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include due
-- @include priority
-- Its unique key is free since it was taken. It has it again, unless another message has it by now.
local function put_back(state, rest)
  local unique = string.match(named(rest).u or '', '^%l+:(.*)$')
  local target = state.crashes > 1 and KEYS[3] or KEYS[2]
  local problem = failed(redis.pcall('XADD', target, '*', unpack(with_state(state, rest))))
  if unique and not problem then redis.pcall('HSETNX', KEYS[12], unique, state.id) end
  return problem
end
-- @include give_back
-- @include life
local now = clock(ARGV[3])
local kept = give_back(6, KEYS[14], now)
local due = next_due()
local refused = due and due <= now and promote(now, ARGV[4])
local left, denied = raise(ARGV[5], now)
-- Those behind are left for other readers, who may be asleep.
if left then redis.pcall('XADD', KEYS[8], 'MAXLEN', 16, '*', 'priority', 'more') end
-- Behind all that a full server may refuse, which it does only before the first write of a script.
show_life()
return { kept, (refused or denied) and 1 or 0 }

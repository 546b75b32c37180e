-- Send dead letters back to their queue, some a call, with their counts back at zero.
-- KEYS[1] dead  KEYS[2] ready  KEYS[3] counters
-- ARGV[1] where to start (as in XRANGE)  ARGV[2] the last entry to look at
-- ARGV[3] most entries to look at  ARGV[4] most to move  ARGV[5] Lua pattern of the reason or ''
-- ARGV[6..] ids of messages; none: all
-- Returns the next start or '' at the end, and how many were moved.
-- @include moves
local wanted = {}
for i = 6, #ARGV do wanted[ARGV[i]] = true end
local looked, moved = 0, 0
local start = ARGV[1]
local entries = redis.call('XRANGE', KEYS[1], start, ARGV[2], 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do
  if moved == tonumber(ARGV[4]) then break end
  looked = looked + 1
  start = '(' .. entry[1]
  local state, rest = state_of(entry[1], entry[2])
  local match = ARGV[5] == '' or string.find(state.reason or '', ARGV[5])
  if match and (#ARGV < 6 or wanted[state.id]) then
    local fields = with_state({ id = state.id, attempts = 0, crashes = 0 }, rest)
    redis.call('XADD', KEYS[2], '*', unpack(fields))
    redis.call('XDEL', KEYS[1], entry[1])
    moved = moved + 1
  end
end
if moved > 0 then redis.call('HINCRBY', KEYS[3], 'redriven', moved) end
if looked == #entries and #entries < tonumber(ARGV[3]) then start = '' end
return { start, moved }

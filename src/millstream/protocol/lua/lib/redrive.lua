-- Some dead letters go back to their queue. ARGV are those of redrive.lua; include arrive, expire and
-- glob before it.
local now, fits = clock(ARGV[6]), glob(ARGV[5])
local wanted = {}
for i = 7, #ARGV do wanted[ARGV[i]] = true end

-- A list has no unique keys, but a letter may be of a time when the queue was a stream.
local has_unique = not string.find(KEYS[1], ':list$')

-- As it was sent, but for the time to live, which is over. Its unique key may be another's by now.
local function anew(state, rest)
  local fields = {}
  for i = 1, #rest, 2 do
    if rest[i] ~= 'x' then
      fields[#fields + 1] = rest[i]
      fields[#fields + 1] = rest[i + 1]
    end
  end
  return with_state({ id = state.id, attempts = 0, crashes = 0 }, fields)
end

local looked, moved, start = 0, 0, ARGV[1]
local entries = redis.call('XRANGE', KEYS[4], start, ARGV[2], 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do
  if moved == tonumber(ARGV[4]) then break end
  looked = looked + 1
  start = '(' .. entry[1]
  local state, rest = state_of(entry[1], entry[2])
  if fits(state.reason or '') and (#ARGV < 7 or wanted[state.id]) then
    local it = named(rest)
    local unique = has_unique and string.match(it.u or '', '^%l+:(.*)$')
    if not arrive(state.id, anew(state, rest), false, now) then
      return redis.error_reply('OOM the server has no memory to store the message')
    end
    if unique then redis.pcall('HSETNX', KEYS[12], unique, state.id) end
    if has_unique and wants_result(it) then redis.pcall('HSET', KEYS[12], '\0' .. state.id, state.id) end
    redis.call('XDEL', KEYS[4], entry[1])
    moved = moved + 1
  end
end
if moved > 0 then redis.call('HINCRBY', KEYS[5], 'redriven', moved) end
if looked == #entries and #entries < tonumber(ARGV[3]) then start = '' end
return { start, moved }

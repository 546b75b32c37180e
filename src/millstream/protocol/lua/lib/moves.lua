-- A subscription is a queue whose ready lane is the log of its topic. Others read it, too: nothing is
-- deleted from it here, and nothing comes back to it. The subscription's own front takes its place.
local log = string.sub(KEYS[1], -4) == ':log' and KEYS[1]
local home = log and KEYS[2] or KEYS[1]

-- Moving a message between the streams of a queue. A moved message carries its state in the
-- field `s` (JSON): its id, attempts and crashes; every other field passes unchanged.
local KINDS = { id = 'string', attempts = 'number', crashes = 'number', at = 'number',
  reason = 'string', error = 'string', traceback = 'string' }

-- A foreign producer may have written anything. Only what every reader can read again is kept,
-- and what cjson can write: it refuses infinity, and would do so in the middle of a move.
local function read_state(text)
  local ok, state = pcall(cjson.decode, text)
  if not ok or type(state) ~= 'table' then return {} end
  for name, value in pairs(state) do
    local kind = type(value)
    local plain = kind == 'string' or kind == 'boolean'
      or kind == 'number' and math.abs(value) < 1e14
    if not plain or KINDS[name] and KINDS[name] ~= kind then state[name] = nil end
  end
  return state
end

-- Lua cannot unpack more than some thousand values. What a foreign entry has beside the fields of
-- the wire format (some of each, should they be repeated) is then kept in one field.
local OWN = { b = true, h = true, k = true, o = true, p = true, x = true, u = true, t = true, r = true }
local function pack_surplus(fields)
  local kept, surplus = {}, {}
  for i = 1, #fields, 2 do
    local own = OWN[fields[i]] and #kept < 28
    local target = own and kept or surplus
    target[#target + 1] = fields[i]
    target[#target + 1] = fields[i + 1]
  end
  kept[#kept + 1] = 'packed'
  kept[#kept + 1] = cmsgpack.pack(surplus)
  return kept
end

local function whole(number)
  return number and number >= 0 and number % 1 == 0 and number or 0
end

local function state_of(id, fields)
  local state, rest = {}, {}
  for i = 1, #fields, 2 do
    if fields[i] == 's' then
      state = read_state(fields[i + 1])
    else
      rest[#rest + 1] = fields[i]
      rest[#rest + 1] = fields[i + 1]
    end
  end
  if #rest > 2000 then rest = pack_surplus(rest) end
  local known = state.id and #state.id <= 41 and string.match(state.id, '^%d+%-%d+$')
  state.id = known and state.id or id
  state.attempts, state.crashes = whole(state.attempts), whole(state.crashes)
  return state, rest
end

local function with_state(state, rest)
  rest[#rest + 1] = 's'
  rest[#rest + 1] = cjson.encode(state)
  return rest
end

local function read(stream, id)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then return state_of(id, entry[2]) end
end

-- Takes the entry out of its stream for good; call it after its copy is safe elsewhere.
local function remove(stream, group, id)
  redis.call('XACK', stream, group, id)
  if stream ~= log then redis.call('XDEL', stream, id) end
end

local function bury(dead, state, rest, now)
  state.at = now
  return redis.pcall('XADD', dead, '*', unpack(with_state(state, rest)))
end

-- The error of a pcall, or nil.
local function failed(reply)
  if type(reply) ~= 'table' or not reply.err then return nil end
  -- Redis 6.2 puts the place in the script before it, and the end of a line behind it.
  local text = string.gsub(reply.err, '^@user_script: ?%d+: ?%-?', '')
  return (string.gsub(text, '%s+$', ''))
end

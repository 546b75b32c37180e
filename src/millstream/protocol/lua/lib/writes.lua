-- The plain writes of a transaction. What is written cannot be taken back, so all that may be refused is
-- looked for before the first write: each is checked in the state in which those before it leave its key.
-- KEYS has the key of each; ARGV its command, how many arguments follow, and these.
local KINDS = { INCRBY = 'string', HSET = 'hash', HDEL = 'hash', HINCRBY = 'hash', SADD = 'set',
  SREM = 'set', ZADD = 'zset', ZREM = 'zset', LPUSH = 'list', RPUSH = 'list' }

-- Integers have 64 bits at the server, and less here: those at the very end count as too large.
local LARGEST = 9.223372036854e18

-- A key as it is known so far: of what kind, what is known of its numbers, and whether the server knows more.
local function state_of_key(key)
  return { kind = redis.call('TYPE', key).ok, values = {}, stored = true }
end

-- The value of a key, or of a field of a hash, as far as it matters: a number or a text; nil: there is none.
local function value_of(it, key, field)
  local known = it.values[field or '']
  if known ~= nil then return known or nil end
  if not it.stored or it.kind == 'none' then return nil end
  return (field and redis.call('HGET', key, field) or not field and redis.call('GET', key)) or nil
end

-- Returns why a number cannot be added, or nil.
local function add(it, key, field, amount)
  local value = value_of(it, key, field) or 0
  local number = type(value) == 'number' and value
  if not number and (value == '0' or string.match(value, '^%-?[1-9]%d*$')) then number = tonumber(value) end
  if not number or math.abs(number) > LARGEST then return 'ERR the value is not an integer or out of range' end
  if math.abs(number + amount) > LARGEST then return 'ERR the number would overflow' end
  it.values[field or ''] = number + amount
end

local function note_fields(it, verb, first, last, ARGV)
  for i = first, last, verb == 'HSET' and 2 or 1 do
    it.values[ARGV[i]] = verb == 'HSET' and ARGV[i + 1] or false
  end
end

-- Returns why a write would be refused, or nil; `it` is then what it leaves.
local function check_write(it, verb, key, first, last, ARGV)
  -- Servers before 7.0 tell only by refusing.
  if redis.acl_check_cmd and not redis.acl_check_cmd(verb, key, unpack(ARGV, first, last)) then
    return 'NOPERM the user of this connection may not ' .. verb .. ' this key'
  end
  if verb == 'SET' or verb == 'DEL' then
    it.kind, it.stored = verb == 'SET' and 'string' or 'none', false
    it.values = { [''] = verb == 'SET' and ARGV[first] or nil }
    return nil
  end
  local kind = KINDS[verb]
  if kind and it.kind ~= 'none' and it.kind ~= kind then
    return 'WRONGTYPE ' .. verb .. ' needs a ' .. kind .. ', and the key holds a ' .. it.kind
  end
  it.kind = kind or it.kind
  if verb == 'INCRBY' then return add(it, key, nil, tonumber(ARGV[first])) end
  if verb == 'HINCRBY' then return add(it, key, ARGV[first], tonumber(ARGV[first + 1])) end
  if verb == 'HSET' or verb == 'HDEL' then note_fields(it, verb, first, last, ARGV) end
end

-- Returns the number of the first write that would be refused, and why; or nil.
local function check_writes(KEYS, ARGV)
  local known, at = {}, 1
  for number, key in ipairs(KEYS) do
    known[key] = known[key] or state_of_key(key)
    local last = at + 1 + ARGV[at + 1]
    local problem = check_write(known[key], ARGV[at], key, at + 2, last, ARGV)
    if problem then return number, problem end
    at = last + 1
  end
end

local function writes(KEYS, ARGV)
  local at = 1
  for _, key in ipairs(KEYS) do
    local last = at + 1 + ARGV[at + 1]
    redis.call(ARGV[at], key, unpack(ARGV, at + 2, last))
    at = last + 1
  end
  return #KEYS
end

-- The ways in which a delivery ends. Include acks before it.

-- A seek has entries of a log read again, under the ids that they had: who had one before must not end
-- the delivery of another consumer.
local sought = log and redis.call('HEXISTS', KEYS[5], 'sought') == 1

local function owned(lane, id)
  local pending = redis.call('XPENDING', lane, ARGV[1], id, id, 1)[1]
  return pending and pending[2] == ARGV[2]
end

-- Retention may have deleted from the log what somebody has in hand: it can be acknowledged, and there is
-- nothing left of it that could go on in another way.
local function is_trimmed(lane, id)
  return lane == log and #redis.call('XRANGE', lane, id, id) == 0
end

local function miss(lane, id, now, counts)
  remove(lane, ARGV[1], id)
  counts.trimmed = counts.trimmed + 1
  finish_trimmed(id, now)
end

local function ack_all(first, number, lost)
  local settled, last = 0, first + number - 1
  if not log then return ack_in_ready(first, last, lost) end
  -- In a log nothing else tells which of many were refused.
  for i = first, last do
    local acked = (not sought or owned(log, ARGV[i])) and redis.call('XACK', log, ARGV[1], ARGV[i]) or 0
    settled = settled + acked
    if acked == 0 then lost[#lost + 1] = ARGV[i] end
  end
  return settled
end

local function ack(lane, id, _, _, counts)
  remove(lane, ARGV[1], id)
  counts.acked = counts.acked + 1
end

-- The ack of a message that has a unique key, or a gate that others wait at, or is to be kept. Returns
-- whether it was owned: here, too, XACK refuses a late owner by itself.
local function finish_and_ack(lane, id, i, now, counts)
  local entry = redis.call('XRANGE', lane, id, id)[1]
  if sought and not owned(lane, id) then return false end
  if redis.call('XACK', lane, ARGV[1], id) == 0 then return false end
  if lane ~= log then redis.call('XDEL', lane, id) end
  counts.acked = counts.acked + 1
  if not entry then
    if lane == log then finish_trimmed(id, now) end
    return true
  end
  local it = named(entry[2])
  -- Reading all of the state is for those that have been through something.
  local own = it.s and string.match(it.s, '^{"id":"(%d+%-%d+)"}$') or state_of(id, entry[2]).id
  keep_handled(id, entry[2], it)
  -- Without a note it was acknowledged by hand: there is no value.
  keep_result(own, it, ARGV[i + 4] == '{}' and '-' or ARGV[i + 4], now)
  finish_named(own, it, now)
  return true
end

local function annotate(state, i)
  if ARGV[i + 3] == '1' then state.attempts = state.attempts + 1 end
  for name, value in pairs(cjson.decode(ARGV[i + 4])) do state[name] = value end
end

local function retry(lane, id, i, now, counts)
  local state, rest = read(lane, id)
  if state then
    annotate(state, i)
    local name, it = state.id, named(rest)
    local packed = cmsgpack.pack(with_state(state, rest))
    -- Foreign entries may claim the same id; none of them may push another one out.
    if redis.call('HEXISTS', KEYS[7], name) == 1 then name = name .. '/' .. ARGV[i + 1] end
    local problem = failed(redis.pcall('HSET', KEYS[7], name, packed))
    if problem then return problem end
    redis.call('ZADD', KEYS[6], after(now, tonumber(ARGV[i + 2])), name)
    -- Order is kept through retries; a mere limit has room for another message meanwhile.
    if gated(it) and it.o ~= 'ordered' then leave_gate(it.k, state.id, now) end
  end
  remove(lane, ARGV[1], id)
  counts.retried = counts.retried + 1
end

local function reject(lane, id, i, now, counts)
  local state, rest = read(lane, id)
  if state then
    annotate(state, i)
    local problem = failed(bury(KEYS[4], state, rest, now))
    if problem then return problem end
  end
  remove(lane, ARGV[1], id)
  if state then
    local it = named(rest)
    finish_named(state.id, it, now)
    call_waiters(state.id, it)
  end
  counts.died = counts.died + 1
end

-- No handler begins with a message whose time to live is over.
local function expire(lane, id, _, now)
  local state, rest = read(lane, id)
  local problem = state and end_expired(state.id, with_state(state, rest), now)
  if problem then return problem end
  remove(lane, ARGV[1], id)
  if state then finish(state.id, rest, now) end
end

local function release(lane, id)
  local state, rest = read(lane, id)
  if state then
    -- A suspect stays one: its crashes are not forgotten by handing it back.
    local target = lane == KEYS[3] and KEYS[3] or KEYS[2]
    local problem = failed(redis.pcall('XADD', target, '*', unpack(with_state(state, rest))))
    if problem then return problem end
  end
  remove(lane, ARGV[1], id)
end

-- The ways in which a delivery of a list queue ends. Include place_element before it.
local function annotate(state, i)
  if ARGV[i + 3] == '1' then state.attempts = state.attempts + 1 end
  for name, value in pairs(cjson.decode(ARGV[i + 4])) do state[name] = value end
end

local ends = {}

function ends.ack(_, _, _, _, counts) counts.acked = counts.acked + 1 end
ends.finish = ends.ack

function ends.retry(state, rest, i, now, counts)
  annotate(state, i)
  local name, packed = state.id, cmsgpack.pack(with_state(state, rest))
  -- Foreign elements may claim the same id; none of them may push another one out.
  if redis.call('HEXISTS', KEYS[7], name) == 1 then name = name .. '/' .. ARGV[i + 1] end
  local problem = failed(redis.pcall('HSET', KEYS[7], name, packed))
  if problem then return problem end
  redis.call('ZADD', KEYS[6], after(now, tonumber(ARGV[i + 2])), name)
  counts.retried = counts.retried + 1
end

function ends.reject(state, rest, i, now, counts)
  annotate(state, i)
  local problem = failed(bury(KEYS[4], state, rest, now))
  if problem then return problem end
  counts.died = counts.died + 1
end

-- No handler begins with a message whose time to live is over.
function ends.expire(state, rest, _, now)
  return end_expired(state.id, with_state(state, rest), now)
end

function ends.release(state, rest, i)
  return hand_back(state, rest, string.sub(ARGV[i + 1], 1, 1) == 's')
end

-- Plain acknowledgements; a token that is not this consumer's is lost.
local function ack_all(consumer, first, number, lost)
  local key, settled, last = processing(consumer), 0, first + number - 1
  for from = first, last, 1000 do
    local tokens, members = { unpack(ARGV, from, math.min(from + 999, last)) }, {}
    for i, token in ipairs(tokens) do members[i] = token .. ' ' .. consumer end
    if redis.call('ZREM', KEYS[3], unpack(members)) == #tokens then
      settled = settled + redis.call('HDEL', key, unpack(tokens))
    else
      for _, token in ipairs(tokens) do
        local ours = redis.call('HDEL', key, token)
        settled = settled + ours
        if ours == 0 then lost[#lost + 1] = token end
      end
    end
  end
  return settled
end

-- ARGV from `first` on as in lib/round.
local function end_all(consumer, first, now)
  local acks, lost, kept = tonumber(ARGV[first - 1]), {}, {}
  local counts = { acked = ack_all(consumer, first, acks, lost), retried = 0, died = 0 }
  for i = first + acks, #ARGV, 5 do
    local token = ARGV[i + 1]
    local state, rest = read_taken(consumer, token)
    if not state then
      lost[#lost + 1] = token
    else
      local problem = ends[ARGV[i]](state, rest, i, now, counts)
      if problem then kept[#kept + 1] = { token, problem } else let_go(consumer, token) end
    end
  end
  for name, number in pairs(counts) do
    if number > 0 then redis.pcall('HINCRBY', KEYS[5], name, number) end
  end
  return lost, kept
end

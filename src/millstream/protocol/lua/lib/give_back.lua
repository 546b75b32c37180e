-- What consumers hand back of messages that they have taken at most once. Include expire, and what
-- says `put_back`, before it. ARGV from `first` on, for each: number, verb, id, note (a JSON object:
-- reason, error, traceback), how many fields (names and values), and those.
local returns = {}

-- A handler has failed with it, or was stopped: it is gone, and only counted.
function returns.fail(_, _, _, _, counts) counts.failed = counts.failed + 1 end

function returns.release(state, rest) return put_back(state, rest) end

-- No handler begins with a message whose time to live is over.
function returns.expire(state, rest, _, now) return end_expired(state.id, with_state(state, rest), now) end

function returns.reject(state, rest, i, now, counts)
  for name, value in pairs(cjson.decode(ARGV[i + 3])) do state[name] = value end
  local problem = failed(bury(KEYS[4], state, rest, now))
  if problem then return problem end
  counts.died = counts.died + 1
end

-- The numbers of a consumer only grow, and `returned` has the last one that was done: what is sent
-- again because a reply was lost is left out. Returns {number, error} of what could not be stored now.
local function give_back(first, returned, now)
  local last, kept, problem = tonumber(redis.call('GET', returned) or 0), {}, nil
  local counts = { acked = 0, failed = 0, died = 0 }
  local i = first
  while i <= #ARGV do
    local number, size = tonumber(ARGV[i]), tonumber(ARGV[i + 4])
    if number > last then
      local fields = {}
      for j = 1, size do fields[j] = ARGV[i + 4 + j] end
      local state, rest = state_of(ARGV[i + 2], fields)
      -- Also what comes behind it, or the last number would not say what was done.
      problem = problem or returns[ARGV[i + 1]](state, rest, i, now, counts)
      if problem then
        kept[#kept + 1] = { number, problem }
      else
        last = number
        counts.acked = counts.acked - 1
      end
    end
    i = i + 5 + size
  end
  if counts.acked < 0 then redis.pcall('SET', returned, string.format('%.0f', last), 'PX', 600000) end
  for name, number in pairs(counts) do
    if number ~= 0 then redis.pcall('HINCRBY', KEYS[5], name, number) end
  end
  return kept
end

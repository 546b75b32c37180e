-- Reading a log through a subscription's filter and the gates of its keys. Include expire, fill and
-- subject before it.

-- What waits in lines has been copied. Above this the log is read no further: whoever ends a message
-- of those keys makes room, and wakes a reader.
local MOST_IN_LINES = 5000
local function lines_are_full() return redis.call('ZCARD', KEYS[10]) >= MOST_IN_LINES end

-- Whether an entry is for this consumer now; if its key is busy, it goes into the line of the key.
-- nil: the server has no memory to store it.
local function let_through(entry, now)
  local id, fields = entry[1], entry[2]
  local it = named(fields)
  if not gated(it) then return true end
  local state, rest = state_of(id, fields)
  local entered = enter(it.k, state.id, it.o)
  if entered ~= false then return entered end
  local name = state.id
  -- Foreign entries may claim the same id; none of them may push another one out.
  if redis.call('HEXISTS', KEYS[7], name) == 1 then name = name .. '/' .. id end
  -- The gate was looked at just now, so this parks it.
  if arrive(name, with_state(state, rest), false, now) then return false end
end

-- Reads up to `room` entries that pass; looks at `limit` at most. Puts them into taken.r, and those
-- that are not for this consumer into taken.over, to be acknowledged. Returns whether it has seen the
-- end of the log.
local function sift(taken, room, limit, filter, ordered, now)
  local passes = filter ~= '' and subject_filter(filter)
  local looked, filtered, last, ended = 0, 0, nil, false
  while #taken.r < room and looked < limit and not taken.problem do
    if ordered and lines_are_full() then break end
    local page = { r = {} }
    local wanted = math.min(room - #taken.r, limit - looked)
    local count = fill(page, 'r', KEYS[1], wanted)
    taken.problem = page.problem
    looked = looked + count
    ended = count < wanted
    last = count > 0 and page.r[count][1] or last
    for _, entry in ipairs(page.r) do
      local through = true
      if passes and not passes(subject_of(entry[2])) then
        through, filtered = false, filtered + 1
      elseif ordered then
        through = let_through(entry, now)
      end
      if through then
        taken.r[#taken.r + 1] = entry
      elseif through == false then
        taken.over[#taken.over + 1] = entry[1]
      end
      -- Without memory it stays pending here, and its lease decides.
    end
    if ended then break end
  end
  if #taken.over > 0 then redis.call('XACK', KEYS[1], ARGV[1], unpack(taken.over)) end
  if filtered > 0 then redis.pcall('HINCRBY', KEYS[5], 'filtered', filtered) end
  -- Cheaper than to ask where the group stands.
  return ended or last and #redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1) == 0
end

-- A reader that will sleep is noted with its filter, for publishers to wake it: by the name of the
-- subscription, since one that is woken wakes the next one. The look that found nothing and the note
-- are one moment, so nothing is published in between. Notes lapse: their readers look again long before.
local NOTE_MS = 60000
local function note_sleeper(sleepers, filter, now)
  if redis.call('EXISTS', KEYS[13]) == 1 then return end
  redis.pcall('HSET', sleepers, ARGV[1], string.format('%.0f %s', now + NOTE_MS, filter))
  redis.pcall('PEXPIRE', sleepers, NOTE_MS)
end

-- Appending a batch to a stream: once, however often it is repeated.
-- ARGV[1] number of the batch  ARGV[2] ms to remember it

-- The answer of a batch that comes again, or nil. A repetition writes, too: a WAIT behind it, on a
-- connection that has written nothing else, would be about nothing, and confirm at once.
local function answer_to(producer)
  local last = redis.call('GET', producer)
  if not last then return nil end
  local number, first = string.match(last, '^(%d+) (.+)$')
  -- Numbers only grow, so a smaller one is a late copy that nobody waits for any more.
  if tonumber(number) < tonumber(ARGV[1]) then return nil end
  redis.call('PEXPIRE', producer, ARGV[2])
  return first
end

-- Appends what stands in ARGV[4..]. `form`: of FORMS. Returns the id of the first, the others follow it by one each, and how many they are.
local function append(stream, form)
  local step, fields = unpack(form)
  -- Globals are looked up by their names each time, which this loop would do for each message.
  local call, given = redis.call, ARGV
  local first = redis.call('XADD', stream, '*', fields(4))
  local ms, seq = string.match(first, '^(%d+%-)(%d+)$')
  seq = tonumber(seq)
  -- Before 7.2 the clock may move in a script, so ids are given. Lua cannot count above 2^53; only a
  -- foreign entry gets there, and it is ahead of the clock.
  local frozen = (redis.REDIS_VERSION_NUM or 0) >= 0x070200
  local sent = 1
  for i = 4 + step, #given, step do
    local id = '*'
    if not frozen and seq + sent < 2 ^ 53 then id = ms .. string.format('%.0f', seq + sent) end
    if step == 1 then
      call('XADD', stream, id, 'b', given[i])
    else
      call('XADD', stream, id, fields(i))
    end
    sent = sent + 1
  end
  return first, sent
end

-- What an entry is made of, by ARGV[3]: how many values, and its fields.
local FORMS = {
  b = { 1, function(i) return 'b', ARGV[i] end },
  bh = { 2, function(i)
    if ARGV[i + 1] ~= '' then return 'b', ARGV[i], 'h', ARGV[i + 1] end
    return 'b', ARGV[i]
  end },
}

-- Counts a batch, and remembers its answer.
local function note(counters, counter, sent, producer, first)
  redis.call('HINCRBY', counters, counter, sent)
  redis.call('SET', producer, ARGV[1] .. ' ' .. first, 'PX', ARGV[2])
end

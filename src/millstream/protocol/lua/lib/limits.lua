-- How many deliveries the limits of a queue allow.

-- What is pending counts, so there is no counter that a dead worker could leave wrong.
local function free_slots(limit)
  if limit == 0 then return math.huge end
  for i = 1, 3 do
    local group = find_group(KEYS[i], ARGV[1])
    limit = limit - (group and group.pending or 0)
  end
  return math.max(0, limit)
end

-- A token bucket: `burst` tokens at most, `count` more every `per` ms. What is missing in it is
-- kept in units of which a token has `per` and a ms brings `count`: whole numbers, exact.
local function open_bucket(key, count, per, burst, now)
  if count == 0 then return { tokens = math.huge } end
  local saved = redis.call('HMGET', key, 'missing', 'at', 'promised')
  local missing = math.min(tonumber(saved[1]) or 0, burst * per)
  missing = math.max(0, missing - math.max(0, now - (tonumber(saved[2]) or now)) * count)
  local tokens = math.floor((burst * per - missing) / per)
  return { key = key, count = count, per = per, burst = burst, now = now, missing = missing,
    promised = tonumber(saved[3]) or 0, tokens = tokens }
end

-- It is forgotten when it is full again. A full server refuses a script only at its first write, so
-- what has been read is counted; a time that was promised may be forgotten.
local function save(bucket)
  local whole = function(number) return string.format('%.0f', number) end
  local full_in = math.max(math.ceil(bucket.missing / bucket.count), bucket.promised - bucket.now)
  redis.pcall('HSET', bucket.key, 'missing', whole(bucket.missing),
    'at', whole(bucket.now), 'promised', whole(bucket.promised))
  redis.call('PEXPIRE', bucket.key, whole(math.max(1, full_in)))
end

local function charge(bucket, tokens)
  if not bucket.key or tokens == 0 then return end
  bucket.tokens = bucket.tokens - tokens
  bucket.missing = bucket.missing + tokens * bucket.per
  save(bucket)
end

-- Returns in how many ms a reader is to come back for tokens. Each one that asks is told a later
-- time, so that they do not all come for the same token; up to a second later only, for the one
-- before may have died. At high rates it is worth waiting for some tokens together.
local function promise(bucket, wanted)
  local count, per = bucket.count, bucket.per
  local some = math.min(wanted, math.ceil(bucket.burst / 2), math.floor(10 * count / per))
  some = math.max(1, some) * per
  local first = bucket.now + math.ceil((some - bucket.burst * per + bucket.missing) / count)
  local span = math.ceil(some / count)
  -- Who comes just before a token does was told to come for it: it was taken a little late.
  local at = first
  if (first - bucket.now) * 4 > span then
    local free = bucket.promised > bucket.now and bucket.promised + span or 0
    at = math.max(first, math.min(free, first + 1000))
    bucket.promised = at
  end
  -- Also for the sake of `at` in the bucket: a clock that was set back counts from now on.
  save(bucket)
  return at - bucket.now
end

-- Elements of a list queue. Ours begin with `ms1 `, the id of the message and a line end; a JSON
-- object between the two has its other fields, if any. The body follows. No JSON text begins with
-- an m, so whatever else is in the list is the body of a message that somebody else has sent.
-- KEYS of list scripts: [1] list  [2] list-suspect  [3] leases  [4] dead  [5] counters  [6] due
-- [7] delayed  [8] landing  [9] consumers  [10] seen  [11] paused  [12] control  [13] list-front
local NUDGE = 'ms1 wake\n'
local KEPT = { h = true, k = true, x = true, s = true }

local function encode(id, fields)
  local body, more = '', nil
  for i = 1, #fields, 2 do
    if fields[i] == 'b' then
      body = fields[i + 1]
    elseif KEPT[fields[i]] then
      more = more or {}
      more[fields[i]] = fields[i + 1]
    end
  end
  return 'ms1 ' .. id .. (more and ' ' .. cjson.encode(more) or '') .. '\n' .. body
end

-- Returns the fields of a message, and its id unless it has none yet.
local function decode(element)
  local ends = string.sub(element, 1, 4) == 'ms1 ' and string.find(element, '\n', 5, true)
  if not ends then return { 'b', element } end
  local id, rest = string.match(string.sub(element, 5, ends - 1), '^(%d+%-%d+)(.*)$')
  if not id or #id > 41 then return { 'b', element } end
  local fields = { 'b', string.sub(element, ends + 1) }
  if rest == '' then return fields, id end
  local ok, more = pcall(cjson.decode, string.sub(rest, 2))
  if not ok or type(more) ~= 'table' then return { 'b', element } end
  for name in pairs(KEPT) do
    if type(more[name]) == 'string' then
      fields[#fields + 1] = name
      fields[#fields + 1] = more[name]
    end
  end
  return fields, id
end

-- The messages that a consumer has, by token.
local function processing(consumer)
  return string.match(KEYS[1], '^(.*:)list$') .. 'processing:' .. consumer
end

local function has_nudge()
  return redis.call('LPOS', KEYS[1], NUDGE, 'RANK', -1, 'MAXLEN', 1000)
end

local function drop_nudge()
  if has_nudge() then redis.call('LREM', KEYS[1], -1, NUDGE) end
end

-- Wakes one reader, if all of them sleep, which they do only while the list is empty: a read that
-- sleeps sees nothing else. Whoever takes messages next throws it away.
local function nudge()
  if redis.call('EXISTS', KEYS[1]) == 0 and redis.call('EXISTS', KEYS[9]) == 1 then
    redis.pcall('LPUSH', KEYS[1], NUDGE)
  end
end

-- What a sleeping read has brought belongs to nobody before a script takes it: back to the list. So does
-- a wake-up, for its reader may have died; but two would be counted as a message.
local function put_back_landed()
  if redis.call('EXISTS', KEYS[8]) == 0 then return end
  local woken = redis.call('LREM', KEYS[8], 0, NUDGE) > 0
  for _ = 1, redis.call('LLEN', KEYS[8]) do
    redis.pcall('LMOVE', KEYS[8], KEYS[1], 'RIGHT', 'RIGHT')
  end
  if woken then nudge() end
end

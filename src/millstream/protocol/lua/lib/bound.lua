-- The bound of a queue: a unit of messages is stored whole or not at all. ARGV are those of place.lua.
-- Include room, line and drop before it.
local most, on_full, name, ticket = tonumber(ARGV[4]), ARGV[5], ARGV[7], ARGV[8]
-- The length that the first unit saw which has to wait, and the ticket that it needs.
local waits, needed = nil, ''
local stored = false

local function take_turn(now)
  if on_full ~= 'wait' then return end
  forget_lapsed(now)
  local first = redis.call('ZRANGE', KEYS[14], 0, 0)[1]
  -- Nobody overtakes those who wait.
  if first and first ~= ticket then waits = queue_length() end
end

-- How many messages of a unit are to be stored: one that a unique key stands for already is not.
local function fresh(from, last, windows)
  local count = 0
  for i = from, last, 9 do
    local unique = ARGV[i + 7]
    if unique ~= '' then windows = windows + 1 end
    if unique == '' or not first_of(unique, KEYS[windows]) then count = count + 1 end
  end
  return count
end

-- Returns the length of the queue when it has no room for the unit at ARGV[from..last], else nil.
local function full_for(from, last, windows, now)
  local count = most and fresh(from, last, windows) or 0
  if count == 0 then return nil end
  local length = waits or queue_length()
  local fits = not waits and (length + count <= most or on_full == 'drop_oldest' and drop(count, most, now))
  if fits then
    stored = true
    return nil
  end
  if needed == '' then needed = string.format('%s %.0f', name, most - (last - from + 1) / 9) end
  if on_full == 'wait' then waits = length end
  return length
end

-- What is left waits. Who got something goes to the end of the line: the next one's turn has come.
local function end_turn(now)
  if on_full ~= 'wait' then return end
  line_up(ticket, waits and needed or '', stored, now)
  call_sender(KEYS[14], KEYS[15])
end

-- Waking readers that sleep until something passes their filter. KEYS are those of publish.lua.

-- So many comparisons a batch; beyond them readers are woken that may find nothing for them.
local MOST_COMPARED = 20000

-- The subjects in a batch, each once; `step`: how many values a message has, if there may be some.
local function subjects_in(step)
  local found, known = {}, {}
  for i = 7, step and #ARGV or 0, step or 1 do
    local subject = ARGV[i]
    if subject ~= '' and not known[subject] then
      known[subject] = true
      found[#found + 1] = subject
    end
  end
  return found
end

local function concerns(filter, subjects)
  if filter == '' then return true end
  local passes = subject_filter(filter)
  for _, subject in ipairs(subjects) do
    if passes(subject) then return true end
  end
  return false
end

-- A note is used up by waking one reader of the subscription; it notes itself anew before it sleeps.
-- The names of the streams follow from that of the log, which has the same hash tag.
local function wake_sleepers(step)
  local time = redis.call('TIME')
  local now, left = time[1] * 1000 + math.floor(time[2] / 1000), MOST_COMPARED
  local subjects = subjects_in(step)
  local notes = redis.call('HGETALL', KEYS[4])
  for i = 1, #notes, 2 do
    local ends, filter = string.match(notes[i + 1], '^(%d+) (.*)$')
    local lapsed = tonumber(ends) < now
    left = left - #subjects
    if lapsed or left < 0 or concerns(filter, subjects) then
      redis.call('HDEL', KEYS[4], notes[i])
      local wake = string.sub(KEYS[1], 1, -4) .. 'subscription:' .. notes[i] .. ':wake'
      redis.pcall('XADD', wake, 'NOMKSTREAM', 'MAXLEN', 16, '*', 'published', ARGV[1])
    end
  end
end

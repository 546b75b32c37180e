-- Append a batch of messages to a topic; a repeated batch stores nothing and gets its first answer.
-- KEYS[1] log  KEYS[2] counters  KEYS[3] producer  KEYS[4] sleepers
-- ARGV[1] number of the batch  ARGV[2] ms to remember it  ARGV[3] 'b', 'bh' or 'bhkto'
-- ARGV[4..] the bodies ('b'), body and headers in turn ('bh'), or body, headers, key, subject and gate
-- ('bhkto'); each '' when there is none
-- Returns the id of the first message; the others follow it by one each.
-- @include append
-- @include subject
-- @include sleepers
local repeated = answer_to(KEYS[3])
if repeated then return repeated end
local NAMES = { 'b', 'h', 'k', 't', 'o' }
FORMS.bhkto = { 5, function(i)
  local fields = { 'b', ARGV[i] }
  for at = 2, 5 do
    local value = ARGV[i + at - 1]
    if value ~= '' then
      fields[#fields + 1] = NAMES[at]
      fields[#fields + 1] = value
    end
  end
  return unpack(fields)
end }
local first, sent = append(KEYS[1], FORMS[ARGV[3]])
note(KEYS[2], 'published', sent, KEYS[3], first)
if redis.call('EXISTS', KEYS[4]) == 1 then wake_sleepers(ARGV[3] == 'bhkto' and 5) end
return first

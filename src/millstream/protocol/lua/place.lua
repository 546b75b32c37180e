-- Accept a batch of messages that are more than a body; a repeated batch gets its first answer.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] producer  KEYS[15..] window of each message that has a unique key, in order
-- ARGV[1] number of the batch  ARGV[2] ms to remember it  ARGV[3] now in ms or ''
-- ARGV[4..] eight for each message: body, headers, key, gate ('ordered' or a number), priority,
-- time ('+' and a delay in ms, or the ms since 1970), time to live ('' or ms, perhaps with ' drop'),
-- unique ('done:', 'started:' or 'window:<ms>:', and the key); each '' when there is none
-- Returns the id of each message, after '=' when an earlier message stands for it.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include due
-- @include place
local last = redis.call('GET', KEYS[14])
if last then
  local number, answer = string.match(last, '^(%d+) (.*)$')
  -- Numbers only grow, so a smaller one is a late copy that nobody waits for any more.
  if tonumber(number) >= tonumber(ARGV[1]) then return cmsgpack.unpack(answer) end
end
local now = clock(ARGV[3])
local first_due = next_due()
local answer, windows, placed = {}, 14, 0
for i = 4, #ARGV, 8 do
  local unique, window = ARGV[i + 7], nil
  if unique ~= '' then
    windows = windows + 1
    window = KEYS[windows]
  end
  local first = window and first_of(unique, window)
  if first then
    answer[#answer + 1] = '=' .. first
  else
    local id = place(i, now)
    if window then claim(unique, window, id) end
    answer[#answer + 1] = id
    placed = placed + 1
  end
end
wake_if_earlier(first_due, next_due(), now)
if placed > 0 then redis.call('HINCRBY', KEYS[5], 'sent', placed) end
redis.call('SET', KEYS[14], ARGV[1] .. ' ' .. cmsgpack.pack(answer), 'PX', ARGV[2])
return answer

-- Accept a batch of messages that are more than a body, or whose queue has a bound; a repeated
-- batch gets its first answer.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] senders  KEYS[15] room  KEYS[16] alive  KEYS[17] producer
-- KEYS[18..] window of each message that has a unique key, in order
-- ARGV[1] number of the batch  ARGV[2] ms to remember it  ARGV[3] now in ms or ''
-- ARGV[4] bound or ''  ARGV[5] when it is full: 'reject', 'wait' or 'drop_oldest'  ARGV[6] group
-- ARGV[7] name of the producer among those who wait  ARGV[8] the ticket that it has, or ''
-- ARGV[9] number of units  ARGV[10..] how many messages each has; a unit is stored whole or not
-- at all. Then nine for each message: body, headers, key, gate ('ordered' or a number), priority,
-- time ('+' and a delay in ms, or the ms since 1970), time to live ('' or ms, perhaps with ' drop'),
-- unique ('done:', 'started:' or 'window:<ms>:', and the key), ms for which to keep its result; each ''
-- when there is none
-- Returns the id of each message, after '=' when an earlier message stands for it; or '!' and the
-- length of the queue, which has no room for it.
-- @include clock
-- @include moves
-- @include arrive
-- @include expire
-- @include due
-- @include answered
-- @include place
-- @include group
-- @include room
-- @include line
-- @include drop
-- @include bound
local repeated = answered(KEYS[17], ARGV[1])
if repeated then return repeated end
local now, first_due = clock(ARGV[3]), next_due()
local answer, placed, windows, at = {}, 0, 17, 10 + ARGV[9]
take_turn(now)
for unit = 1, tonumber(ARGV[9]) do
  local last = at + 9 * ARGV[9 + unit] - 1
  local full = full_for(at, last, windows, now)
  for i = at, last, 9 do
    local unique, window = ARGV[i + 7], nil
    if unique ~= '' then
      windows = windows + 1
      window = KEYS[windows]
    end
    local first = window and first_of(unique, window)
    answer[#answer + 1] = first and '=' .. first or full and '!' .. full
    if not first and not full then
      answer[#answer + 1] = place(i, now)
      if window then claim(unique, window, answer[#answer]) end
      placed = placed + 1
    end
  end
  at = last + 1
end
end_turn(now)
wake_if_earlier(first_due, next_due(), now)
if placed > 0 then redis.call('HINCRBY', KEYS[5], 'sent', placed) end
redis.call('SET', KEYS[17], ARGV[1] .. ' ' .. cmsgpack.pack(answer), 'PX', ARGV[2])
return answer

-- Settle deliveries of a consumer, promote what is due or urgent, and tell what is left to read.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused
-- ARGV[1] group  ARGV[2] consumer  ARGV[3] now in ms or ''  ARGV[4] most messages to promote
-- ARGV[5] '1': wake a reader if a retry is due first  ARGV[6] which priorities to move to the front
-- (lib/priority) or ''  ARGV[7] number of plain acks, all in ready
-- ARGV[8..] their ids, then five for each other settlement: verb, token, delay in ms, '1' if the
-- handler failed, note (a JSON object: reason, error, traceback)
-- Returns lost tokens, {token, error} that could not be settled now, ms to the next due message
-- or -1, whether front has unread messages, whether suspect has (1 or 0), now, waiting priorities.
-- @include clock
-- @include lanes
-- @include moves
-- @include arrive
-- @include expire
-- @include settle
-- @include group
-- @include due
-- @include priority
local acks = tonumber(ARGV[7])
local has_others = #ARGV > 7 + acks
local now = clock(ARGV[3])
local lost, kept = {}, {}
local counts = { acked = ack_all(acks, lost), retried = 0, died = 0 }
local verbs = { ack = ack, finish = finish_and_ack, retry = retry, reject = reject,
  release = release, expire = expire }
local first_due = has_others and next_due()
for i = 8 + acks, #ARGV, 5 do
  local lane, id = locate(ARGV[i + 1])
  if ARGV[i] == 'woken' then
    remove(KEYS[8], ARGV[1], ARGV[i + 1])
  elseif not owned(lane, id) then
    lost[#lost + 1] = ARGV[i + 1]
  else
    -- Acks come first: they free the memory that the others may need.
    local problem = verbs[ARGV[i]](lane, id, i, now, counts)
    if problem then kept[#kept + 1] = { ARGV[i + 1], problem } end
  end
end
for name, number in pairs(counts) do
  if number > 0 then redis.pcall('HINCRBY', KEYS[5], name, number) end
end
local due = next_due()
if has_others and ARGV[5] == '1' then wake_if_earlier(first_due, due, now) end
if due and due <= now then
  local refused = promote(now, ARGV[4])
  -- Without memory the same message is due again and again: the consumer must not spin.
  due = refused and now + 1000 or next_due()
end
raise(ARGV[6], now)
local wait = due and math.max(0, due - now) or -1
return { lost, kept, wait, unread(KEYS[2]), unread(KEYS[3]), now, levels() }

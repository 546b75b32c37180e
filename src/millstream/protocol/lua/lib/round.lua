-- What every fetch begins with: settle, promote, and tell when the next message is due.
-- ARGV[first - 1] is the number of plain acks; from ARGV[first] on their ids, then five for each
-- other settlement: verb, token, delay in ms, '1' if the handler failed, note (a JSON object:
-- reason, error, traceback; for 'finish' the result, or '{}'). The first may be 'results' instead, and
-- which of KEYS is the first of theirs, and 'keep', and the bounds of what is kept.
-- Returns lost tokens, {token, error} of what could not be settled now, ms to the next due
-- message or -1, how many deliveries were to end, and how many wake-ups were used up.
local function settle_and_promote(first, now)
  local acks = tonumber(ARGV[first - 1])
  local has_others = #ARGV >= first + acks
  local lost, kept, woken, heads = {}, {}, 0, 0
  local counts = { acked = ack_all(first, acks, lost), retried = 0, died = 0, trimmed = 0 }
  local verbs = { ack = ack, retry = retry, reject = reject, release = release, expire = expire }
  local first_due = has_others and next_due()
  for i = first + acks, #ARGV, 5 do
    local lane, id = locate(ARGV[i + 1])
    if ARGV[i] == 'keep' then
      begin_keeping(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
      heads = heads + 1
    elseif ARGV[i] == 'results' then
      begin_results(tonumber(ARGV[i + 1]))
      heads = heads + 1
    elseif ARGV[i] == 'woken' then
      remove(KEYS[8], ARGV[1], ARGV[i + 1])
      woken = woken + 1
    elseif ARGV[i] == 'finish' then
      if not finish_and_ack(lane, id, i, now, counts) then lost[#lost + 1] = ARGV[i + 1] end
    elseif not owned(lane, id) then
      lost[#lost + 1] = ARGV[i + 1]
    elseif ARGV[i] ~= 'ack' and is_trimmed(lane, id) then
      miss(lane, id, now, counts)
    else
      -- Acks come first: they free the memory that the others may need.
      local problem = verbs[ARGV[i]](lane, id, i, now, counts)
      if problem then kept[#kept + 1] = { ARGV[i + 1], problem } end
    end
  end
  if keeping and counts.acked > 0 then trim_kept(now) end
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
  local ended = acks + (#ARGV - first - acks + 1) / 5 - woken - heads
  return lost, kept, microseconds(now, due), ended, woken
end

-- Takes a delivery from a consumer that is gone. With blame it counts as a crash: at the second
-- the message becomes a suspect, above the limit a dead letter. With a reason it is a dead letter in
-- any case. Returns 'moved', 'died', 'gone'.
local function take_over(lane, group, id, blame, max_crashes, now, reason)
  local state, rest = read(lane, id)
  local outcome = 'moved'
  local reply
  if not state then
    -- Retention or somebody else deleted the entry; only the pending record is left.
    outcome = 'gone'
  else
    if blame then state.crashes = state.crashes + 1 end
    if not reason and state.crashes > max_crashes then reason = 'crashed' end
    if reason then
      outcome = 'died'
      state.reason = reason
      reply = bury(KEYS[4], state, rest, now)
    else
      local target = state.crashes > 1 and KEYS[3] or KEYS[2]
      reply = redis.pcall('XADD', target, '*', unpack(with_state(state, rest)))
    end
  end
  if failed(reply) then return 'kept' end
  remove(lane, group, id)
  if outcome == 'died' then finish(state.id, rest, now) end
  if outcome == 'gone' and lane == log then
    redis.pcall('HINCRBY', KEYS[5], 'trimmed', 1)
    finish_trimmed(id, now)
  end
  return outcome
end

local function count(outcomes, blame)
  local moved, died = outcomes.moved, outcomes.died
  if moved + died + outcomes.gone > 0 then tell_of_slots() end
  if died > 0 then redis.pcall('HINCRBY', KEYS[5], 'died', died) end
  if blame and moved + died > 0 then redis.pcall('HINCRBY', KEYS[5], 'crashed', moved + died) end
end

-- Takes a delivery of a list queue from a consumer that is gone. With blame it counts as a crash: at
-- the second the message becomes a suspect, above the limit a dead letter.
local function take_over(consumer, token, blame, max_crashes, now, outcomes)
  local state, rest = read_taken(consumer, token)
  local outcome, problem = 'moved', nil
  if not state then
    outcome = 'gone'
  else
    if blame then state.crashes = state.crashes + 1 end
    if state.crashes > max_crashes then
      outcome, state.reason = 'died', 'crashed'
      problem = failed(bury(KEYS[4], state, rest, now))
    else
      problem = hand_back(state, rest, state.crashes > 1)
    end
  end
  if problem then
    outcome = 'kept'
  else
    let_go(consumer, token)
  end
  outcomes[outcome] = outcomes[outcome] + 1
end

local function count(outcomes, blame)
  local ended = outcomes.moved + outcomes.died
  if outcomes.died > 0 then redis.pcall('HINCRBY', KEYS[5], 'died', outcomes.died) end
  if blame and ended > 0 then redis.pcall('HINCRBY', KEYS[5], 'crashed', ended) end
end

local function forget(consumer)
  redis.call('HDEL', KEYS[9], consumer)
  redis.call('ZREM', KEYS[10], consumer)
  if redis.call('EXISTS', KEYS[9]) == 0 then
    drop_nudge()
  elseif redis.call('EXISTS', KEYS[6]) == 1 then
    -- It may have been the only one that knew when the next message is due.
    nudge()
  end
end

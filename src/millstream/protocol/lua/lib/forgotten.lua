-- Subscriptions that nobody consumes.

-- For how many ms that has been so: since a consumer was heard of last, if some are listed, or since
-- somebody noted that there is none. false: nobody has. Returns also whether some are listed.
local function unused_for(log, idle, name, now)
  local least
  for _, info in ipairs(redis.pcall('XINFO', 'CONSUMERS', log, name)) do
    least = math.min(least or math.huge, info[6])
  end
  if least then return least, true end
  local since = redis.call('HGET', idle, name)
  return since and now - since, false
end

-- Whether its time is over. `living`: in so many ms a consumer that lives is heard of, however short the time.
local function is_over(span, listed, expires, living)
  return span and span >= (listed and math.max(expires, living) or expires)
end

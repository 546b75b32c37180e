-- Stores what a topic keeps, unless it is known. A full server refuses a script only at its first
-- write, so the old text goes first: to keep less is what such a server may need.
local function retain(config, text)
  if redis.call('HGET', config, 'retain') == text then return end
  redis.call('HDEL', config, 'retain')
  redis.call('HSET', config, 'retain', text)
end

-- Make a subscription of a topic, and perhaps a consumer of it; one that exists keeps its place.
-- KEYS[1] log  KEYS[2] front  KEYS[3] suspect  KEYS[4] wake  KEYS[5] consumers
-- KEYS[6] paused  KEYS[7] config  KEYS[8] subscriptions
-- ARGV[1] its name, and that of its groups  ARGV[2] consumer or ''  ARGV[3] lease in ms
-- ARGV[4] the last entry that is not for it, or '$': the last one there is
-- ARGV[5] JSON: filter, expires (in ms); what there is of them
-- ARGV[6] what the topic keeps, as in retain.lua, or '': that is not said here
-- Returns the number of partitions that the topic was declared with, if it was, the filter that it
-- exists with ('' for none) and 1, or 0 when that is another one: nothing is done then. Safe to repeat.
-- @include group
-- @include join_groups
-- @include retain
local declared = cjson.decode(ARGV[5])
local text = redis.call('HGET', KEYS[8], ARGV[1])
local found = text and cjson.decode(text) or {}
local partitions = redis.call('HGET', KEYS[7], 'partitions')
if text and found.filter ~= declared.filter then return { partitions, found.filter or '', 0 } end
if ARGV[6] ~= '' then retain(KEYS[7], ARGV[6]) end
local start = ARGV[4]
if start == '$' then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  start = last and last[1] or '0-0'
end
local new = not has_group(KEYS[1], ARGV[1])
make_groups(ARGV[1], start)
-- One that starts at the end has all behind it.
if new and ARGV[4] == '$' and redis.call('EXISTS', KEYS[6]) == 0 then
  move_group(KEYS[1], ARGV[1], start, stream_info(KEYS[1])['entries-added'])
end
-- Not written without need: a worker gets in on a server without free memory.
if not text or found.expires ~= declared.expires then
  found.filter, found.expires = declared.filter, declared.expires
  redis.call('HSET', KEYS[8], ARGV[1], cjson.encode(found))
end
if ARGV[2] ~= '' then redis.pcall('HSET', KEYS[5], ARGV[2], ARGV[3]) end
return { partitions, declared.filter or '', 1 }

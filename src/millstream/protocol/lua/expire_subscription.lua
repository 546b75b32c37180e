-- Remove a subscription that nobody has consumed for longer than it lives, with all that waits for it.
-- KEYS[1] log  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] priority  KEYS[8] lines  KEYS[9] paused  KEYS[10] subscriptions  KEYS[11] idle
-- KEYS[12..] its own keys
-- ARGV[1] its name  ARGV[2] now in ms or ''  ARGV[3] ms within which a consumer that lives is heard of
-- ARGV[4] '1': its time must be over in this partition; '0': no consumer must live here
-- ARGV[5] '1': remove it; '0': only look
-- Returns nil when it stays, or for how many ms nobody has consumed it, how many of its messages were not
-- handled, and how many were dead letters.
-- @include clock
-- @include group
-- @include census
-- @include forgotten
local now, name, living = clock(ARGV[2]), ARGV[1], tonumber(ARGV[3])
local text = redis.call('HGET', KEYS[10], name)
local expires = text and cjson.decode(text).expires
local span, listed = unused_for(KEYS[1], KEYS[11], name, now)
if ARGV[4] == '1' then
  if not expires or not is_over(span, listed, expires, living) then return nil end
elseif listed and span < living then
  return nil
end
if ARGV[5] == '0' then return { span or 0, 0, 0 } end
local keys = { unpack(KEYS, 1, 9) }
local waiting, in_flight, delayed, dead = census(keys, name)
redis.call('HDEL', KEYS[10], name)
redis.call('HDEL', KEYS[11], name)
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('XGROUP', 'DESTROY', KEYS[1], name) end
redis.call('UNLINK', unpack(KEYS, 12))
return { span or 0, waiting + in_flight + delayed, dead }

-- Say what a topic keeps; what was said before does not count any more.
-- KEYS[1] config
-- ARGV[1] JSON: max_age (in ms), max_length, max_bytes, until_consumed; what there is of them
-- Returns 'OK'. Safe to repeat.
-- @include retain
retain(KEYS[1], ARGV[1])
return 'OK'

-- Remove consumers of a queue that have nothing and have not been heard of for long.
-- KEYS[1] ready  KEYS[2] front  KEYS[3] suspect  KEYS[4] dead  KEYS[5] counters  KEYS[6] due
-- KEYS[7] delayed  KEYS[8] wake  KEYS[9] priority  KEYS[10] lines  KEYS[11] holders  KEYS[12] unique
-- KEYS[13] paused  KEYS[14] consumers
-- ARGV[1] group  ARGV[2] consumer that asks  ARGV[3] ms without a sign of life
-- Returns nothing.
-- @include slots
-- @include remove_consumers
remove_dead_consumers(tonumber(ARGV[3]))
return false

-- Show that somebody reads a mailbox, and delete what was read.
-- KEYS[1] mailbox
-- ARGV[1] ms for which it is kept from now on  ARGV[2] id of the last entry that was read
-- Returns 1: that is done; 0: there is no such mailbox; -1: there is one without that entry, and nothing was
-- deleted. That entry is the oldest that is left, as a rule. A replica that has taken over may never have got
-- it, and what it was given since may have smaller ids: its clock may be behind.
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return 0 end
if #redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2]) == 0 then return -1 end
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])
return 1

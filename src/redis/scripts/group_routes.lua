#!lua flags=no-writes
-- Reads the routes of a group, without those whose members have all expired.
--
-- KEYS[1]: the group, a sorted set of routes, each with the version of its last change.
-- ARGV[1]: how long a membership lasts, in ms.
-- Returns: the routes, each followed by its version.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local live = string.format('(%.0f', now - tonumber(ARGV[1]) * 1000)
return redis.call('ZRANGE', KEYS[1], live, '+inf', 'BYSCORE', 'WITHSCORES')

-- Returns the members of a group of Django Channels. It removes the members whose membership has ended first.
--
-- KEYS[1]: the sorted set of the group.
-- ARGV[1]: how long a membership lasts, in ms.
-- Returns: the channels, in the order in which they were added.

local time = redis.call('TIME')
local oldest = time[1] + time[2] / 1000000 - tonumber(ARGV[1]) / 1000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', oldest))
return redis.call('ZRANGE', KEYS[1], 0, -1)

-- Adds a channel to a group of Django Channels, or renews its membership.
--
-- KEYS[1]: the sorted set of the group.
-- ARGV[1]: the channel.
-- ARGV[2]: how long a membership lasts, in ms.
-- Returns: 1 if the channel was no member, else 0.

local time = redis.call('TIME')
local added = redis.call('ZADD', KEYS[1], string.format('%.6f', time[1] + time[2] / 1000000), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return added

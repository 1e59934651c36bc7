-- Adds a channel to a group of Django Channels, or extends its membership.
--
-- Python scores a member with the time at which it was added, and ends its membership the group expiry after that. A shorter
-- membership gets an earlier time. A membership is never shortened.
--
-- KEYS[1]: the sorted set of the group.
-- ARGV[1]: the channel.
-- ARGV[2]: the group expiry, in ms.
-- ARGV[3]: how long this membership lasts, in ms; at most the group expiry.
-- Returns: 1 if the channel was no member, else 0.

local time = redis.call('TIME')
local missing = tonumber(ARGV[2]) - tonumber(ARGV[3])
local score = time[1] + time[2] / 1000000 - missing / 1000
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if known and tonumber(known) >= score then
    return 0
end
local added = redis.call('ZADD', KEYS[1], string.format('%.6f', score), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return added

-- Puts messages of channels_redis back into the place that they had, whatever the capacity of their channel.
--
-- KEYS[1]: the sorted set of the channel.
-- ARGV[1]: how long messages live, in ms.
-- ARGV[2...]: the score and the bytes of each message.
-- Returns: how many of them had expired and were left out.

local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local lifetime = tonumber(ARGV[1])
local expired, latest = 0, 0

for n = 2, #ARGV, 2 do
    local remaining = (tonumber(ARGV[n]) - now) * 1000 + lifetime
    if remaining > 0 then
        redis.call('ZADD', key, ARGV[n], ARGV[n + 1])
        latest = math.max(latest, math.min(remaining, lifetime))
    else
        expired = expired + 1
    end
end

if latest > 0 and redis.call('PTTL', key) < latest then
    redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(latest)))
end
return expired

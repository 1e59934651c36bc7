-- Puts messages of asgi_redis back at the head of their channel, whatever its capacity.
--
-- KEYS[1]: the list of the channel.
-- KEYS[2...]: new keys for the messages, in the order in which they were taken.
-- ARGV: for each message when it expires, in ms since the epoch, and its bytes.
-- Returns: how many of them had expired and were left out.

local list = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expired, latest = 0, 0

for n = #KEYS, 2, -1 do
    local expires = tonumber(ARGV[2 * n - 3])
    if expires > now then
        redis.call('SET', KEYS[n], ARGV[2 * n - 2])
        redis.call('PEXPIREAT', KEYS[n], ARGV[2 * n - 3])
        redis.call('LPUSH', list, KEYS[n])
        latest = math.max(latest, expires)
    else
        expired = expired + 1
    end
end

if latest > 0 and redis.call('PTTL', list) < latest + 1000 - now then
    redis.call('PEXPIREAT', list, string.format('%.0f', latest + 1000))
end
return expired

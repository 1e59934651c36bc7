-- Reads the message of asgi_redis whose key has been taken from its channel. The message stays, because the answer may be
-- lost and the call repeated.
--
-- KEYS[1]: the key of the message.
-- ARGV[1]: how long a message without an end lives from now on, in ms.
-- Returns: the message and when it expires, in ms since the epoch; nil if it is gone. The answer may be late, so it
-- holds no remaining time.

local body = redis.pcall('GET', KEYS[1])
if type(body) == 'string' then
    local time, remaining = redis.call('TIME'), redis.call('PTTL', KEYS[1])
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    return { body, now + (remaining < 0 and tonumber(ARGV[1]) or remaining) }
end
if body and not string.find(body.err, 'WRONGTYPE', 1, true) then
    return body
end
return false

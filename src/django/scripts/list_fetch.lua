-- Reads the message of asgi_redis whose key has been taken from its channel. The message stays, since the answer may be
-- lost and asked for again.
--
-- KEYS[1]: the key of the message.
-- ARGV: nothing.
-- Returns: the message and its remaining time in ms; nil if it is gone.

local body = redis.pcall('GET', KEYS[1])
if type(body) == 'string' then
    return { body, redis.call('PTTL', KEYS[1]) }
end
if body and not string.find(body.err, 'WRONGTYPE', 1, true) then
    return body
end
return false

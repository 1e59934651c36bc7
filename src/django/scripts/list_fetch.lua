-- Takes the message of asgi_redis whose key has been taken from its channel.
--
-- KEYS[1]: the key of the message.
-- ARGV: nothing.
-- Returns: the message and its remaining time in ms; nothing if it is not there any more.

local body = redis.pcall('GET', KEYS[1])
if type(body) ~= 'string' then
    return false
end
local remaining = redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1])
return { body, remaining }

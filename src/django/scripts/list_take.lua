-- Takes the oldest messages of the first channel of asgi_redis that has any.
--
-- The keys of messages stand in the list, so that they cannot be told beforehand. Only those with the right beginning are
-- touched.
--
-- KEYS: the lists of the channels, in the order in which to look at them.
-- ARGV[1]: how many messages to take at most.
-- ARGV[2]: what keys of messages begin with.
-- Returns: the list, then a list of key, message and remaining time in ms for each message, and how many keys had no
-- message any more; nothing if all lists are empty.

local prefix = ARGV[2]

for _, list in ipairs(KEYS) do
    local taken, missing, count = {}, 0, 0
    while count < tonumber(ARGV[1]) do
        local key = redis.call('LPOP', list)
        if not key then
            break
        end
        count = count + 1
        local body = string.sub(key, 1, #prefix) == prefix and redis.pcall('GET', key)
        if type(body) == 'string' then
            taken[#taken + 1] = key
            taken[#taken + 1] = body
            taken[#taken + 1] = redis.call('PTTL', key)
            redis.call('DEL', key)
        else
            missing = missing + 1
        end
    end
    if count > 0 then
        return { list, taken, missing }
    end
end
return false

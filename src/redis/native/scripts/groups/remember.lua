#!lua
-- Makes a group remember its members for longer, because the caller is about to send messages that may wait for that long.
--
-- KEYS[1], KEYS[2]: the group and the ends of its routes; see groups/add.lua.
-- KEYS[3...]: the keys of all its process-local routes.
-- ARGV[1]: how long the caller needs members to be remembered, in ms.
-- ARGV[2]: how many routes the caller knows.
-- Returns: 1 if the group remembers its members for that long now, 0 if it has another number of routes and is unchanged.

local before = redis.call('ZSCORE', KEYS[1], '')
local routes = redis.call('ZCARD', KEYS[1]) - (before and 1 or 0)
if routes ~= tonumber(ARGV[2]) then
    return 0
end
local longer = tonumber(ARGV[1]) - tonumber(before or 0)
if longer > 0 then
    redis.call('ZADD', KEYS[1], ARGV[1], '')
    for _, key in ipairs(KEYS) do
        local lives = redis.call('PTTL', key)
        if lives > 0 then
            redis.call('PEXPIRE', key, string.format('%.0f', lives + longer))
        end
    end
end
return 1

#!lua flags=no-writes
-- Reads the routes of a group.
--
-- KEYS[1], KEYS[2]: the group and the ends of its routes; see groups/add.lua.
-- ARGV: none.
-- Returns: three lists. All routes with their versions, and the empty route with the time in ms for which ended memberships
-- are remembered; the routes that have ended; the route that ends next, with its end.

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
return {
    redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'),
    redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE'),
    redis.call('ZRANGE', KEYS[2], '(' .. now, '+inf', 'BYSCORE', 'WITHSCORES', 'LIMIT', 0, 1),
}

#!lua flags=allow-oom
-- Ends the membership of a process-local member in a group, if there is one.
--
-- KEYS[1]: the group, a sorted set of routes, each with the version of its last change.
-- KEYS[2]: the members of the route, local parts with the version of their last add.
-- KEYS[3]: the beginnings of their memberships.
-- KEYS[4]: the memberships that have ended: beginning, end and local part, with the version of the change that told so
-- (for one that expired, that of the next add); and an empty member with the version from which on they are complete.
-- ARGV[1]: the route: the non-local part of the member's name.
-- ARGV[2]: how long a membership lasts, in ms.
-- ARGV[3]: how long ended memberships are remembered, in ms.
-- ARGV[4]: the local part.
-- Returns: the version of this change, or nothing where there was no member.

local group, members, joined, left = unpack(KEYS)
local route, lasts, remembered, member = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local added = tonumber(redis.call('ZSCORE', members, member) or 0)
if added + lasts * 1000 <= now then
    return false
end
local began = redis.call('ZSCORE', joined, member) or '0'
redis.call('ZREM', members, member)
redis.call('ZREM', joined, member)

local last = tonumber(redis.call('ZSCORE', group, route) or 0)
local latest_end = redis.call('ZRANGE', left, -1, -1, 'WITHSCORES')
last = math.max(last, tonumber(latest_end[2] or 0))
local version = string.format('%.0f', math.max(now, last + 1))

if redis.call('EXISTS', left) == 0 then
    redis.call('ZADD', left, string.format('%.0f', tonumber(version) - 1), '')
end
redis.call('ZREMRANGEBYSCORE', left, '-inf', string.format('(%.0f', now - remembered * 1000))
redis.call('ZADD', left, version, string.format('%.0f ', tonumber(began)) .. version .. ' ' .. member)
redis.call('PEXPIRE', left, remembered)

local live = string.format('(%.0f', now - lasts * 1000)
if redis.call('ZCOUNT', members, live, '+inf') == 0 then
    redis.call('ZREM', group, route)
else
    redis.call('ZADD', group, version, route)
end
return version

#!lua
-- Adds a member to a group or renews its membership.
--
-- A version is the time of a change in microseconds, made to grow with every change of a route. It is the score of the
-- route in its group, and it tells readers whether they know all members.
--
-- KEYS[1]: the group, a sorted set of routes, each with the version of its last change.
-- For a process-local member also:
-- KEYS[2]: the members of the route, local parts with the version of their last add.
-- KEYS[3]: the beginnings of their memberships, local parts with the version of the add that made them members.
-- KEYS[4]: the memberships that have ended, with the version of their end; see group_discard.lua.
-- ARGV[1]: the route: the non-local part of the member's name.
-- ARGV[2]: how long a membership lasts, in ms.
-- ARGV[3]: how long ended memberships are remembered, in ms.
-- ARGV[4]: the local part, for a process-local member.
-- Returns: the version of this change.

local group, members, joined, left = unpack(KEYS)
local route, lasts, remembered, member = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local oldest = string.format('%.0f', now - lasts * 1000)

local last = tonumber(redis.call('ZSCORE', group, route) or 0)
if member then
    local latest_end = redis.call('ZRANGE', left, -1, -1, 'WITHSCORES')
    last = math.max(last, tonumber(latest_end[2] or 0))
end
local version = string.format('%.0f', math.max(now, last + 1))

redis.call('ZADD', group, version, route)
redis.call('ZREMRANGEBYSCORE', group, '-inf', oldest)
redis.call('PEXPIRE', group, lasts)
if not member then
    return version
end

-- The empty member says from which version on the ended memberships are complete.
if redis.call('EXISTS', left) == 0 then
    redis.call('ZADD', left, string.format('%.0f', tonumber(version) - 1), '')
end
redis.call('ZREMRANGEBYSCORE', left, '-inf', string.format('(%.0f', now - remembered * 1000))

-- Expired members are kept as long as messages that were sent to them can wait. A bounded part of those that nobody can
-- need goes now, so that no call pays for many.
local unneeded = string.format('%.0f', now - (lasts + remembered) * 1000)
local forgotten = redis.call('ZRANGE', members, '-inf', unneeded, 'BYSCORE', 'LIMIT', 0, 100)
if #forgotten > 0 then
    redis.call('ZREM', members, unpack(forgotten))
    redis.call('ZREM', joined, unpack(forgotten))
end

local ended = tonumber(redis.call('ZSCORE', members, member) or 0) + lasts * 1000
if ended <= now then
    local began = redis.call('ZSCORE', joined, member)
    if began then
        local membership = string.format('%.0f %.0f ', tonumber(began), ended) .. member
        redis.call('ZADD', left, version, membership)
    end
    redis.call('ZADD', joined, version, member)
end
redis.call('ZADD', members, version, member)
redis.call('PEXPIRE', members, lasts + remembered)
redis.call('PEXPIRE', joined, lasts + remembered)
redis.call('PEXPIRE', left, remembered)
return version

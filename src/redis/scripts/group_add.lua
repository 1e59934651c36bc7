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

-- A bounded part of the expired members, so that no call pays for many; the rest are ignored until their turn comes.
local expired = redis.call('ZRANGE', members, '-inf', oldest, 'BYSCORE', 'LIMIT', 0, 100)
if #expired > 0 then
    redis.call('ZREM', members, unpack(expired))
    redis.call('ZREM', joined, unpack(expired))
end

local is_live = tonumber(redis.call('ZSCORE', members, member) or 0) > now - lasts * 1000
redis.call('ZADD', members, version, member)
redis.call('PEXPIRE', members, lasts)
if not is_live then
    redis.call('ZADD', joined, version, member)
end
redis.call('PEXPIRE', joined, lasts)

-- The empty member says from which version on the ended memberships are complete.
if redis.call('EXISTS', left) == 0 then
    redis.call('ZADD', left, string.format('%.0f', tonumber(version) - 1), '')
end
redis.call('ZREMRANGEBYSCORE', left, '-inf', string.format('(%.0f', now - remembered * 1000))
redis.call('PEXPIRE', left, remembered)
return version

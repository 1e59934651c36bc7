#!lua flags=no-writes
-- Reads the members that a group has on one process-local route: all of them, or what has changed since a version.
--
-- KEYS[1]: the group, a sorted set of routes, each with the version of its last change.
-- KEYS[2]: the members of the route, local parts with the version of their last add.
-- KEYS[3]: the beginnings of their memberships.
-- KEYS[4]: the memberships that have ended; see group_discard.lua.
-- ARGV[1]: the route.
-- ARGV[2]: the version up to which the caller knows all changes; 0 for none.
-- ARGV[3]: how long a membership lasts, in ms.
-- ARGV[4]: how long ended memberships are remembered, in ms.
-- Returns: the version that this answer is of; 1 if it has only the changes and 0 if it has all; then three flat lists
-- of texts and versions: members, those included that expired lately; beginnings; ended memberships.

local group, members, joined, left = unpack(KEYS)
local route, known, lasts, remembered = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local latest_end = redis.call('ZRANGE', left, -1, -1, 'WITHSCORES')
local version = math.max(tonumber(redis.call('ZSCORE', group, route) or 0), tonumber(latest_end[2] or 0))

-- What has ended since is known if the memory of it is there, began early enough and has not been trimmed.
local since = string.format('(%.0f', known)
local complete_from = tonumber(redis.call('ZSCORE', left, '') or 0)
local only_changes = #latest_end > 0 and known >= complete_from and known > now - remembered * 1000
local from_member, from_end = since, since
if not only_changes then
    from_member = string.format('(%.0f', now - (lasts + remembered) * 1000)
    from_end, since = '-inf', '-inf'
end

return {
    string.format('%.0f', version),
    only_changes and 1 or 0,
    redis.call('ZRANGE', members, from_member, '+inf', 'BYSCORE', 'WITHSCORES'),
    redis.call('ZRANGE', joined, since, '+inf', 'BYSCORE', 'WITHSCORES'),
    redis.call('ZRANGE', left, from_end, '+inf', 'BYSCORE', 'WITHSCORES'),
}

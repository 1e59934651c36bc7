#!lua flags=no-writes
-- Reads the members of a group on one process-local route: all of them, or the changes since a version.
--
-- KEYS[1]: the group, a sorted set of routes; see groups/add.lua.
-- KEYS[2]: the members of the route, with the versions of their last adds.
-- KEYS[3], KEYS[4]: the starts and the ends of their memberships.
-- KEYS[5]: the ended memberships; see groups/discard.lua.
-- ARGV[1]: the route.
-- ARGV[2]: the version up to which the caller knows all changes; 0 for none.
-- Returns: six values. The version of this answer; 1 if it has only the changes, 0 if it has all members; for how many ms
-- ended memberships are remembered; then three flat lists of texts and numbers: members, including those that expired
-- lately, with the ends of their memberships; members with the starts of their memberships; ended memberships with the
-- versions that recorded their ends.

local call = redis.call
local group, members, joined, ends, left = unpack(KEYS)
local known = tonumber(ARGV[2])
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
-- The most arguments of one call. A caller for whom more has changed gets all members.
local MOST_CHANGES = 1000

-- A route that has ended is no longer in the group, but messages that were sent before can still wait for its members.
local scores = call('ZMSCORE', group, ARGV[1], '')
local latest_add = call('ZRANGE', members, -1, -1, 'WITHSCORES')
local latest_end = call('ZRANGE', left, -1, -1, 'WITHSCORES')
local version = math.max(tonumber(scores[1] or 0), tonumber(latest_add[2] or 0), tonumber(latest_end[2] or 0))
local remembered = tonumber(scores[2] or 0)

local function text(number)
    return string.format('%.0f', number)
end

local changed
-- The ends since that version are known if the set of ended memberships exists and reaches back that far.
if #latest_end > 0 and known >= tonumber(call('ZSCORE', left, '') or 0) then
    changed = call('ZRANGE', members, '(' .. text(known), '+inf', 'BYSCORE', 'LIMIT', 0, MOST_CHANGES + 1)
end
local since, current = '-inf', nil
if changed and #changed <= MOST_CHANGES then
    since, current = '(' .. text(known), {}
    if #changed > 0 then
        for n, ends_at in ipairs(call('ZMSCORE', ends, unpack(changed))) do
            current[2 * n - 1], current[2 * n] = changed[n], ends_at
        end
    end
end
local oldest = remembered > 0 and '(' .. text(now - remembered * 1000) or '-inf'

return {
    text(version),
    current and 1 or 0,
    remembered,
    current or call('ZRANGE', ends, oldest, '+inf', 'BYSCORE', 'WITHSCORES'),
    call('ZRANGE', joined, since, '+inf', 'BYSCORE', 'WITHSCORES'),
    call('ZRANGE', left, since, '+inf', 'BYSCORE', 'WITHSCORES'),
}

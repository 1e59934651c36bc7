#!lua
-- Adds a member to a group or renews its membership.
--
-- A version is the time of a change in microseconds, made to grow with every change of a route. It is the score of the
-- route in its group, and it tells readers whether they know all members.
--
-- Processes with different settings share a group, and none shortens what another one asked for: a membership and a time
-- to live are only ever extended.
--
-- KEYS[1]: the group, a sorted set of routes, each with the version of its last change; and, once it has process-local
-- members, an empty route with the time in ms for which ended memberships are remembered: as long as messages can wait.
-- KEYS[2]: the ends of the routes, each that of its last membership, in microseconds.
-- For a process-local member also:
-- KEYS[3]: the members of the route, local parts with the version of their last add.
-- KEYS[4]: the beginnings of their memberships, local parts with the version of the add that made them members.
-- KEYS[5]: the ends of their memberships, in microseconds.
-- KEYS[6]: the memberships that have ended, with the version of their end; see group_discard.lua.
-- ARGV[1]: the route: the non-local part of the member's name.
-- ARGV[2]: how long the membership lasts, in ms.
-- ARGV[3]: how long the caller needs ended memberships to be remembered, in ms.
-- ARGV[4]: the local part, for a process-local member.
-- Returns: the version of this change.

local call = redis.call
local group, route_ends, members, joined, ends, left = unpack(KEYS)
local route, lasts, member = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

local function text(number)
    return string.format('%.0f', number)
end

-- Times to live are set longer than needed, so that not every call sets them. Where the first key lives long enough the
-- others do too: they have the same members, or more.
local function outlive(lives, keys)
    if call('PTTL', keys[1]) < lives then
        for _, key in ipairs(keys) do
            if call('PTTL', key) < lives then
                call('PEXPIRE', key, text(lives + 30000))
            end
        end
    end
end

local known = call('ZMSCORE', group, route, '')
local last, remembered = tonumber(known[1] or 0), math.max(tonumber(known[2] or 0), tonumber(ARGV[3]))
if member then
    -- A route that has ended is not in the group any more.
    local latest_add = call('ZRANGE', members, -1, -1, 'WITHSCORES')
    local latest_end = call('ZRANGE', left, -1, -1, 'WITHSCORES')
    last = math.max(last, tonumber(latest_add[2] or 0), tonumber(latest_end[2] or 0))
end
local version, until_then = text(math.max(now, last + 1)), text(now + lasts * 1000)

-- A bounded part of what has ended goes now, so that no call pays for many.
local over = call('ZRANGE', route_ends, '-inf', text(now), 'BYSCORE', 'LIMIT', 0, 100)
if #over > 0 then
    call('ZREM', route_ends, unpack(over))
    call('ZREM', group, unpack(over))
end
call('ZADD', route_ends, 'GT', until_then, route)
if not member then
    call('ZADD', group, version, route)
    outlive(lasts, { route_ends, group })
    return version
end
call('ZADD', group, version, route, text(remembered), '')
outlive(lasts + remembered, { route_ends, group })

-- The empty member says from which version on the ended memberships are complete.
local forgotten = text(now - remembered * 1000)
local complete_from = call('ZSCORE', left, '')
if not complete_from then
    call('ZADD', left, text(tonumber(version) - 1), '')
elseif call('ZREMRANGEBYSCORE', left, '(' .. text(tonumber(complete_from)), forgotten) > 0 then
    call('ZADD', left, forgotten, '')
end

-- Expired members are kept as long as messages that were sent to them can wait.
over = call('ZRANGE', ends, '-inf', forgotten, 'BYSCORE', 'LIMIT', 0, 100)
if #over > 0 then
    for _, key in ipairs({ members, joined, ends }) do
        call('ZREM', key, unpack(over))
    end
end

local ended = tonumber(call('ZSCORE', ends, member) or 0)
if ended <= now then
    local began = call('ZSCORE', joined, member)
    if began then
        call('ZADD', left, version, text(tonumber(began)) .. ' ' .. text(ended) .. ' ' .. member)
    end
    call('ZADD', joined, version, member)
end
call('ZADD', members, version, member)
call('ZADD', ends, 'GT', until_then, member)
outlive(lasts + remembered, { ends, members, joined })
outlive(remembered, { left })
return version

#!lua
-- Adds a member to a group or renews its membership.
--
-- A version is the time of a change in microseconds, or one more than the last version if that is later. It is the score of
-- a route in its group, and readers compare it with their own to find out whether they know all members.
--
-- Processes with different settings share a group, and no process may shorten what another one needs: this script only
-- extends memberships and times to live.
--
-- KEYS[1]: the group, a sorted set of routes. The score of a route is the version of its last change. If the group has
-- process-local members, the set also has the member '', which is not a route. Its score is the time in ms for which ended
-- memberships are remembered: as long as messages can wait.
-- KEYS[2]: a sorted set of the routes. The score of a route is the end of its last membership, in microseconds.
-- For a process-local member also:
-- KEYS[3]: a sorted set of the local parts of the route's members. The score is the version of the last add.
-- KEYS[4]: the same local parts. The score is the version of the add that started the membership.
-- KEYS[5]: the same local parts. The score is the end of the membership, in microseconds.
-- KEYS[6]: the ended memberships of the route; see groups/discard.lua.
-- ARGV[1]: the route: the non-local part of the member's name.
-- ARGV[2]: the lifetime of the membership, in ms.
-- ARGV[3]: how long the caller needs ended memberships to be remembered, in ms.
-- ARGV[4]: the local part, for a process-local member.
-- Returns: the version of this change.
--
-- The script adds before it removes, so that it empties no key: while the slot of a cluster is being migrated, a command on a
-- missing key fails.

local call = redis.call
local group, route_ends, members, joined, ends, left = unpack(KEYS)
local route, lasts, member = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

local function text(number)
    return string.format('%.0f', number)
end

-- Sets times to live longer than needed, so that few calls have to set them. If the first key lives long enough, so do the
-- others: they have at least the same members.
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
    -- A route that has ended is no longer in the group, so its version follows from its own keys.
    local latest_add = call('ZRANGE', members, -1, -1, 'WITHSCORES')
    local latest_end = call('ZRANGE', left, -1, -1, 'WITHSCORES')
    last = math.max(last, tonumber(latest_add[2] or 0), tonumber(latest_end[2] or 0))
end
local version, until_then = text(math.max(now, last + 1)), text(now + lasts * 1000)

call('ZADD', route_ends, 'GT', until_then, route)
if member then
    call('ZADD', group, version, route, text(remembered), '')
else
    call('ZADD', group, version, route)
end
-- Ended routes are removed in bounded batches, so that no call takes long.
local over = call('ZRANGE', route_ends, '-inf', text(now), 'BYSCORE', 'LIMIT', 0, 100)
if #over > 0 then
    call('ZREM', route_ends, unpack(over))
    call('ZREM', group, unpack(over))
end
if not member then
    outlive(lasts, { route_ends, group })
    return version
end
outlive(lasts + remembered, { route_ends, group })

-- The score of the empty member is the version from which on the ended memberships are complete.
local forgotten = text(now - remembered * 1000)
local complete_from = call('ZSCORE', left, '')
if not complete_from then
    call('ZADD', left, text(tonumber(version) - 1), '')
elseif call('ZREMRANGEBYSCORE', left, '(' .. text(tonumber(complete_from)), forgotten) > 0 then
    call('ZADD', left, forgotten, '')
end

local ended = tonumber(call('ZSCORE', ends, member) or 0)
if ended <= now then
    local began = call('ZSCORE', joined, member)
    if began and ended > tonumber(forgotten) then
        call('ZADD', left, version, text(tonumber(began)) .. ' ' .. text(ended) .. ' ' .. member)
    end
    call('ZADD', joined, version, member)
end
call('ZADD', members, version, member)
call('ZADD', ends, 'GT', until_then, member)

-- Expired members are kept for as long as messages that were sent to them can wait.
over = call('ZRANGE', ends, '-inf', forgotten, 'BYSCORE', 'LIMIT', 0, 100)
if #over > 0 then
    for _, key in ipairs({ members, joined, ends }) do
        call('ZREM', key, unpack(over))
    end
end
outlive(lasts + remembered, { ends, members, joined })
outlive(remembered, { left })
return version

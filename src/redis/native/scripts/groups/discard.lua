#!lua flags=allow-oom
-- Removes a member from a group.
--
-- KEYS[1], KEYS[2]: the group and the ends of its routes; see groups/add.lua.
-- For a process-local member also:
-- KEYS[3], KEYS[4], KEYS[5]: the members of the route, the starts and the ends of their memberships.
-- KEYS[6]: a sorted set of ended memberships, each as start, end and local part. The score is the version of the change
-- that recorded the end; for an expired membership that is the next add of the member. The score of an empty member is the
-- version from which on the set is complete.
-- ARGV[1]: the route: the non-local part of the member's name.
-- ARGV[2]: how long the caller needs ended memberships to be remembered, in ms.
-- ARGV[3]: the local part, for a process-local member.
-- Returns: the version of this change, or false if there was no such process-local member.
--
-- The script reads before it removes, and touches no key after the removal that may have emptied it: while the slot of a cluster
-- is being migrated, a command on a missing key fails.

local call = redis.call
local group, route_ends, members, joined, ends, left = unpack(KEYS)
local route, member = ARGV[1], ARGV[3]
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

local function text(number)
    return string.format('%.0f', number)
end

local known = call('ZMSCORE', group, route, '')
local last, remembered = tonumber(known[1] or 0), math.max(tonumber(known[2] or 0), tonumber(ARGV[2]))

local function remove_route()
    local others = call('ZCARD', route_ends) - call('ZREM', route_ends, route)
    -- The only score left in a group without routes is how long ended memberships are remembered.
    if others == 0 then
        call('PEXPIRE', group, text(remembered))
    end
    call('ZREM', group, route)
end

if not member then
    remove_route()
    return false
end

-- A membership that has ended by this clock is ended again: the clocks of readers may be behind, and this clock may step back.
local ended = tonumber(call('ZSCORE', ends, member) or 0)
if ended == 0 then
    return false
end
local began = call('ZSCORE', joined, member) or '0'
local latest_add = call('ZRANGE', members, -1, -1, 'WITHSCORES')
local last_to_end = call('ZRANGE', ends, -2, -1, 'WITHSCORES')
for _, key in ipairs({ members, joined, ends }) do
    call('ZREM', key, member)
end

local latest_end = call('ZRANGE', left, -1, -1, 'WITHSCORES')
last = math.max(last, tonumber(latest_add[2] or 0), tonumber(latest_end[2] or 0))
local version = text(math.max(now, last + 1))

local forgotten = text(now - remembered * 1000)
local complete_from = call('ZSCORE', left, '')
if not complete_from then
    call('ZADD', left, text(tonumber(version) - 1), '')
elseif call('ZREMRANGEBYSCORE', left, '(' .. text(tonumber(complete_from)), forgotten) > 0 then
    call('ZADD', left, forgotten, '')
end
local ends_at = ended <= now and text(ended) or version
call('ZADD', left, version, text(tonumber(began)) .. ' ' .. ends_at .. ' ' .. member)
if call('PTTL', left) < remembered then
    call('PEXPIRE', left, text(remembered + 30000))
end

-- The end of the route is the end of its last remaining membership.
local count = #last_to_end
local route_end = tonumber(last_to_end[last_to_end[count - 1] == member and count - 2 or count] or 0)
if route_end <= now then
    remove_route()
else
    call('ZADD', group, version, route)
    call('ZADD', route_ends, text(route_end), route)
end
return version

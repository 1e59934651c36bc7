#!lua flags=allow-cross-slot-keys
-- Appends entries to channels, each channel up to its capacity.
--
-- The sender stamps the entries by its estimate of this server's clock, so they are appended unchanged. If the estimate is
-- too far off, the stamps are replaced.
--
-- The time to live of a list is extended in each call, because another sender may have created the list anew. It is never
-- shortened, because another sender may have set a longer one.
--
-- A call can have the condition that a group has certain routes. Then the versions of the routes in the entries are the
-- current ones, as if the sender had read them now.
--
-- A node of a cluster gets the channels of several slots in one call. Their lists are arguments then, because keys would
-- have to be in one slot. Nothing is appended to a list that is on another node, or in a slot that is being migrated.
--
-- KEYS: for each channel its list; last, if there is a condition, the group and the ends of its routes. None if the lists
-- are arguments.
-- ARGV[1]: how long the entries live, in ms.
-- ARGV[2]: their stamp, which is when they expire by the sender's estimate of the clock, in ms.
-- ARGV[3]: how far the estimate may be off, in ms.
-- ARGV[4]: how long a list lives after a send, in ms.
-- ARGV[5]: 0, or if there is a condition the time in microseconds before which none of the group's routes ends.
-- ARGV[6], if there is a condition: the routes and their versions as groups/routes.lua returns them, separated by spaces.
-- ARGV[6... or 7...]: for each channel its list if there are no keys, its capacity, the number n of its entries, then the
-- n entries. A channel may occur again with another capacity.
-- Returns: for each channel how many of its entries were appended, from the first on (-1: its key holds no list; -2, only
-- if there are no keys: the server refused them); last, how many expired entries were dropped to make room. If the
-- condition does not hold: the routes of the group, as groups/routes.lua returns them, as the only element.

local call, pcall = redis.call, redis.pcall
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lifetime = tonumber(ARGV[1])
local expired = 0
local results = {}

local stamp
if math.abs(now + lifetime - tonumber(ARGV[2])) > tonumber(ARGV[3]) then
    stamp = struct.pack('>I8', now + lifetime)
end

local function append(list, first, last)
    if not stamp then
        return pcall('RPUSH', list, unpack(ARGV, first, last))
    end
    local entries = {}
    for n = first, last do
        entries[#entries + 1] = stamp .. string.sub(ARGV[n], 9)
    end
    return pcall('RPUSH', list, unpack(entries))
end

-- Drops expired entries from the head of a list that is too long. Returns its new length.
local function drop_expired(list, length, capacity)
    while length > capacity do
        local head = call('LINDEX', list, 0)
        if #head < 8 or struct.unpack('>I8', head) > now then
            break
        end
        call('LPOP', list)
        length = length - 1
        expired = expired + 1
    end
    return length
end

local at, last = 6, #KEYS
if ARGV[5] ~= '0' then
    local now_us = string.format('%.0f', time[1] * 1000000 + time[2])
    local routes = call('ZRANGE', KEYS[last - 1], 0, -1, 'WITHSCORES')
    if tonumber(now_us) >= tonumber(ARGV[5]) or table.concat(routes, ' ') ~= ARGV[6] then
        return { {
            routes,
            call('ZRANGE', KEYS[last], '-inf', now_us, 'BYSCORE'),
            call('ZRANGE', KEYS[last], '(' .. now_us, '+inf', 'BYSCORE', 'WITHSCORES', 'LIMIT', 0, 1),
        } }
    end
    at = 7
end

local i = 0
while at <= #ARGV do
    i = i + 1
    local list = KEYS[i]
    if last == 0 then
        list = ARGV[at]
        at = at + 1
    end
    local capacity, entries = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    local length = append(list, at + 2, at + 1 + entries)
    local accepted = -1
    if type(length) == 'number' then
        accepted = entries
        if length > capacity then
            -- No reader sees the entries above the capacity, because they are removed within this script.
            length = drop_expired(list, length, capacity)
            accepted = entries - math.max(0, math.min(entries, length - capacity))
            if accepted < entries then
                call('RPOP', list, entries - accepted)
            end
        end
        if length <= entries then
            -- The list holds no other entries, so it is new.
            call('PEXPIRE', list, ARGV[4])
        else
            call('PEXPIRE', list, ARGV[4], 'GT')
        end
    elseif not string.find(length.err, 'WRONGTYPE', 1, true) then
        if last > 0 then
            return length
        end
        accepted = -2
    end
    results[i] = accepted
    at = at + 2 + entries
end

results[i + 1] = expired
return results

#!lua flags=no-writes
-- Counts the entries in lists, and reads the times of the first and the last entry of each. It returns only the beginnings
-- of entries, because entries can be large.
--
-- KEYS: the lists.
-- ARGV: none.
-- Returns: for each list its length, and up to 17 bytes from the beginnings of its first and its last entry.

local answer = {}
for _, list in ipairs(KEYS) do
    answer[#answer + 1] = redis.call('LLEN', list)
    for _, place in ipairs({0, -1}) do
        answer[#answer + 1] = string.sub(redis.call('LINDEX', list, place) or '', 1, 17)
    end
end
return answer

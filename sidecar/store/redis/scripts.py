"""What Redis does in one step. Every key that a script touches is handed to it, so that it works in a cluster."""

LOG_ENTRIES = 100_000
LOG_BYTES = 32 * 1024 * 1024

# Each entry of the log names the one before it: whoever finds another predecessor than the last entry he read has
# missed something, be it trimmed, lost in a failover, or of another life of the server. ``head`` is the last entry.
#
# KEYS  1 meta  2 log  3 applied  4 records  5 revoked  6 used  7 order  8 expiry  9 denials  10 order  11 expiry
#       12 replaced  and then those that ARGV names by their number
# ARGV  mark of this write, time, '1' to restore, most entries of the log, most bytes of it, what the log says of
#       denials, then five lists, each led by its length
WRITE = """
local mark, now, restoring = ARGV[1], ARGV[2], ARGV[3] == '1'
local most_entries, most_bytes, said = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local at = 6
local function take() at = at + 1; return ARGV[at] end
local meta, log, records, revoked, used = KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6]

local fresh = redis.call('SET', KEYS[3], '1', 'NX', 'EX', 300)
-- written even when there is nothing to do: replicas acknowledge what their connection wrote last
redis.call('HSET', meta, 'touched', mark)
if not fresh then return 0 end

local ended, added, changed = {}, 0, {}
local function note(id) if not changed[id] then changed[id] = true; ended[#ended + 1] = id end end
local function finish(id, time) if redis.call('HSETNX', revoked, id, time) == 1 then note(id) end end

for _ = 1, tonumber(take()) do
  local id, value, over, last, expiry, bot, replaces = take(), take(), take(), take(), take(), take(), take()
  local time, indexes = take(), tonumber(take())
  local place = string.sub(value, 1, 16) .. id
  local new = redis.call('HSETNX', records, id, value) == 1
  if new then
    added = added + 1
    note(id)
    redis.call('ZADD', KEYS[7], 0, place)
    if expiry ~= '' then redis.call('ZADD', KEYS[8], expiry, id) end
    if last ~= '' then redis.call('HSET', used, id, last) end
  end
  for _ = 1, indexes do
    local index = KEYS[tonumber(take())]
    if new then redis.call('ZADD', index, 0, place) end
  end
  if over ~= '' and (new or restoring) then finish(id, over) end
  if new and bot ~= '' then
    local standing = KEYS[tonumber(bot)]
    local newest = redis.call('HGET', KEYS[12], standing)
    if replaces == '1' and not restoring then
      for _, other in ipairs(redis.call('ZRANGE', standing, 0, -1)) do finish(string.sub(other, 17), time) end
      redis.call('DEL', standing)
      redis.call('HSET', KEYS[12], standing, place)
    elseif restoring and newest and string.sub(place, 1, 16) <= string.sub(newest, 1, 16) then
      finish(id, string.format('%.6f', tonumber(string.sub(newest, 1, 16), 16) / 1000000))
    end
    if redis.call('HEXISTS', revoked, id) == 0 then redis.call('ZADD', standing, 0, place) end
  end
end

for _ = 1, tonumber(take()) do
  local id, time = take(), take()
  if redis.call('HEXISTS', records, id) == 1 then finish(id, time) end
end

for _ = 1, tonumber(take()) do
  local id, value, expiry, index = take(), take(), take(), KEYS[tonumber(take())]
  local old = redis.call('HGET', KEYS[9], id)
  if not (old and restoring) then
    if old then
      redis.call('ZREM', KEYS[10], string.sub(old, 1, 16) .. id)
      redis.call('ZREM', index, string.sub(old, 1, 16) .. id)
    end
    added = added + 1
    redis.call('HSET', KEYS[9], id, value)
    redis.call('ZADD', KEYS[10], 0, string.sub(value, 1, 16) .. id)
    redis.call('ZADD', index, 0, string.sub(value, 1, 16) .. id)
    if expiry ~= '' then redis.call('ZADD', KEYS[11], expiry, id) else redis.call('ZREM', KEYS[11], id) end
  end
end

for _ = 1, tonumber(take()) do
  local id, index = take(), take()
  local old = redis.call('HGET', KEYS[9], id)
  if old then
    redis.call('HDEL', KEYS[9], id)
    redis.call('ZREM', KEYS[10], string.sub(old, 1, 16) .. id)
    redis.call('ZREM', KEYS[11], id)
    if index ~= '' then redis.call('ZREM', KEYS[tonumber(index)], string.sub(old, 1, 16) .. id) end
  end
end

for _ = 1, tonumber(take()) do
  local id, time = take(), take()
  if redis.call('HEXISTS', records, id) == 1 then
    local last = tonumber(redis.call('HGET', used, id) or '') or 0
    if tonumber(time) > last then redis.call('HSET', used, id, time) end
  end
end

if restoring and added == 0 and #ended == 0 then return 0 end
if not restoring and said == '' and #ended == 0 then return 0 end
local ids = cjson.encode(ended)
local bytes = redis.call('HINCRBY', meta, 'bytes', #said + #ids)
redis.call('XADD', log, 'MAXLEN', '~', most_entries, '*', 'p', redis.call('HGET', meta, 'head') or '', 'i', mark,
  't', now, 'r', ids, 'd', said, 's', bytes, 'x', restoring and '1' or '0')
redis.call('HSET', meta, 'head', mark)
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local before = 0
for n = 1, #first[2], 2 do if first[2][n] == 's' then before = tonumber(first[2][n + 1]) or 0 end end
if bytes - before > most_bytes then
  redis.call('XTRIM', log, 'MAXLEN', math.max(1, math.floor(redis.call('XLEN', log) / 2)))
end
return 1
"""

# KEYS  1 meta   ARGV  mark, generation
NAME = """
redis.call('HSET', KEYS[1], 'touched', ARGV[1])
return redis.call('HSETNX', KEYS[1], 'generation', ARGV[2])
"""

# KEYS  1 values  2 order  3 expiry  4 revoked  5 used  and then those that ARGV names by their number
# ARGV  latest expiry that may go, then for each entry its id and the numbers of three more orders, or nothing
SWEEP = """
local gone = 0
for n = 2, #ARGV, 4 do
  local id = ARGV[n]
  local expiry = tonumber(redis.call('ZSCORE', KEYS[3], id) or '')
  if expiry and expiry <= tonumber(ARGV[1]) then
    local value = redis.call('HGET', KEYS[1], id)
    if value then
      local place = string.sub(value, 1, 16) .. id
      redis.call('ZREM', KEYS[2], place)
      for more = n + 1, n + 3 do
        if ARGV[more] ~= '' then redis.call('ZREM', KEYS[tonumber(ARGV[more])], place) end
      end
      redis.call('HDEL', KEYS[1], id)
    end
    redis.call('HDEL', KEYS[4], id)
    redis.call('HDEL', KEYS[5], id)
    redis.call('ZREM', KEYS[3], id)
    gone = gone + 1
  end
end
return gone
"""

# One page of an order, newest first, as JSON (much faster to read than thousands of separate answers), and its last
# place as it is, from which the next page goes on.
# KEYS  1 order  2 values  and, for records, 3 revoked  4 used   ARGV  place that it ends before, or '', how many
PAGE = """
local top = ARGV[1] == '' and '+' or '(' .. ARGV[1]
local places = redis.call('ZREVRANGEBYLEX', KEYS[1], top, '-', 'LIMIT', 0, ARGV[2])
if #places == 0 then return {'[]', ''} end
local ids = {}
for n, place in ipairs(places) do ids[n] = string.sub(place, 17) end
local page = {places}
for n = 2, #KEYS do page[n] = redis.call('HMGET', KEYS[n], unpack(ids)) end
return {cjson.encode(page), places[#places]}
"""

# Where a reader stands who knows everything.   KEYS  1 meta  2 log
POSITION = """
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
return {last and last[1] or '0-0', redis.call('HGET', KEYS[1], 'head') or ''}
"""

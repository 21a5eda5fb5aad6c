"""What Redis does in one step. Every key that a script touches is handed to it, so that it works in a cluster."""

LOG_ENTRIES = 100_000
LOG_BYTES = 32 * 1024 * 1024

# Each entry of the log names the one before it: a reader that finds another predecessor than the last entry it read has
# missed something, be it trimmed, lost in a failover, or of another life of the server. ``head`` is the last entry,
# ``generation`` the mark of this life, which the first write into an empty server makes up. ``version`` is the last
# version that was given: a microsecond of the server's clock, or one more than the highest known where that is behind.
#
# What is written is merged as ``sidecar.store.merge`` says. An entry with a version comes from a copy that puts back
# what it knows; one with an empty version is a new write, which gets a version higher than all that is known.
#
# The answer: the head, then the version of each record, entry and removal in the order in which they came, separated
# by spaces. 0: that entry changed nothing, because the server knows better, or has a record of that id already.
#
# KEYS  1 meta  2 log  3 applied  4 records  5 revoked  6 used  7 order  8 expiry  9 entries  10 order  11 expiry
#       12 replaced  13 removed  14 expiry of removed, and then those that ARGV names by their number
# ARGV  mark of this write, time, lowest version, most entries of the log, most bytes of it, seconds for which a removal
#       and an end without record are kept, then six lists, each led by its length: records, ends, entries, removals,
#       tokens of bots that replace others, uses
WRITE = """
local mark, now, floor = ARGV[1], ARGV[2], tonumber(ARGV[3])
local most_entries, most_bytes, keep = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local at = 6
local function take() at = at + 1; return ARGV[at] end
local meta, log, records, revoked, used = KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6]
local entries, replaced, removed = KEYS[9], KEYS[12], KEYS[13]

local answered = redis.call('GET', KEYS[3])
-- written even when there is nothing to do: replicas acknowledge what their connection wrote last
redis.call('HSET', meta, 'touched', mark)
if answered then return answered end

local time = redis.call('TIME')
local clock = tonumber(time[1]) * 1000000 + tonumber(time[2]) - 1
clock = math.max(clock, floor, tonumber(redis.call('HGET', meta, 'version') or '') or 0)
-- versions as 16 digits; larger than what every build of Lua prints as an integer
local function digits(version)
  return string.format('%010x%06x', math.floor(version / 16777216), version % 16777216)
end
local function version_of(value)
  if not value then return -1 end
  local high, low = tonumber(string.sub(value, 1, 10), 16), tonumber(string.sub(value, 11, 16), 16)
  return high and low and high * 16777216 + low or -1
end
local function give(version, least)
  if version == '' then clock = math.max(clock, least) + 1; return clock end
  version = tonumber(version)
  clock = math.max(clock, version)
  return version
end

local given, ended, changed = {}, {}, {}
local denied, taken_off, forgotten, newest_of = {}, {}, {}, {}
local function answer(version) given[#given + 1] = string.format('%.0f', version) end
local function note(id) if not changed[id] then changed[id] = true; ended[#ended + 1] = id end end
local function finish(id, moment)
  local old = redis.call('HGET', revoked, id)
  -- an end that cannot be read is an end
  if not old or (tonumber(old) and tonumber(moment) < tonumber(old)) then
    redis.call('HSET', revoked, id, moment)
    note(id)
  end
end
local function replace(standing, bot, newest, moment)
  redis.call('HSET', replaced, standing, newest)
  newest_of[#newest_of + 1] = {bot, newest}
  for _, other in ipairs(redis.call('ZRANGE', standing, 0, -1)) do
    if other < newest and string.sub(other, 17) ~= string.sub(newest, 17) then
      finish(string.sub(other, 17), moment)
      redis.call('ZREM', standing, other)
    end
  end
end
local function moment_of(place) return string.format('%.6f', version_of(place) / 1000000) end

for _ = 1, tonumber(take()) do
  local id, value, version, over, last, expiry = take(), take(), take(), take(), take(), take()
  local standing, bot, replaces, moment, count = KEYS[tonumber(take()) or 0], take(), take(), take(), tonumber(take())
  local indexes = {}
  for n = 1, count do indexes[n] = KEYS[tonumber(take())] end
  local old = redis.call('HGET', records, id)
  local newest = standing and redis.call('HGET', replaced, standing)
  if old and version == '' then
    answer(0)
  else
    local own = version == ''
    version = give(version, version_of(newest))
    answer(version)
    local place = digits(version) .. id
    if version > version_of(old) then
      if old then
        local gone = string.sub(old, 1, 16) .. id
        redis.call('ZREM', KEYS[7], gone)
        for n = 1, count do redis.call('ZREM', indexes[n], gone) end
        if standing then redis.call('ZREM', standing, gone) end
      end
      redis.call('HSET', records, id, digits(version) .. value)
      redis.call('ZADD', KEYS[7], 0, place)
      if expiry ~= '' then redis.call('ZADD', KEYS[8], expiry, id) else redis.call('ZREM', KEYS[8], id) end
      for n = 1, count do redis.call('ZADD', indexes[n], 0, place) end
      note(id)
    else
      place = string.sub(old, 1, 16) .. id
    end
    if last ~= '' and tonumber(last) > (tonumber(redis.call('HGET', used, id) or '') or 0) then
      redis.call('HSET', used, id, last)
    end
    if over ~= '' then finish(id, over) end
    if standing then
      if own and replaces == '1' then
        replace(standing, bot, place, moment)
      elseif newest and place < newest and id ~= string.sub(newest, 17) then
        finish(id, moment_of(newest))
      end
      if redis.call('HEXISTS', revoked, id) == 0 then redis.call('ZADD', standing, 0, place) end
    end
  end
end

for _ = 1, tonumber(take()) do
  local id, moment = take(), take()
  finish(id, moment)
  if redis.call('HEXISTS', records, id) == 0 then redis.call('ZADD', KEYS[8], 'NX', tonumber(time[1]) + keep, id) end
end

for _ = 1, tonumber(take()) do
  local id, value, version, expiry, index = take(), take(), take(), take(), KEYS[tonumber(take())]
  local old, gone = redis.call('HGET', entries, id), redis.call('HGET', removed, id)
  local known = version_of(old)
  version = give(version, math.max(known, version_of(gone)))
  local better, equal = version > known and version >= version_of(gone), false
  if old and version == known then
    local ends, before = tonumber(expiry) or math.huge, tonumber(redis.call('ZSCORE', KEYS[11], id) or '') or math.huge
    local text = string.sub(old, 17)
    equal = text == value
    better = ends > before or (ends == before and value > text)
  end
  answer((better or equal) and version or 0)
  if better then
    if old then
      redis.call('ZREM', KEYS[10], string.sub(old, 1, 16) .. id)
      redis.call('ZREM', index, string.sub(old, 1, 16) .. id)
    end
    if gone then redis.call('HDEL', removed, id); redis.call('ZREM', KEYS[14], id); taken_off[id] = nil end
    local whole = digits(version) .. value
    redis.call('HSET', entries, id, whole)
    redis.call('ZADD', KEYS[10], 0, digits(version) .. id)
    redis.call('ZADD', index, 0, digits(version) .. id)
    if expiry ~= '' then redis.call('ZADD', KEYS[11], expiry, id) else redis.call('ZREM', KEYS[11], id) end
    denied[id] = whole
  end
end

for _ = 1, tonumber(take()) do
  local id, version, last, index = take(), take(), tonumber(take()), KEYS[tonumber(take()) or 0]
  local old, gone = redis.call('HGET', entries, id), redis.call('HGET', removed, id)
  local known, before = version_of(old), version_of(gone)
  if version == '' then last = math.max(last, tonumber(time[1]) + keep) end
  -- what was removed already gets a later version: a copy may know that it was denied again, and the server may not
  version = give(version, math.max(known, before))
  local better = version > known and (version > before or last > (tonumber(string.sub(gone, 17)) or 0))
  answer((better or version == before) and version or 0)
  if better then
    if old then
      redis.call('HDEL', entries, id)
      redis.call('ZREM', KEYS[10], string.sub(old, 1, 16) .. id)
      redis.call('ZREM', KEYS[11], id)
      if index then redis.call('ZREM', index, string.sub(old, 1, 16) .. id) end
      denied[id] = nil
    end
    local whole = digits(version) .. string.format('%.3f', last)
    redis.call('HSET', removed, id, whole)
    redis.call('ZADD', KEYS[14], last, id)
    taken_off[id] = whole
  end
end

for _ = 1, tonumber(take()) do
  local standing, bot, place = KEYS[tonumber(take())], take(), take()
  local newest = redis.call('HGET', replaced, standing)
  clock = math.max(clock, version_of(place))
  if not newest or newest < place then replace(standing, bot, place, moment_of(place)) end
end

for _ = 1, tonumber(take()) do
  local id, moment = take(), take()
  if redis.call('HEXISTS', records, id) == 1 then
    local last = tonumber(redis.call('HGET', used, id) or '') or 0
    if tonumber(moment) > last then redis.call('HSET', used, id, moment) end
  end
end

local said, gone, off = {}, {}, {}
for id, value in pairs(denied) do said[#said + 1] = {id, value} end
for id, value in pairs(taken_off) do gone[#gone + 1] = {id, value}; off[#off + 1] = id end
if #ended + #said + #gone + #newest_of > 0 then
  local ids, words = cjson.encode(ended), ''
  if #said + #off > 0 then words = cjson.encode({said, off}) end
  local removals, currents = cjson.encode(gone), cjson.encode(newest_of)
  local size = #words + #ids + #removals + #currents
  local bytes = redis.call('HINCRBY', meta, 'bytes', size)
  redis.call('XADD', log, 'MAXLEN', '~', most_entries, '*', 'p', redis.call('HGET', meta, 'head') or '', 'i', mark,
    't', now, 'r', ids, 'd', words, 's', bytes, 'x', '0', 'f', removals, 'b', currents)
  redis.call('HSET', meta, 'head', mark, 'version', string.format('%.0f', clock))
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  local before = 0
  for n = 1, #first[2], 2 do if first[2][n] == 's' then before = tonumber(first[2][n + 1]) or 0 end end
  if bytes - before > most_bytes then
    redis.call('XTRIM', log, 'MAXLEN', math.max(1, math.floor(redis.call('XLEN', log) / 2)))
  end
end
redis.call('HSETNX', meta, 'generation', mark)
local receipt = (redis.call('HGET', meta, 'head') or '') .. ' ' .. table.concat(given, ' ')
redis.call('SET', KEYS[3], receipt, 'EX', 300)
return receipt
"""

# What is over goes when the clocks of both the server and the process say so.
# KEYS  1 values  2 order  3 expiry  4 revoked  5 used  and then those that ARGV names by their number
# ARGV  latest expiry that may go by the process's clock, seconds for which what is over is kept, then for each entry
#       its id and the numbers of three more orders, or nothing
SWEEP = """
local gone = 0
local latest = math.min(tonumber(ARGV[1]), tonumber(redis.call('TIME')[1]) - tonumber(ARGV[2]))
for n = 3, #ARGV, 4 do
  local id = ARGV[n]
  local expiry = tonumber(redis.call('ZSCORE', KEYS[3], id) or '')
  if expiry and expiry <= latest then
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

# The text beside a record.   KEYS  1 text   ARGV  the version that it replaces; text; when it expires, in ms
COMPANION = """
local found = redis.call('HMGET', KEYS[1], 'version', 'text')
local version = tonumber(found[1] or '0')
local after = tonumber(ARGV[1])
if version ~= after and not (version == after + 1 and found[2] == ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'version', string.format('%d', after + 1), 'text', ARGV[2])
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
return 1
"""

# KEYS  1 lock   ARGV  holder; ms
LOCK = """
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS  1 lock   ARGV  holder
UNLOCK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""

# Where a reader stands who knows everything.   KEYS  1 meta  2 log
POSITION = """
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local meta = redis.call('HMGET', KEYS[1], 'generation', 'head')
return {meta[1] or '', last and last[1] or '0-0', meta[2] or ''}
"""

# Which processes say that their clocks agree with this server's, and how many besides the one that asks. Only this
# server's clock counts: what was reported before it was set, ahead or back, lies outside the time that counts.
# KEYS  1 reports   ARGV  process, or '' to change nothing; 1: its clock agrees; seconds for which a report counts
CLOCKS = """
local time = redis.call('TIME')
local now, window = tonumber(time[1]) + tonumber(time[2]) / 1000000, tonumber(ARGV[3])
local first, last = string.format('%.6f', now - window), string.format('%.6f', now + 1)
local own = 0
if ARGV[1] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. first)
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. last, '+inf')
  if ARGV[2] == '1' then
    own = 1
    redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[1])
    redis.call('EXPIRE', KEYS[1], math.ceil(window))
  else
    redis.call('ZREM', KEYS[1], ARGV[1])
  end
end
return {time[1], time[2], redis.call('ZCOUNT', KEYS[1], first, last) - own}
"""

-- One request per token, in file order, round and round. Arguments: token file, path, how many milliseconds a
-- connection waits before its next request (0: none), body size in bytes (0: a GET; else a POST), name of
-- the cookie that has the token (empty: it is in Authorization).
-- wrk itself counts every answer of 400 and above; done() prints what was measured as one line of JSON.
local requests = {}
local position = 0
local pause = 0

function init(arguments)
  pause = tonumber(arguments[3])
  local size = tonumber(arguments[4])
  local method = size > 0 and "POST" or "GET"
  local body = size > 0 and string.rep("x", size) or nil
  local cookie = arguments[5] or ""
  for token in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format(method, arguments[2], {
      ["Host"] = "metadata.example.com",
      ["User-Agent"] = "bench",
      ["Accept"] = "*/*",
      [cookie == "" and "Authorization" or "Cookie"] = cookie == "" and "Bearer " .. token or cookie .. "=" .. token,
      ["X-Original-URI"] = "/api/v1/tables?limit=10",
      ["X-Original-Method"] = "GET",
    }, body)
  end
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function delay()
  return pause
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"failed":%d,"refused":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end

-- Every hook another one: the file of the first argument with a new call id each time, and its apps in turn.
-- Arguments: the file, the run's number, how many apps there are.
local before_app, before_call, after_call, run, apps
local count = 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local text = file:read("*a")
  file:close()
  run, apps = tonumber(args[2]), tonumber(args[3])
  local app = assert(text:find("{APP}", 1, true))
  local call = assert(text:find("{-----CALL-----}", app, true))
  before_app = text:sub(1, app - 1)
  before_call = text:sub(app + 5, call - 1)
  after_call = text:sub(call + 16)
end

function request()
  count = count + 1
  return before_app .. string.format("%05d", count * 7919 % apps) .. before_call
    .. string.format("%06d-%09d", run, count) .. after_call
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nbench {"hooks": %d, "seconds": %.6f, "p50_us": %.0f, "p99_us": %.0f, "p999_us": %.0f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end

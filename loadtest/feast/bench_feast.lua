-- For wrk: posts one prepared body after the other, and prints what was measured as one line of JSON.
-- The bodies are the lines of the file named after "--"; which one comes first is drawn, so that connections differ.

local bodies, at = {}, 0

function init(args)
   for line in io.lines(args[1]) do bodies[#bodies + 1] = line end
   math.randomseed(#bodies)
   at = math.random(#bodies)
   wrk.method = "POST"
   wrk.headers["content-type"] = "application/json"
end

function request()
   at = at % #bodies + 1
   return wrk.format(nil, nil, nil, bodies[at])
end

function done(summary, latency)
   local failed = summary.errors
   io.write(string.format(
      'JSON {"answered": %d, "seconds": %f, "failed": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d}\n',
      summary.requests, summary.duration / 1e6,
      failed.connect + failed.read + failed.write + failed.status + failed.timeout,
      latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end

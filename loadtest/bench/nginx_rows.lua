-- What a platform team would hack together instead of a gateway: nginx reads the rows of a request from Redis, or from memory
-- that its workers share, and answers with them as JSON. It has no deadline, no provenance, and no second idea.

local cjson, redis = require "cjson.safe", require "nginx.redis"
-- The most that it can: a double may have 17 digits, so these answers are a little less exact than the others.
cjson.encode_number_precision(14)

local M, port, views = {}, nil, nil
local kept = ngx.shared.rows
local IDLE_MS, IDLE_MAX, TIMEOUT_MS = 60000, 64, 5000

-- `views_of` is a list of { name, features }.
function M.configure(redis_port, views_of)
   port, views = redis_port, views_of
end

local function asked()
   ngx.req.read_body()
   return cjson.decode(ngx.req.get_body_data()).items.id
end

local function connected()
   local red = redis:new()
   red:set_timeout(TIMEOUT_MS)
   assert(red:connect("127.0.0.1", port))
   return red
end

local function answer(text)
   ngx.header.content_type = "application/json"
   ngx.header.content_length = #text
   ngx.print(text)
end

-- Rows that are JSON already, handed over piece by piece: nginx puts them together without another copy in Lua.
local function answer_joined(rows)
   local pieces, length = { '{"rows":[', rows[1] }, #'{"rows":[' + #rows[1] + #"]}"
   for n = 2, #rows do
      pieces[2 * n - 1], pieces[2 * n] = ",", rows[n]
      length = length + 1 + #rows[n]
   end
   pieces[#pieces + 1] = "]}"
   ngx.header.content_type = "application/json"
   ngx.header.content_length = length
   ngx.print(pieces)
end

-- A hash of texts for every row: the fields that are wanted, made into numbers and into JSON.
function M.hashes()
   local ids, red = asked(), connected()
   red:init_pipeline(#ids * #views)
   for _, id in ipairs(ids) do
      for _, view in ipairs(views) do red:hmget("h:" .. view.name .. ":" .. id, unpack(view.features)) end
   end
   local replies = assert(red:commit_pipeline())
   red:set_keepalive(IDLE_MS, IDLE_MAX)
   local rows, at = {}, 0
   for n = 1, #ids do
      local row = {}
      for _, view in ipairs(views) do
         at = at + 1
         local values = replies[at]
         for k, feature in ipairs(view.features) do row[feature] = tonumber(values[k]) end
      end
      rows[n] = row
   end
   answer(cjson.encode({ rows = rows }))
end

local function keys(ids)
   local found = {}
   for _, id in ipairs(ids) do
      for _, view in ipairs(views) do found[#found + 1] = "s:" .. view.name .. ":" .. id end
   end
   return found
end

-- A string of JSON for every row: put one behind the other, and not looked at.
function M.strings()
   local asks, red = keys(asked()), connected()
   local rows = assert(red:mget(unpack(asks)))
   red:set_keepalive(IDLE_MS, IDLE_MAX)
   answer_joined(rows)
end

-- The same strings, from memory; what is not there is read once.
function M.shared()
   local asks = keys(asked())
   local rows = {}
   for n, key in ipairs(asks) do
      local row = kept:get(key)
      if not row then
         local red = connected()
         row = assert(red:get(key))
         red:set_keepalive(IDLE_MS, IDLE_MAX)
         kept:set(key, row)
      end
      rows[n] = row
   end
   answer_joined(rows)
end

return M

-- Which endpoint gets a request.

local balancer = require "ngx.balancer"
local state = require "navarch.state"
local expand = require("navarch.template").expand

local md5 = ngx.md5
local M = {}

local function by_cookie(route, endpoints)
  local value = ngx.var["cookie_" .. route.affinity.cookie]
  if not value then return nil end
  for _, endpoint in ipairs(endpoints.list) do
    endpoint.digest = endpoint.digest or md5(endpoint.text)
    if endpoint.digest == value then return endpoint end
  end
  return nil
end

-- Whether the client has been given an endpoint of this backend.
function M.holds_cookie(route, backend)
  local endpoints = backend and state.endpoints(backend.upstream)
  return endpoints ~= nil and by_cookie(route, endpoints) ~= nil
end

-- Rendezvous hashing: an endpoint that goes moves only its own clients.
local function by_hash(key, list, tried)
  local best, weight
  for _, endpoint in ipairs(list) do
    if not tried[endpoint.text] then
      local value = ngx.crc32_long(endpoint.text .. "\0" .. key)
      if not weight or value > weight then best, weight = endpoint, value end
    end
  end
  return best
end

-- The better of two at random, by moving average of latency ("power of two choices").
local function by_latency(list, tried)
  local one, other = list[math.random(#list)], list[math.random(#list)]
  local best = (other.score or 0) < (one.score or 0) and other or one
  return not tried[best.text] and best or nil
end

local function in_turn(endpoints, tried)
  local list = endpoints.list
  for _ = 1, #list do
    endpoints.next = endpoints.next % #list + 1
    local endpoint = list[endpoints.next]
    if not tried[endpoint.text] then return endpoint end
  end
  return list[endpoints.next]
end

local function choose(ctx, endpoints)
  local route, tried = ctx.route, ctx.tried
  if #endpoints.list == 1 then return endpoints.list[1] end
  if not ctx.mirror then
    if route.affinity then
      local endpoint = by_cookie(route, endpoints)
      if endpoint and not tried[endpoint.text] then return endpoint end
    end
    if route.hash_by then
      local key = expand(route.hash_by)
      if key ~= "" then
        local endpoint = by_hash(key, endpoints.list, tried)
        if endpoint then return endpoint end
      end
    end
    if route.least_latency then
      local endpoint = by_latency(endpoints.list, tried)
      if endpoint then return endpoint end
    end
  end
  return in_turn(endpoints, tried)
end

-- How long this attempt may take. The clock begins when the first one does: the time that a client
-- takes for its body is its own.
local function allowed(ctx, timeouts)
  if not (timeouts.attempt or timeouts.total) then return math.huge end
  ngx.update_time()
  local now = ngx.now()
  ctx.began = ctx.began or now
  local left = timeouts.total and ctx.began + timeouts.total - now or math.huge
  local most = math.min(left, timeouts.attempt or math.huge)
  ctx.deadline = now + most
  return most
end

-- balancer_by_lua: called for each attempt.
function M.balance()
  local ctx = ngx.ctx
  local route = ctx.route
  if not route then return ngx.exit(500) end
  local endpoints = state.endpoints(ctx.upstream)
  if not endpoints then return ngx.exit(503) end
  local timeouts = route.timeouts
  if not ctx.tried then
    ctx.tried = {}
    local more = math.min(route.tries or 0, #endpoints.list) - 1
    if (route.tries or 0) == 0 then more = #endpoints.list - 1 end
    if more > 0 then balancer.set_more_tries(more) end
  end
  local most = allowed(ctx, timeouts)
  if most <= 0 then return ngx.exit(504) end
  balancer.set_timeouts(
    math.min(timeouts.connect, most), math.min(timeouts.send, most), math.min(timeouts.read, most)
  )
  local endpoint = choose(ctx, endpoints)
  ctx.failed = ctx.endpoint ~= nil
  ctx.tried[endpoint.text] = true
  ctx.endpoint = endpoint
  local set, problem = balancer.set_current_peer(endpoint.address, endpoint.port)
  if not set then
    ngx.log(ngx.ERR, "endpoint ", endpoint.text, ": ", problem)
    return ngx.exit(502)
  end
end

-- Remembers how long an endpoint took; old figures fade.
function M.measure(ctx)
  local seconds = tonumber(ngx.var.upstream_response_time)
  if not seconds or not ctx.endpoint then return end
  local endpoint = ctx.endpoint
  local now = ngx.now()
  local weight = math.exp(-(now - (endpoint.measured or 0)) / 10)
  endpoint.score = (endpoint.score or 0) * weight + seconds * (1 - weight)
  endpoint.measured = now
end

-- The cookie for the endpoint that answered, if the client has none or another.
function M.cookie(ctx)
  local affinity = ctx.route.affinity
  local endpoint = ctx.endpoint
  if not endpoint or ctx.upstream ~= ctx.backend.upstream then return nil end
  endpoint.digest = endpoint.digest or md5(endpoint.text)
  local present = ngx.var["cookie_" .. affinity.cookie]
  if present == endpoint.digest then return nil end
  if present and ctx.failed and not affinity.change_on_failure then return nil end
  local parts = { affinity.cookie .. "=" .. endpoint.digest, "Path=" .. (affinity.path or "/") }
  if affinity.domain then parts[#parts + 1] = "Domain=" .. affinity.domain end
  if affinity.expires then
    parts[#parts + 1] = "Expires=" .. ngx.cookie_time(ngx.time() + affinity.expires)
  end
  if affinity.max_age then parts[#parts + 1] = "Max-Age=" .. affinity.max_age end
  if affinity.secure or ngx.var.scheme == "https" then parts[#parts + 1] = "Secure" end
  parts[#parts + 1] = "HttpOnly"
  if affinity.same_site then parts[#parts + 1] = "SameSite=" .. affinity.same_site end
  return table.concat(parts, "; ")
end

return M

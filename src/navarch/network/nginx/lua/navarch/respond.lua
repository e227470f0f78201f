-- What happens to answers: headers, cookies, the figures.

local route = require "navarch.route"
local balance = require "navarch.balance"
local limits = require "navarch.limits"
local shared = ngx.shared.navarch_metrics
local state_dict = ngx.shared.navarch_state

local M = {}

local function add(name, value)
  local present = ngx.header[name]
  if present == nil then
    ngx.header[name] = value
  elseif type(present) == "table" then
    present[#present + 1] = value
    ngx.header[name] = present
  else
    ngx.header[name] = { present, value }
  end
end

local function change(headers)
  if not headers then return end
  for _, name in ipairs(headers.remove or {}) do ngx.header[name] = nil end
  for name, value in pairs(headers.set or {}) do ngx.header[name] = value end
  for name, value in pairs(headers.add or {}) do add(name, value) end
end

-- header_filter_by_lua of everything public.
function M.headers()
  -- Before a reload clients are asked to come with a new connection, or those whose connections
  -- the old workers close as idle would lose a request that is on its way.
  local draining = state_dict:get("draining")
  if draining and draining > ngx.now() then ngx.header["Connection"] = "close" end
  local ctx = ngx.ctx
  if not ctx.route then return end
  if ctx.route.cors and ngx.req.get_method() ~= "OPTIONS" or ctx.route.cors and ctx.endpoint then
    route.add_cors(ctx.route)
  end
  change(ctx.route.response_headers)
  if not ctx.backend then return end
  change(ctx.backend.response_headers)
  local replaced = ctx.replaced_status
  if replaced and replaced ~= 401 and replaced ~= 403 then
    -- The error backend's own status counts, except that whoever was refused stays refused.
    local status = tonumber((ngx.var.upstream_status or ""):match("(%d+)%s*$"))
    if status then ngx.status = status end
  end
  if ctx.route.affinity then
    local cookie = balance.cookie(ctx)
    if cookie then add("Set-Cookie", cookie) end
  end
  if ctx.auth_cookies then
    for _, cookie in ipairs(ctx.auth_cookies) do add("Set-Cookie", cookie) end
  end
end

-- body_filter_by_lua of policies that limit how long an answer may take: its status has been told,
-- so all that is left is to end the connection before the answer's end. But nginx's own answer, that
-- none has begun in time, is let through.
function M.in_time()
  local deadline = ngx.ctx.deadline
  if deadline and ngx.now() > deadline and (ngx.var.upstream_header_time or ""):find("%d$") then
    ngx.log(ngx.WARN, "the answer takes longer than the route allows")
    return ngx.ERROR
  end
end

-- header_filter_by_lua of the authentication subrequest: what the backend shall get of its answer.
function M.authentication()
  local ctx = route.context()
  local outside = ctx and ctx.route.external_auth
  if not outside then return end
  local cookies = ngx.header["Set-Cookie"]
  if cookies and (outside.always_sets_cookie or ngx.status < 300) then
    ctx.auth_cookies = type(cookies) == "table" and cookies or { cookies }
  end
  if ngx.status >= 300 then return end
  ctx.auth_headers = {}
  for _, name in ipairs(outside.headers or {}) do
    local value = ngx.header[name]
    if type(value) == "table" then value = table.concat(value, ",") end
    ctx.auth_headers[name] = value or ""
  end
end

local METHODS = {
  GET = true, HEAD = true, POST = true, PUT = true, PATCH = true, DELETE = true, OPTIONS = true,
}
local BUCKETS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }

local function count(ctx)
  local var = ngx.var
  local labels = ctx.backend and ctx.backend.labels or { "", "", "" }
  local method = var.request_method
  local object = labels[1] .. "\t" .. labels[2] .. "\t" .. labels[3]
  shared:incr("n\t" .. object .. "\t" .. (METHODS[method] and method or "OTHER") .. "\t" .. var.status, 1, 0)
  local seconds = tonumber(var.request_time) or 0
  shared:incr("s\t" .. object, seconds, 0)
  local bucket = "+Inf"
  for _, limit in ipairs(BUCKETS) do
    if seconds <= limit then
      bucket = limit
      break
    end
  end
  shared:incr("b\t" .. object .. "\t" .. bucket, 1, 0)
end

-- log_by_lua of everything public.
function M.log()
  local ctx = route.context() or ngx.ctx
  limits.release(ctx)
  route.forget()
  if ctx.route and ctx.route.least_latency then balance.measure(ctx) end
  count(ctx)
end

local function escaped(text)
  return (text:gsub('[\\"]', "\\%0"):gsub("\n", "\\n"))
end

-- The figures, under upstream's names, in Prometheus' text format.
function M.metrics()
  local requests, sums, buckets = {}, {}, {}
  for _, key in ipairs(shared:get_keys(0)) do
    local value = shared:get(key) or 0
    local parts = {}
    for part in (key .. "\t"):gmatch("([^\t]*)\t") do parts[#parts + 1] = part end
    local labels = 'namespace="' .. escaped(parts[2]) .. '",ingress="' .. escaped(parts[3])
      .. '",service="' .. escaped(parts[4]) .. '"'
    if parts[1] == "n" then
      requests[#requests + 1] = "nginx_ingress_controller_requests{" .. labels .. ',method="'
        .. parts[5] .. '",status="' .. parts[6] .. '"} ' .. value
    elseif parts[1] == "s" then
      sums[labels] = value
    else
      buckets[labels] = buckets[labels] or {}
      buckets[labels][parts[5]] = value
    end
  end
  local lines = { "# TYPE nginx_ingress_controller_requests counter" }
  table.sort(requests)
  for _, line in ipairs(requests) do lines[#lines + 1] = line end
  local name = "nginx_ingress_controller_request_duration_seconds"
  lines[#lines + 1] = "# TYPE " .. name .. " histogram"
  for labels, counts in pairs(buckets) do
    local total = 0
    for _, limit in ipairs(BUCKETS) do
      total = total + (counts[tostring(limit)] or 0)
      lines[#lines + 1] = name .. "_bucket{" .. labels .. ',le="' .. limit .. '"} ' .. total
    end
    total = total + (counts["+Inf"] or 0)
    lines[#lines + 1] = name .. "_bucket{" .. labels .. ',le="+Inf"} ' .. total
    lines[#lines + 1] = name .. "_sum{" .. labels .. "} " .. (sums[labels] or 0)
    lines[#lines + 1] = name .. "_count{" .. labels .. "} " .. total
  end
  local states = { active = "connections_active", reading = "connections_reading",
                   writing = "connections_writing", waiting = "connections_waiting" }
  lines[#lines + 1] = "# TYPE nginx_ingress_controller_nginx_process_connections gauge"
  for label, variable in pairs(states) do
    lines[#lines + 1] = 'nginx_ingress_controller_nginx_process_connections{state="' .. label .. '"} '
      .. (ngx.var[variable] or 0)
  end
  ngx.header["Content-Type"] = "text/plain; version=0.0.4"
  ngx.print(table.concat(lines, "\n"), "\n")
end

return M

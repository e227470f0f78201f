-- Which route takes a request, and what is done before a backend is asked.

local state = require "navarch.state"
local expand = require("navarch.template").expand
local limits = require "navarch.limits"

local re_find, re_match = ngx.re.find, ngx.re.match
local sub, lower = string.sub, string.lower

local M = {}

-- ngx.ctx does not survive the jump to a named location: it waits here meanwhile.
local parked, last = {}, 0

local function park(ctx)
  last = last + 1
  parked[last] = ctx
  ngx.var.navarch_ctx = last
end

-- The context of the request, or of the one that this is a subrequest of.
function M.context()
  local ctx = ngx.ctx
  if ctx.route then return ctx end
  local waiting = parked[tonumber(ngx.var.navarch_ctx)]
  if waiting then ngx.ctx = waiting end
  return waiting
end

function M.forget()
  local number = tonumber(ngx.var.navarch_ctx)
  if number then parked[number] = nil end
end

local function holds(conditions, value_of)
  for _, condition in ipairs(conditions) do
    local value = value_of(condition.name)
    if type(value) == "table" then value = value[1] end
    if value == true then value = "" end
    if value == nil then return false end
    local wanted = condition.value or ""
    if condition.regex then
      if not re_find(value, "^(?:" .. wanted .. ")$", "jo") then return false end
    elseif value ~= wanted then
      return false
    end
  end
  return true
end

local function path_matches(match, uri)
  local kind = match.kind
  if kind == "prefix" then
    local base = match.base
    return sub(uri, 1, #base) == base and (#uri == #base or sub(uri, #base + 1, #base + 1) == "/")
  elseif kind == "begins" then
    return sub(uri, 1, #match.path) == match.path
  elseif kind == "regex" then
    return match.pattern ~= nil and re_find(uri, match.pattern, "ijos") ~= nil
  end
  return uri == match.path
end

local function matches(route, uri, method, headers, queries)
  local match = route.match
  return path_matches(match, uri)
    and (not match.method or match.method == method)
    and (not match.headers or holds(match.headers, function(name)
      return headers()[lower(name)]
    end))
    and (not match.queries or holds(match.queries, function(name) return queries()[name] end))
end

local function find_route(host, uri)
  local method = ngx.req.get_method()
  local all_headers, all_queries
  local function headers()
    all_headers = all_headers or ngx.req.get_headers(200)
    return all_headers
  end
  local function queries()
    all_queries = all_queries or ngx.req.get_uri_args(200)
    return all_queries
  end
  local best
  for _, route in ipairs(host.exact[uri] or {}) do
    if matches(route, uri, method, headers, queries) then
      best = route
      break
    end
  end
  for _, route in ipairs(host.others) do
    if best and best.number < route.number then break end
    if matches(route, uri, method, headers, queries) then return route end
  end
  return best
end

local function prefix_replaced(match, uri, prefix)
  local base = match.base or match.path
  local rest = sub(uri, #base + 1)
  prefix = prefix:gsub("/+$", "")
  if sub(rest, 1, 1) ~= "/" and rest ~= "" then rest = "/" .. rest end
  local result = prefix .. rest
  return result == "" and "/" or result
end

local function escaped_path(path)
  return (path:gsub("[^%w%-%._~!%$&'%(%)%*%+,;=:@/]", function(char)
    return string.format("%%%02X", char:byte())
  end))
end

local function redirect(ctx, to)
  local var = ngx.var
  if to.location then
    ngx.header["Location"] = expand(to.location, ctx.captures)
    return ngx.exit(to.status)
  end
  local scheme = to.scheme or var.scheme
  local port = to.port
  if not port then
    -- The port clients see, unless the scheme changes: then that scheme's own.
    port = to.scheme and (to.scheme == "https" and 443 or 80) or ctx.listener.public_port
  end
  local default = scheme == "https" and 443 or 80
  local path = var.request_uri
  if to.path then
    path = to.path .. (var.is_args or "") .. (var.args or "")
  elseif to.prefixed then
    path = escaped_path(prefix_replaced(ctx.route.match, var.uri, to.prefix or ""))
      .. (var.is_args or "") .. (var.args or "")
  end
  local host = to.host or var.host
  ngx.header["Location"] = scheme .. "://" .. host .. (port ~= default and ":" .. port or "") .. path
  return ngx.exit(to.status)
end

local function choose(route)
  local backends = route.backends
  if not backends then return nil end
  if #backends == 1 then return (backends[1].weight or 0) > 0 and backends[1] or nil end
  if route.total == 0 then return nil end
  local left = math.random() * route.total
  for _, backend in ipairs(backends) do
    left = left - (backend.weight or 0)
    if left < 0 then return backend end
  end
  return nil
end

local function is_canary(canary, route)
  if canary.header then
    local value = ngx.req.get_headers(200)[lower(canary.header)]
    if type(value) == "table" then value = value[1] end
    if value then
      if canary.value then
        if value == canary.value then return true end
      elseif canary.pattern then
        if re_find(value, canary.pattern, "jo") then return true end
      elseif value == "always" then
        return true
      elseif value == "never" then
        return false
      end
    end
  end
  if canary.cookie then
    local value = ngx.var["cookie_" .. canary.cookie]
    if value == "always" then return true end
    if value == "never" then return false end
  end
  if route.affinity then
    -- A client that has been given an endpoint stays on that endpoint's side.
    local balance = require "navarch.balance"
    if balance.holds_cookie(route, route.backends and route.backends[1]) then return false end
    if balance.holds_cookie(route, canary.backend) then return true end
  end
  return math.random() * canary.total < (canary.weight or 0)
end

local function change_request_headers(change, own)
  if not change then return end
  for _, name in ipairs(change.remove or {}) do ngx.req.clear_header(name) end
  for name, value in pairs(change.set or {}) do
    if lower(name) == "host" then own.host = value else ngx.req.set_header(name, value) end
  end
  for name, value in pairs(change.add or {}) do
    local present = ngx.req.get_headers(200)[lower(name)]
    if present == nil then
      ngx.req.set_header(name, value)
    else
      -- One field with both values is the same to any reader (RFC 9110, 5.3), and what backends
      -- join to maps keep it.
      if type(present) == "table" then present = table.concat(present, ",") end
      ngx.req.set_header(name, present .. "," .. value)
    end
  end
end

local function rewrite(ctx, how)
  if how.host then ctx.host = how.host end
  local var = ngx.var
  if how.target then
    local target = {}
    local query
    -- The query begins at the first "?" of a literal part: what a group stands for cannot begin it.
    for _, part in ipairs(how.target) do
      if query then
        query[#query + 1] = part
      elseif type(part) == "string" and part:find("?", 1, true) then
        local mark = part:find("?", 1, true)
        target[#target + 1] = sub(part, 1, mark - 1)
        query = { sub(part, mark + 1) }
      else
        target[#target + 1] = part
      end
    end
    local path = expand(target, ctx.captures)
    if sub(path, 1, 1) ~= "/" then path = "/" .. path end
    ngx.req.set_uri(path, false, true)
    if query then
      local args = expand(query, ctx.captures, ngx.escape_uri)
      if var.args and var.args ~= "" then args = args .. "&" .. var.args end
      ngx.req.set_uri_args(args)
    end
  elseif how.prefixed then
    ngx.req.set_uri(prefix_replaced(ctx.route.match, var.uri, how.prefix or ""), false, true)
  end
end

local function origin_allowed(cors, origin)
  for _, pattern in ipairs(cors.origins) do
    if pattern == "*" or pattern == origin then return true end
    local scheme, rest = pattern:match("^(%a[%w+.-]*://)%*(.*)$")
    if scheme and sub(origin, 1, #scheme) == scheme and sub(origin, #origin - #rest + 1) == rest then
      local labels = sub(origin, #scheme + 1, #origin - #rest)
      local others = cors.of_gateway and "[^%w%-.]" or "[^%w%-]"
      if labels ~= "" and not labels:find(others) then return true end
    end
  end
  return false
end

-- What is told of methods or headers, where `asked` is what the request asks for.
local function told(cors, allowed, asked)
  if not cors.of_gateway then return allowed end
  if not asked or allowed == "" then return nil end
  return allowed == "*" and asked or allowed
end

function M.add_cors(route)
  local cors = route.cors
  local header = ngx.header
  local origin = ngx.var.http_origin
  local any = cors.origins[1] == "*"
  if any and not cors.credentials then
    header["Access-Control-Allow-Origin"] = "*"
  elseif origin and origin_allowed(cors, origin) then
    header["Access-Control-Allow-Origin"] = origin
    header["Vary"] = "Origin"
  elseif any and not cors.of_gateway then
    header["Access-Control-Allow-Origin"] = "*"
  else
    return
  end
  if cors.credentials then header["Access-Control-Allow-Credentials"] = "true" end
  local var = ngx.var
  header["Access-Control-Allow-Methods"] =
    told(cors, cors.methods, var.http_access_control_request_method)
  header["Access-Control-Allow-Headers"] =
    told(cors, cors.headers, var.http_access_control_request_headers)
  header["Access-Control-Expose-Headers"] = cors.expose
  header["Access-Control-Max-Age"] = cors.max_age and tostring(cors.max_age) or nil
end

-- Where no route takes the request.
local function nobody(status)
  return ngx.exit(status)
end

local function answered_here(ctx)
  local route, var = ctx.route, ngx.var
  if route.https_redirect and not ctx.listener.tls then
    local port = ctx.listener.https_port
    ngx.header["Location"] = "https://" .. var.host .. (port ~= 443 and ":" .. port or "")
      .. var.request_uri
    return route.https_redirect
  end
  if route.deny and state.contains(route.deny, var.binary_remote_addr) then return 403 end
  if route.cors and ngx.req.get_method() == "OPTIONS" and var.http_access_control_request_method then
    M.add_cors(route)
    return 204
  end
  if route.app_root and var.uri == "/" then
    ngx.header["Location"] = var.scheme .. "://" .. var.http_host .. route.app_root
    return 302
  end
  if route.limits then return limits.exceeded(ctx, route.limits) end
  return nil
end

-- rewrite_by_lua of the one public location.
function M.route()
  local document = state.document()
  if not document then return nobody(503) end
  local var = ngx.var
  local listener = document.listeners[var.server_port]
  if not listener then return nobody(404) end
  local name = var.host
  if listener.strict_sni and var.ssl_server_name and lower(var.ssl_server_name) ~= name then
    local asked = state.find_host(listener.table, name)
    local met = state.find_host(listener.table, lower(var.ssl_server_name))
    if asked ~= met and not (asked and met and asked.group and asked.group == met.group) then
      return nobody(421)
    end
  end
  local host = state.find_host(listener.table, name)
  if not host then return nobody(404) end
  if host.client_ca and listener.tls then
    -- The handshake must have been for this host: only then was its authority asked.
    if state.find_host(listener.table, lower(var.ssl_server_name or "")) ~= host then
      return nobody(421)
    end
    if not host.client_optional and var.ssl_client_verify ~= "SUCCESS" then return nobody(400) end
  end
  local uri = var.uri
  local route = find_route(host, uri)
  if not route then return nobody(404) end
  local ctx = { route = route, listener = listener, host_entry = host }
  ngx.ctx = ctx
  if route.unlogged then var.navarch_quiet = "quiet" end
  if host.client_ca and not listener.tls and not route.https_redirect then return nobody(403) end
  if host.client_ca and listener.tls then
    if host.client_name and not re_find(var.ssl_client_s_dn or "", host.client_name, "jo") then
      return nobody(403)
    end
    ngx.req.set_header("ssl-client-verify", var.ssl_client_verify)
    ngx.req.set_header("ssl-client-subject-dn", var.ssl_client_s_dn)
    ngx.req.set_header("ssl-client-issuer-dn", var.ssl_client_i_dn)
    if host.passes_client_certificate then
      ngx.req.set_header("ssl-client-cert", var.ssl_client_escaped_cert)
    end
  else
    -- Backends believe these: nobody else may set them.
    ngx.req.clear_header("ssl-client-verify")
    ngx.req.clear_header("ssl-client-subject-dn")
    ngx.req.clear_header("ssl-client-issuer-dn")
    ngx.req.clear_header("ssl-client-cert")
  end
  local status = answered_here(ctx)
  if status then return ngx.exit(status) end
  if route.match.pattern then ctx.captures = re_match(uri, route.match.pattern, "ijos") end
  if route.redirect then return redirect(ctx, route.redirect) end
  if route.status then return nobody(route.status) end

  local backend
  if route.canary and is_canary(route.canary, route) then
    backend = route.canary.backend
  else
    backend = choose(route)
  end
  if not backend then return nobody(500) end
  if backend.status then return nobody(backend.status) end
  if backend.redirect then return redirect(ctx, backend.redirect) end
  ctx.backend, ctx.upstream, ctx.uri = backend, backend.upstream, uri
  ctx.host = var.http_host or name
  change_request_headers(route.request_headers, ctx)
  change_request_headers(backend.request_headers, ctx)
  local how = backend.rewrite or route.rewrite
  if how then rewrite(ctx, how) end

  var.navarch_host = ctx.host
  var.navarch_tls_name = backend.tls_name or name
  local labels = backend.labels
  if labels then
    var.navarch_namespace, var.navarch_object = labels[1], labels[2]
    var.navarch_service, var.navarch_port = labels[3], labels[4]
  end
  var.navarch_prefix = route.forwarded_prefix or ""
  if route.connection_header then var.navarch_connection = route.connection_header end
  if route.basic_auth then
    var.navarch_realm, var.navarch_passwords = route.basic_auth.realm, route.basic_auth.file
  end
  local outside = route.external_auth
  if outside then
    var.navarch_auth_url = expand(outside.url)
    var.navarch_auth_method = outside.method or "GET"
    var.navarch_auth_redirect = expand(outside.request_redirect) or ""
  end
  park(ctx)
  return ngx.exec("@" .. (backend.policy or route.policy).name)
end

-- rewrite_by_lua of a policy's location.
function M.enter()
  local ctx = M.context()
  if not ctx then return ngx.exit(500) end
  local limit = (ctx.backend.policy or ctx.route.policy).body_limit
  local length = tonumber(ngx.var.http_content_length)
  if limit and length and length > limit then return ngx.exit(413) end
  if ctx.route.limits and ctx.route.limits.bytes_per_second then
    ngx.var.limit_rate = ctx.route.limits.bytes_per_second
  end
  if not state.endpoints(ctx.upstream) then
    local other = ctx.route.error_backend
    if ctx.route.error_backend_for_no_endpoints and other and state.endpoints(other.upstream) then
      ctx.upstream = other.upstream
      ctx.replaced_status = 503
      return
    end
    return ngx.exit(503)
  end
end

-- access_by_lua of policies that check where requests come from.
function M.access()
  local ctx = M.context()
  local allow = ctx.route.allow
  if allow and not state.contains(allow, ngx.var.binary_remote_addr) then return ngx.exit(403) end
  for name, value in pairs(ctx.auth_headers or {}) do
    -- What the authentication server does not say, the client may not say in its place.
    if value == "" then ngx.req.clear_header(name) else ngx.req.set_header(name, value) end
  end
end

-- rewrite_by_lua of the location that asks a mirror.
function M.mirror(number)
  local ctx = M.context()
  local mirror = ctx and (ctx.route.mirrors or {})[number]
  if not mirror or math.random() * mirror.denominator >= (mirror.numerator or 0) then
    return ngx.exit(204)
  end
  if mirror.url then
    ngx.var.navarch_mirror = expand(mirror.url)
    ngx.var.navarch_mirror_host = mirror.host or ""
    return
  end
  if not state.endpoints(mirror.upstream) then return ngx.exit(204) end
  ngx.ctx = { route = ctx.route, upstream = mirror.upstream, mirror = true }
  ngx.var.navarch_mirror = "http://navarch_http"
  ngx.var.navarch_mirror_host = mirror.host or ctx.host
  ngx.req.set_uri(ctx.route.rewrite and ngx.var.uri or ctx.uri, false, true)
end

-- rewrite_by_lua of the location that answers in place of a backend's error.
function M.error()
  local ctx = M.context()
  local backend = ctx and ctx.route.error_backend
  local status = ngx.status
  if not backend or not state.endpoints(backend.upstream) then return ngx.exit(status) end
  ctx.upstream, ctx.tried, ctx.replaced_status = backend.upstream, nil, status
  M.tell_error(ctx, status)
  ngx.req.set_uri("/", false, true)
end

function M.tell_error(ctx, status)
  local var, set = ngx.var, ngx.req.set_header
  set("X-Code", status)
  set("X-Format", var.http_accept or "")
  set("X-Original-URI", var.request_uri)
  set("X-Namespace", var.navarch_namespace)
  set("X-Ingress-Name", var.navarch_object)
  set("X-Service-Name", var.navarch_service)
  set("X-Service-Port", var.navarch_port)
  set("X-Request-ID", var.request_id)
end

-- rewrite_by_lua of the location for requests that the authentication server refused.
function M.sign_in()
  local ctx = M.context()
  local outside = ctx and ctx.route.external_auth
  if not outside or not outside.signin then return ngx.exit(401) end
  local var = ngx.var
  local to = expand(outside.signin)
  local parameter = outside.signin_parameter or "rd"
  if not to:find("[?&]" .. parameter:gsub("%-", "%%-") .. "=") then
    local back = var.scheme .. "://" .. var.http_host .. var.request_uri
    to = to .. (to:find("?", 1, true) and "&" or "?") .. parameter .. "=" .. ngx.escape_uri(back)
  end
  ngx.header["Location"] = to
  return ngx.exit(302)
end

return M

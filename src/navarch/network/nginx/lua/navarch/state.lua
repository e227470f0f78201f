-- What nginx serves: the document that the controller posted, as every worker has it.
--
-- The document lies in shared memory as JSON with a version beside it. A worker that sees another
-- version than its own decodes it anew before it looks at a request, so that an answer to the post
-- means: from now on. Endpoints have keys of their own, as they change far more often.

local cjson = require "cjson.safe"

local shared = ngx.shared.navarch_state
local concat, insert, sort = table.concat, table.insert, table.sort
local byte, lower, sub, find, gmatch = string.byte, string.lower, string.sub, string.find, string.gmatch
local bit_band, bit_lshift = bit.band, bit.lshift

local M = {
  policies = {},  -- those of this worker's configuration
}
local version, document = nil, nil

-- An address range is {first bytes that must be equal, next byte, mask of that byte}.
local function range(text)
  local hex, length = text:match("^(%x+)/(%d+)$")
  local bytes = hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)
  length = tonumber(length)
  local whole, rest = math.floor(length / 8), length % 8
  return {
    size = #bytes, whole = whole, prefix = sub(bytes, 1, whole),
    mask = rest > 0 and bit_band(bit_lshift(0xff, 8 - rest), 0xff) or 0,
    value = rest > 0 and byte(bytes, whole + 1) or 0,
  }
end

local function ranges(list)
  if not list then return nil end
  local result = {}
  for i, text in ipairs(list) do result[i] = range(text) end
  return result
end

function M.contains(list, address)
  for _, each in ipairs(list) do
    if each.size == #address and sub(address, 1, each.whole) == each.prefix
      and (each.mask == 0
           or bit_band(byte(address, each.whole + 1), each.mask) == bit_band(each.value, each.mask)) then
      return true
    end
  end
  return false
end

local function compile_route(route, number)
  route.number = number
  local match = route.match
  match.path = match.path or "/"
  if match.kind == "regex" then
    match.pattern = "^" .. match.path
    -- A pattern that PCRE refuses matches nothing; the controller is told.
    local _, problem = ngx.re.find("", match.pattern, "ijos")
    if problem then
      match.pattern = nil
      match.broken = problem
    end
  elseif match.kind == "prefix" then
    match.base = match.path:gsub("/+$", "")
  end
  route.allow, route.deny = ranges(route.allow), ranges(route.deny)
  if route.limits then route.limits.exempt = ranges(route.limits.exempt) end
  local total = 0
  for _, backend in ipairs(route.backends or {}) do total = total + (backend.weight or 0) end
  route.total = total
end

local function compile(text)
  local result, problem = cjson.decode(text)
  if not result then return nil, problem end
  local broken = {}
  for _, hosts in pairs(result.tables) do
    for name, host in pairs(hosts) do
      host.name = name
      host.routes = host.routes or {}
      host.exact = {}
      for number, route in ipairs(host.routes) do
        compile_route(route, number)
        if route.match.broken then
          insert(broken, { labels = (route.backends or {{}})[1].labels, problem = route.match.broken })
        end
        if route.match.kind == "exact" then
          local same = host.exact[route.match.path] or {}
          insert(same, route)
          host.exact[route.match.path] = same
        end
      end
      host.others = {}
      for _, route in ipairs(host.routes) do
        if route.match.kind ~= "exact" then insert(host.others, route) end
      end
    end
  end
  return result, broken
end

-- The document as of now; nil before the first was posted.
function M.document()
  local current = shared:get("version")
  if current ~= version then
    local text = shared:get("document")
    if text then
      local result, problem = compile(text)
      if result and not M.has_policies(result) then
        -- A worker of the configuration before, on its way out: it goes on with what it has.
        ngx.log(ngx.INFO, "the document is for a newer configuration")
      elseif result then
        document = result
      else
        ngx.log(ngx.ERR, "the document cannot be read: ", problem)
      end
    end
    version = current
  end
  return document
end

function M.has_policies(result)
  for _, name in ipairs(result.policies or {}) do
    if not M.policies[name] then return false end
  end
  return true
end

function M.put_document(text)
  local result, broken = compile(text)
  if not result then return nil, broken end
  local stored, problem = shared:safe_set("document", text)
  if not stored then return nil, problem end
  shared:incr("version", 1, 0)
  return broken
end

-- Endpoints: {name: "address:port,address:port"}; an empty text removes the name.
function M.put_endpoints(text)
  local changes, problem = cjson.decode(text)
  if not changes then return nil, problem end
  for name, endpoints in pairs(changes) do
    if endpoints == "" then
      shared:delete("e:" .. name)
    else
      local stored, why = shared:safe_set("e:" .. name, endpoints)
      if not stored then return nil, why end
    end
  end
  return true
end

local known = {}

-- The endpoints of an upstream: {list = {{address, port, text}}, next = number}.
function M.endpoints(name)
  local text = shared:get("e:" .. name)
  if not text then
    known[name] = nil
    return nil
  end
  local entry = known[name]
  if entry and entry.text == text then return entry end
  local list = {}
  for each in gmatch(text, "[^,]+") do
    local address, port = each:match("^(.*):(%d+)$")
    insert(list, { address = address, port = tonumber(port), text = each, score = entry and entry.scores and entry.scores[each] })
  end
  -- Workers start at different places, or all would go to the same endpoint at once.
  entry = { text = text, list = list, next = math.random(#list) }
  known[name] = entry
  return entry
end

function M.find_host(table_name, name)
  local hosts = document.tables[table_name]
  if not hosts then return nil end
  local host = hosts[name]
  if host then return host end
  local rest, labels = name, 0
  while true do
    local dot = find(rest, ".", 1, true)
    if not dot then break end
    rest, labels = sub(rest, dot + 1), labels + 1
    host = hosts["*." .. rest]
    if host and (labels == 1 or host.deep) then return host end
  end
  return hosts[""]
end

return M

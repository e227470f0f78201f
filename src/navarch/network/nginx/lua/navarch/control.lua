-- How the controller tells nginx what to serve: HTTP over a unix socket that only root may open.

local cjson = require "cjson.safe"
local state = require "navarch.state"
local tls = require "navarch.tls"

local M = {}
local generation = ""

local function body()
  ngx.req.read_body()
  local data = ngx.req.get_body_data()
  if data then return data end
  local name = ngx.req.get_body_file()
  local file = name and io.open(name, "rb")
  if not file then return "" end
  data = file:read("*a")
  file:close()
  return data
end

local function answer(result, problem)
  if not result then
    ngx.status = 400
    ngx.say(problem or "refused")
    return
  end
  ngx.say(cjson.encode(result == true and {} or { broken = #result > 0 and result or nil }))
end

local ACTIONS = {
  ["/document"] = function() answer(state.put_document(body())) end,
  ["/endpoints"] = function() answer(state.put_endpoints(body())) end,
  ["/certificates"] = function() answer(tls.put(body())) end,
  ["/draining"] = function()
    ngx.shared.navarch_state:set("draining", ngx.now() + tonumber(body()))
    ngx.say("{}")
  end,
  ["/status"] = function()
    ngx.say(cjson.encode({
      generation = generation, worker = ngx.worker.pid(), exiting = ngx.worker.exiting(),
      version = ngx.shared.navarch_state:get("version") or 0,
    }))
  end,
}

function M.handle()
  local action = ACTIONS[ngx.var.uri]
  if not action then return ngx.exit(404) end
  return action()
end

local function read(name)
  local file = io.open(name, "rb")
  if not file then return nil end
  local data = file:read("*a")
  file:close()
  return data
end

-- init_by_lua, in the master and as root: what was served last is served at once, before any
-- controller is there. Shared memory outlives a reload, and is newer than the files then.
function M.init(options)
  generation = options.generation
  state.policies = options.policies
  math.randomseed(ngx.time())
  if ngx.shared.navarch_state:get("version") then return end
  local certificates = read(options.directory .. "/certificates.json")
  local endpoints = read(options.directory .. "/endpoints.json")
  local document = read(options.directory .. "/document.json")
  if certificates then tls.put(certificates) end
  if endpoints then state.put_endpoints(endpoints) end
  if document then state.put_document(document) end
end

function M.init_worker()
  math.randomseed(ngx.worker.pid() + ngx.now() * 1000)
end

return M

-- Certificates, chosen by the name a client asks for and changed without a reload.

local ssl = require "ngx.ssl"
local state = require "navarch.state"
local cjson = require "cjson.safe"

local shared = ngx.shared.navarch_certificates
local M = {}
local parsed = {}

-- Certificates are named by digests of what is in them: what has been read once stays true.
local function certificate(name)
  if parsed[name] then return parsed[name] end
  local chain, key = shared:get("c:" .. name), shared:get("k:" .. name)
  if not chain or not key then return nil end
  local one, problem = ssl.parse_pem_cert(chain)
  local other, why
  if one then other, why = ssl.parse_pem_priv_key(key) end
  if not one or not other then
    ngx.log(ngx.ERR, "certificate ", name, ": ", problem or why)
    return nil
  end
  parsed[name] = { chain = one, key = other }
  return parsed[name]
end

function M.put(text)
  local changes, problem = cjson.decode(text)
  if not changes then return nil, problem end
  for name, pair in pairs(changes) do
    if pair.chain then
      local stored, why = shared:safe_set("c:" .. name, pair.chain)
      if stored and pair.key then stored, why = shared:safe_set("k:" .. name, pair.key) end
      if not stored then return nil, why end
    else
      shared:delete("c:" .. name)
      shared:delete("k:" .. name)
      parsed[name] = nil
    end
  end
  return true
end

-- ssl_certificate_by_lua. Without a certificate of its own a host is served with the default one,
-- which is in the configuration.
function M.choose()
  local document = state.document()
  local name = ssl.server_name()
  if not document then return end
  local port = ssl.server_port()
  local listener = document.listeners[tostring(port)]
  if not listener then return end
  local host = state.find_host(listener.table, string.lower(name or ""))
  if not host then return end
  local found = host.certificate and certificate(host.certificate)
  if found then
    ssl.clear_certs()
    ssl.set_cert(found.chain)
    ssl.set_priv_key(found.key)
  end
  if host.client_ca then
    local chain = shared:get("c:" .. host.client_ca)
    local authorities = chain and ssl.parse_pem_cert(chain)
    if not authorities then return ngx.exit(ngx.ERROR) end
    ssl.verify_client(authorities, host.client_depth or 1)
  end
end

return M

-- Texts with variables and captured groups, taken apart by the controller.

local M = {}

-- `escape` is applied to what variables and groups stand for, never to the literal parts.
function M.expand(parts, captures, escape)
  if not parts then return nil end
  local result = {}
  for i, part in ipairs(parts) do
    if type(part) == "string" then
      result[i] = part
    else
      local value
      if part.c then
        value = captures and captures[part.c] or ""
        if value == false then value = "" end
      elseif part.v == "escaped_request_uri" then
        value = ngx.escape_uri(ngx.var.request_uri)
      else
        value = ngx.var[part.v] or ""
      end
      result[i] = escape and escape(value) or value
    end
  end
  return table.concat(result)
end

return M

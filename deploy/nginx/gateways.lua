-- Which gateway gets a hook, for nginx.conf beside this file: as /etc/nginx/gateways.lua.
--
-- A session stays on one gateway: that one knows what its connect answer set, finds its repeated hooks, and needs not ask
-- the others. Each gateway has a score for each session (rendezvous hashing), and the highest that is ready gets the hook:
-- when a gateway is lost or drained, only its own sessions move, spread over the others; when it is back, they return.
-- All balancers with the same list of gateways choose the same.

local balancer = require "ngx.balancer"
local cjson = require "cjson.safe"

local INTERVAL = 1   -- seconds between two questions to a gateway's /-/ready
local LIMIT = 500    -- milliseconds that it may take to answer
local FALL = 2       -- bad answers in a row until it gets no more hooks
local RISE = 2       -- good answers in a row until it gets hooks again

local gateways = {}
local list
local down = ngx.shared.gateways_down   -- by name; common to all worker processes, and kept by a reload of nginx

-- Set the list: {host = "192.0.2.11", port = 8080, admin = 9180}, …; host is an IP address.
function gateways.configure(configured)
    list = configured
    for _, gateway in ipairs(list) do
        gateway.name = gateway.host .. ":" .. gateway.port
        gateway.streak = 0   -- answers in a row that contradict what is known
    end
end

local function is_ready(gateway)
    local socket = ngx.socket.tcp()
    socket:settimeout(LIMIT)
    if not socket:connect(gateway.host, gateway.admin) then
        return false
    end
    socket:send("GET /-/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    local status = socket:receive("*l")
    socket:close()
    return status ~= nil and status:find("^HTTP/1%.1 200 ") ~= nil
end

-- Ask /-/ready on the admin port, which needs no token: 503 while a gateway starts, stops or is drained.
local function check(premature, gateway)
    if premature then
        return
    end
    local up = not down:get(gateway.name)
    if is_ready(gateway) == up then
        gateway.streak = 0
        return
    end
    gateway.streak = gateway.streak + 1
    if gateway.streak >= (up and FALL or RISE) then
        down:set(gateway.name, up)
        gateway.streak = 0
        ngx.log(ngx.WARN, "gateway ", gateway.name, up and " is down" or " is up")
    end
end

-- In the first worker process: ask all gateways, now and every second. If it is lost, nginx starts another first one.
function gateways.start_checks()
    if ngx.worker.id() ~= 0 then
        return
    end
    for _, gateway in ipairs(list) do
        assert(ngx.timer.at(0, check, gateway))
        assert(ngx.timer.every(INTERVAL, check, gateway))
    end
end

-- The session, as for the gateway: nodeId and sessionId of the body. If it has no sessionId, or one of HLS, which all
-- viewers of a stream share, the whole body: such hooks are spread, and a repeated one goes where the first one went.
local function affinity(body)
    local hook = cjson.decode(body)
    if type(hook) ~= "table" or ngx.var.uri:find("/playHLS$") then
        return body
    end
    local session, node = hook.sessionId, hook.nodeId
    if type(session) ~= "string" or session == "" or session:find("-HLS$") then
        return body
    end
    return (type(node) == "string" and node or "") .. " " .. session
end

-- Read the hook, and put the gateways in the order in which they may get it; those that are down come last.
function gateways.rank()
    ngx.req.read_body()
    local key = affinity(ngx.req.get_body_data() or "")
    local order, scores = {}, {}
    for index, gateway in ipairs(list) do
        order[index] = gateway
        scores[gateway] = (down:get(gateway.name) and "0" or "1") .. ngx.md5_bin(gateway.name .. " " .. key)
    end
    table.sort(order, function(one, other) return scores[one] > scores[other] end)
    ngx.ctx.order = order
    ngx.ctx.tried = 0
end

-- The next gateway of that order; nginx asks again after an attempt for which proxy_next_upstream allows it.
function gateways.choose()
    local context = ngx.ctx
    if context.tried == 0 and #context.order > 1 then
        balancer.set_more_tries(#context.order - 1)
    end
    context.tried = context.tried + 1
    local gateway = context.order[context.tried]
    assert(balancer.set_current_peer(gateway.host, gateway.port))
end

-- Whether any gateway is up.
function gateways.any_up()
    for _, gateway in ipairs(list) do
        if not down:get(gateway.name) then
            return true
        end
    end
    return false
end

return gateways

"""nginx with lua-resty-redis as a peer: one worker on the server's core, with the doors of nginx_rows.lua."""

import json
import re
import shutil
from pathlib import Path

from load import post
from process import Failed, free_address, run

HERE = Path(__file__).resolve().parent
MODULES = Path("/usr/lib/nginx/modules")
# Debian's files, by the packages that they come in.
WANTED = {
    "nginx": Path("/usr/sbin/nginx"),
    "libnginx-mod-http-lua": MODULES / "ngx_http_lua_module.so",
    "lua-nginx-redis": Path("/usr/share/lua/5.1/nginx/redis.lua"),
    "lua-cjson": Path("/usr/share/lua/5.1/cjson"),
}
DOORS = ("hashes", "strings", "shared")
# cjson writes at most 14 digits of a number, where a double may have 17.
RELATIVE_ERROR_MAX = 1e-13


def missing():
    """Why there is no nginx to measure, or None."""
    lacking = [package for package, path in WANTED.items() if not path.exists()]
    return f"not installed: {', '.join(lacking)} (make setup-nginx)" if lacking else None


def version():
    if missing():
        return missing()
    packages = ["libnginx-mod-http-lua", "lua-nginx-redis", "lua-cjson"]
    of = {p: run(["dpkg-query", "-W", "-f", "${Version}", p], core=None) if shutil.which("dpkg-query") else "?" for p in packages}
    return "nginx " + ", ".join([re.search(r'nginx/(\S+)', run(["sh", "-c", "nginx -v 2>&1"], core=None))[1], *(f"{p} {v}" for p, v in of.items())])


def start(stage, redis, views, name):
    """Serves these views, a dict of names to features, from that Redis."""
    address, folder = free_address(), stage.work / f"nginx-{name}"
    folder.mkdir()
    listed = ", ".join(
        f'{{ name = "{view}", features = {{ {", ".join(json.dumps(f) for f in features)} }} }}' for view, features in views.items()
    )
    doors = "".join(f'location = /{door} {{ content_by_lua_block {{ peer.{door}() }} }}\n' for door in DOORS)
    temp = "".join(f"{what}_temp_path {folder}/{what};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    # One worker, as there is one core; without a master it is the very process that is started here.
    (folder / "nginx.conf").write_text(f"""
load_module {MODULES}/ndk_http_module.so;
load_module {MODULES}/ngx_http_lua_module.so;
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
access_log off;
{temp}client_body_buffer_size 128k;
keepalive_requests 1000000000;
keepalive_timeout 600s;
tcp_nodelay on;
lua_shared_dict rows 256m;
lua_package_path "{HERE}/?.lua;/usr/share/lua/5.1/?.lua;;";
lua_package_cpath "/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;;";
init_by_lua_block {{ peer = require "nginx_rows"; peer.configure({redis.port}, {{ {listed} }}) }}
server {{ listen {address} backlog=1024 reuseport; {doors} }}
}}
""")
    return stage.start(["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"], address)


def same_values(server, door, weir, body):
    """What is compared has the same information: each value of the gateway's reply, by row and feature."""
    ours = json.loads(post(weir, "/v1/features", body))
    columns = {column["name"].split(":")[1]: column["values"] for column in ours["features"]}
    rows = json.loads(post(server, f"/{door}", body))["rows"]
    # A row of several views comes as one object of each.
    per_item = len(rows) // ours["rows"]
    theirs = [{k: v for row in rows[n : n + per_item] for k, v in row.items()} for n in range(0, len(rows), per_item)]
    for n, row in enumerate(theirs):
        wrong = [f for f, values in columns.items() if abs(row.get(f, 1e300) - values[n]) > RELATIVE_ERROR_MAX * abs(values[n])]
        if wrong or len(row) != len(columns):
            raise Failed(f"nginx /{door}: row {n} is not the gateway's: {wrong[:3]}, {len(row)} values for {len(columns)}")

"""peers: options of other servers that are called otherwise here, or do not exist. For habits.

Room: floor 3. Called by: arguments.py, for an option that it does not know. Calls: nothing.
Made from docs/migration.toml by docs/generate.py: change it there.
"""

__all__ = ["ELSEWHERE"]

ELSEWHERE: dict[str, str] = {
    "--asgi-disconnect-grace-period": (
        "--asgi-disconnect-grace-period of gunicorn: leave it out (an application is not cancelled when its "
        "client leaves)"
    ),
    "--asgi-lifespan": "--asgi-lifespan of gunicorn is --lifespan here",
    "--asgi-loop": "--asgi-loop of gunicorn is --loop here",
    "--backpressure": (
        "--backpressure of granian is --limit-concurrency here (more are answered 503, they do not wait)"
    ),
    "--blocking-threads": "--blocking-threads of granian is --threads here (40)",
    "--blocking-threads-idle-timeout": "--blocking-threads-idle-timeout of granian: there is no such thing here",
    "--capture-output": "--capture-output of gunicorn: there is no such thing here",
    "--casefold-http-method": "--casefold-http-method of gunicorn: leave it out (never: methods are case-sensitive)",
    "--chdir": "--chdir of gunicorn is --app-dir here (where modules are looked for; the working folder stays)",
    "--control-socket": (
        "--control-socket of gunicorn is --admin here (what each worker does, probes, metrics; control is by signals)"
    ),
    "--control-socket-mode": "--control-socket-mode of gunicorn: there is no such thing here",
    "--daemon": "--daemon of gunicorn: leave it out (let systemd or a container do it)",
    "--debug": "--debug of hypercorn is --dev here",
    "--dirty-app": "--dirty-app of gunicorn: leave it out (no pool for heavy work: a queue of tasks is the place)",
    "--dirty-graceful-timeout": "--dirty-graceful-timeout of gunicorn: there is no such thing here",
    "--dirty-threads": "--dirty-threads of gunicorn: there is no such thing here",
    "--dirty-timeout": "--dirty-timeout of gunicorn: there is no such thing here",
    "--dirty-workers": "--dirty-workers of gunicorn: there is no such thing here",
    "--disable-redirect-access-to-syslog": (
        "--disable-redirect-access-to-syslog of gunicorn: leave it out (syslog is a place: --access-log-file syslog)"
    ),
    "--do-handshake-on-connect": (
        "--do-handshake-on-connect of gunicorn is --timeout-tls-handshake here (always, with a deadline)"
    ),
    "--dogstatsd-tags": "--dogstatsd-tags of gunicorn: there is no such thing here",
    "--enable-backlog-metric": (
        "--enable-backlog-metric of gunicorn is --admin here (the accept queues are among the metrics)"
    ),
    "--enable-stdio-inheritance": "--enable-stdio-inheritance of gunicorn: leave it out (always)",
    "--env": "--env of gunicorn is --env-file here (a file of them)",
    "--env-files": "--env-files of granian is --env-file here (one)",
    "--error-log": (
        "--error-log of hypercorn is --log-config here (stderr unless a file for Python's logging says otherwise)"
    ),
    "--error-logfile": (
        "--error-logfile of gunicorn is --log-config here (stderr unless a file for Python's logging says otherwise)"
    ),
    "--forwarder-headers": (
        "--forwarder-headers of gunicorn is --forwarded-fields here (x-forwarded-prefix in place of SCRIPT_NAME)"
    ),
    "--h11-max-incomplete-event-size": "--h11-max-incomplete-event-size of uvicorn is --limit-request-head here",
    "--header-map": (
        "--header-map of gunicorn: leave it out (names with an underscore are left out of the environ, as with drop)"
    ),
    "--http": "--http of uvicorn: leave it out (there is one parser)",
    "--http-parser": "--http-parser of gunicorn: leave it out (there is one)",
    "--http-protocols": "--http-protocols of gunicorn: leave it out (no HTTP/2: let the proxy speak it)",
    "--http1-buffer-size": "--http1-buffer-size of granian is --limit-request-head here",
    "--http1-header-read-timeout": (
        "--http1-header-read-timeout of granian is --timeout-header here (seconds, not milliseconds; also for "
        "a client that says nothing)"
    ),
    "--http1-keep-alive": "--http1-keep-alive of granian is --timeout-keep-alive here",
    "--http1-pipeline-flush": (
        "--http1-pipeline-flush of granian: leave it out (what one read brings is answered with one write)"
    ),
    "--http2": "--http2 of uvicorn: leave it out (no HTTP/2: let the proxy speak it)",
    "--http2-adaptive-window": "--http2-adaptive-window of granian: there is no such thing here",
    "--http2-cleartext": "--http2-cleartext of gunicorn: there is no such thing here",
    "--http2-initial-connection-window-size": (
        "--http2-initial-connection-window-size of granian: there is no such thing here"
    ),
    "--http2-initial-stream-window-size": "--http2-initial-stream-window-size of granian: there is no such thing here",
    "--http2-initial-window-size": "--http2-initial-window-size of gunicorn: there is no such thing here",
    "--http2-keep-alive-interval": "--http2-keep-alive-interval of granian: there is no such thing here",
    "--http2-keep-alive-timeout": "--http2-keep-alive-timeout of granian: there is no such thing here",
    "--http2-max-concurrent-streams": "--http2-max-concurrent-streams of gunicorn: there is no such thing here",
    "--http2-max-frame-size": "--http2-max-frame-size of gunicorn: there is no such thing here",
    "--http2-max-header-list-size": "--http2-max-header-list-size of gunicorn: there is no such thing here",
    "--http2-max-headers-size": "--http2-max-headers-size of granian: there is no such thing here",
    "--http2-max-send-buffer-size": "--http2-max-send-buffer-size of granian: there is no such thing here",
    "--initgroups": "--initgroups of gunicorn: leave it out (always)",
    "--insecure-bind": "--insecure-bind of hypercorn: leave it out (one server speaks http or https: run two)",
    "--keyfile-password": "--keyfile-password of hypercorn is --ssl-keyfile-password here",
    "--limit-request-field_size": (
        "--limit-request-field_size of gunicorn is --limit-request-head here (bounds all fields together)"
    ),
    "--log": "--log of granian is --log-level here (critical)",
    "--log-config-json": "--log-config-json of gunicorn is --log-config here (a file that ends in .json)",
    "--log-syslog": "--log-syslog of gunicorn is --access-log-file here (syslog)",
    "--log-syslog-facility": "--log-syslog-facility of gunicorn: there is no such thing here",
    "--log-syslog-prefix": "--log-syslog-prefix of gunicorn: there is no such thing here",
    "--log-syslog-to": "--log-syslog-to of gunicorn is --access-log-file here (syslog:HOST:PORT, syslog:PATH)",
    "--logger-class": "--logger-class of gunicorn is --log-config here",
    "--metrics": "--metrics of granian is --admin here (with probes on the same address)",
    "--metrics-address": "--metrics-address of granian is --admin here (HOST:PORT)",
    "--metrics-port": "--metrics-port of granian is --admin here (HOST:PORT)",
    "--metrics-scrape-interval": (
        "--metrics-scrape-interval of granian: leave it out (figures are those of the moment)"
    ),
    "--no-control-socket": "--no-control-socket of gunicorn: leave it out (off unless --admin is given)",
    "--no-sendfile": "--no-sendfile of gunicorn: leave it out (files are sent by the kernel)",
    "--paste": "--paste of gunicorn is --factory here (a function that calls paste.deploy.loadapp)",
    "--paste-global": "--paste-global of gunicorn: there is no such thing here",
    "--permit-obsolete-folding": "--permit-obsolete-folding of gunicorn: leave it out (never)",
    "--permit-unconventional-http-method": (
        "--permit-unconventional-http-method of gunicorn: leave it out (any token is a method (RFC 9110))"
    ),
    "--permit-unconventional-http-version": "--permit-unconventional-http-version of gunicorn: leave it out (never)",
    "--pid-file": "--pid-file of granian is --pid here",
    "--process-name": "--process-name of granian: there is no such thing here",
    "--protocol": "--protocol of gunicorn: leave it out (HTTP alone)",
    "--proxy-allow-from": "--proxy-allow-from of gunicorn is --forwarded-allow-ips here",
    "--pythonpath": "--pythonpath of gunicorn is --app-dir here",
    "--quic-bind": "--quic-bind of hypercorn: leave it out (no HTTP/3: let the proxy speak it)",
    "--read-timeout": "--read-timeout of hypercorn is --timeout-body or --timeout-header here (30 s and 15 s)",
    "--reload-engine": "--reload-engine of gunicorn: leave it out (watchfiles if it is installed)",
    "--reload-extra-file": "--reload-extra-file of gunicorn is --reload-include here (a pattern)",
    "--reload-ignore-dirs": "--reload-ignore-dirs of granian is --reload-exclude here",
    "--reload-ignore-paths": "--reload-ignore-paths of granian is --reload-exclude here",
    "--reload-ignore-patterns": "--reload-ignore-patterns of granian is --reload-exclude here",
    "--reload-ignore-worker-failure": (
        "--reload-ignore-worker-failure of granian: leave it out (always: the next save tries again)"
    ),
    "--reload-paths": "--reload-paths of granian is --reload-dir here",
    "--reload-tick": "--reload-tick of granian is --reload-delay here (seconds)",
    "--reset-contextvars": "--reset-contextvars of uvicorn: leave it out (each request has a context of its own)",
    "--respawn-failed-workers": "--respawn-failed-workers of granian: leave it out (always)",
    "--respawn-interval": (
        "--respawn-interval of granian: leave it out (the next worker is ready before the old one is retired)"
    ),
    "--reuse-port": (
        "--reuse-port of gunicorn: leave it out (always, for each worker slot; a second server on the port is refused)"
    ),
    "--rss-sample-interval": "--rss-sample-interval of granian: there is no such thing here",
    "--rss-samples": "--rss-samples of granian: there is no such thing here",
    "--runtime-blocking-threads": "--runtime-blocking-threads of granian: there is no such thing here",
    "--runtime-mode": "--runtime-mode of granian: there is no such thing here",
    "--runtime-threads": (
        "--runtime-threads of granian: leave it out (a worker is one event loop; more processors: more --workers)"
    ),
    "--server-name": (
        "--server-name of hypercorn: leave it out (which hosts are answered is the application's to say, or "
        "the proxy's)"
    ),
    "--spew": "--spew of gunicorn: there is no such thing here",
    "--ssl-ca": "--ssl-ca of granian is --ssl-ca-certs here",
    "--ssl-client-verify": "--ssl-client-verify of granian is --ssl-cert-reqs here (required)",
    "--ssl-crl": "--ssl-crl of granian: there is no such thing here",
    "--static-path-dir-to-file": (
        "--static-path-dir-to-file of granian is --static here (index.html of a folder is found by itself)"
    ),
    "--static-path-expires": "--static-path-expires of granian is --static-max-age here",
    "--static-path-mount": "--static-path-mount of granian is --static here (/static=./static; several may be given)",
    "--static-path-route": "--static-path-route of granian is --static here (/static=./static)",
    "--statsd-host": "--statsd-host of gunicorn is --admin here (Prometheus asks, nothing is sent)",
    "--statsd-prefix": "--statsd-prefix of gunicorn: there is no such thing here",
    "--strip-header-spaces": "--strip-header-spaces of gunicorn: leave it out (never)",
    "--suppress-ragged-eofs": "--suppress-ragged-eofs of gunicorn: there is no such thing here",
    "--task-impl": "--task-impl of granian: there is no such thing here",
    "--timeout": (
        "--timeout of gunicorn is --timeout-request or --timeout-worker-healthcheck here (two things here: a "
        "deadline for requests, which is off, and for a worker whose event loop hangs, 60 s)"
    ),
    "--url-path-prefix": "--url-path-prefix of granian is --root-path here",
    "--uwsgi-allow-from": "--uwsgi-allow-from of gunicorn: there is no such thing here",
    "--verify-mode": "--verify-mode of hypercorn is --ssl-cert-reqs here (none, optional, required)",
    "--websocket-max-message-size": "--websocket-max-message-size of gunicorn is --ws-max-size here",
    "--websocket-ping-interval": "--websocket-ping-interval of hypercorn is --ws-ping-interval here (20 s, not off)",
    "--worker-class": (
        "--worker-class of gunicorn is --interface here (found out by itself. Threads are --threads, sync is "
        "--threads 1; no gevent)"
    ),
    "--worker-connections": "--worker-connections of gunicorn is --limit-connections here",
    "--worker-tmp-dir": "--worker-tmp-dir of gunicorn: leave it out (workers are watched without files)",
    "--workers-kill-timeout": "--workers-kill-timeout of granian is --timeout-graceful-shutdown here",
    "--working-dir": (
        "--working-dir of granian is --app-dir here (where modules are looked for; the working folder stays)"
    ),
    "--ws": "--ws of uvicorn: leave it out (WebSockets are part of the server)",
}

"""A real HTTP server on loopback with the bad manners of real ones: it hangs up, forgets ranges, changes its files, asks for a login.

with serve({"/a.zip": b"…"}, cut=400) as server:
    fetch_file(f"{server.url}/a.zip", …)
    server.log  # (path, Range header, bytes of body sent) of each answer
"""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class serve:
    def __init__(self, files, cut=None, ranges=True, version="etag", length=None, status=None, slow=0.0):
        self.files, self.status = (
            dict(files),
            dict(status or {}),
        )  # path: content; path: status to answer with
        self.cut = cut  # hang up after so many bytes of each body
        self.cuts = []  # the same for the next answers, in turn; used before `cut`
        self.ranges = ranges  # False: every answer is the whole file
        self.version = version  # "etag", "weak", "date", "": how a changed file can be told; "unchecked": If-Range is ignored
        self.length = length  # a wrong Content-Length, or "" for none
        self.slow = slow  # seconds after each 100 bytes
        self.headers = {}  # path: more headers
        self.log = []

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        owner, path = self.owner, self.path.split("?")[0]
        content = owner.files.get(path)
        status = owner.status.get(path, 200 if content is not None else 404)
        asked = self.headers.get("Range") if owner.ranges else None
        if status not in (200, 206):
            self.send(status, {"Content-Length": "0", **owner.headers.get(path, {})}, b"", body)
            return
        digest = hashlib.md5(content).hexdigest()
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(int(digest[:7], 16)))
        versions = {
            "etag": {"ETag": f'"{digest}"'},
            "weak": {"ETag": f'W/"{digest}"'},
            "date": {"Last-Modified": date},
        }
        headers = dict(versions.get(owner.version, {}))
        current = set(headers.values())
        page = content[:9].lower() == b"<!doctype"
        headers["Content-Type"] = "text/html; charset=utf-8" if page else "application/octet-stream"
        condition = self.headers.get("If-Range")
        if asked and condition and owner.version != "unchecked" and condition not in current:
            asked = None  # another version: everything from the start (RFC 9110 §13.1.5)
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                self.send(
                    416,
                    headers | {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"},
                    b"",
                    body,
                )
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        if owner.length != "":
            headers["Content-Length"] = str(len(content) if owner.length is None else owner.length)
        else:
            headers["Connection"] = "close"
        self.send(status, headers | owner.headers.get(path, {}), content, body)

    def send(self, status, headers, content, body):
        owner = self.owner
        cut = owner.cuts.pop(0) if owner.cuts and body else owner.cut
        part = content if cut is None else content[:cut]
        hang_up = len(part) < len(content) or (owner.length not in (None, "") and body)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            pieces = [part[i : i + 100] for i in range(0, len(part), 100)] if owner.slow else [part]
            entry = [self.path, self.headers.get("Range"), 0]
            owner.log.append(entry)
            try:
                for piece in pieces:
                    entry[2] += len(
                        piece
                    )  # before it goes out: the client may be done before this thread goes on
                    self.wfile.write(piece)
                    time.sleep(owner.slow)
            except OSError:  # the client went away
                hang_up = True
        if hang_up or owner.length == "":
            self.close_connection = True

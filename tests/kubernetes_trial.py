"""The graph through Snakemake's Kubernetes executor, with a server on this machine that answers as Kubernetes' does.

Each pod becomes a process in an empty folder with an environment of its own: what is tried are the shipped settings, the commands
that pods run, what they hand back, and what becomes of a pod that dies. No scheduler, no network between machines, no container.
usage: .venv/bin/python tests/kubernetes_trial.py [NAME…]    default: uniqa/fig14 grmp_iqa/table7; needs the extra `cluster` and an index for pip
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from quick_profile import write_quick_profile

ROOT = Path(__file__).resolve().parent.parent
PODS, LOST = {}, []  # name of a Job -> (process, its log); those that were killed once


class Cluster(BaseHTTPRequestHandler):
    "The few calls that the executor makes; anything else is an error"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/jobs"):
            start_pod(body)
        elif not self.path.endswith("/secrets"):
            raise ValueError(f"unknown call: POST {self.path}")
        self.answer(body, 201)

    def do_GET(self):
        if found := re.search(r"/jobs/([\w-]+)/status", self.path):
            process = PODS[found[1]][0]
            state = {None: {"active": 1}, 0: {"succeeded": 1}}.get(process.poll(), {"failed": 1})
            self.answer(
                {"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": found[1]}, "status": state}
            )
        elif "/pods" in self.path:
            self.answer({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []})
        else:
            raise ValueError(f"unknown call: GET {self.path}")

    def do_DELETE(self):
        self.answer({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def answer(self, content, status=200):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def start_pod(job):
    "Run a Job's container as a process; refuse what a real cluster would"
    pod = job["spec"]["template"]["spec"]
    container, asked = pod["containers"][0], pod["containers"][0]["resources"]
    for name, count in asked["requests"].items():
        assert "/" not in name or asked.get("limits", {}).get(name) == count, f"{name} needs an equal limit"
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes == {"workdir", "iqa-repro"}
    place = Path(tempfile.mkdtemp())
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(place)}
    own |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    own |= {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "UV_", "SSL_"))}
    log = open(place / "pod.log", "w")
    command = [*container["command"], *container["args"]]
    process = subprocess.Popen(command, cwd=place, env=own, stdout=log, stderr=log, start_new_session=True)
    PODS[job["metadata"]["name"]] = process, place / "pod.log"
    if not LOST and len(PODS) > 1:  # a node that is lost: once, a moment after its start
        LOST.append(job["metadata"]["name"])
        threading.Timer(20, lambda: os.killpg(process.pid, 9)).start()


def main(names):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    work = Path(tempfile.mkdtemp())
    address = f"http://127.0.0.1:{server.server_port}"
    named = {"clusters": {"server": address}, "users": {}, "contexts": {"cluster": "trial", "user": "trial"}}
    entry = {"clusters": "cluster", "users": "user", "contexts": "context"}
    lists = {kind: [{"name": "trial", entry[kind]: content}] for kind, content in named.items()}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "trial", **lists}
    (work / "config").write_text(json.dumps(config))  # JSON is YAML too
    profile = work / "kubernetes_trial.toml"
    write_quick_profile(profile)
    command = [
        str(Path(sys.executable).with_name("iqa-repro")),
        "reproduce",
        *names,
        "--profile",
        str(profile),
    ]
    command += ["--fan-out", "--force", "--overwrite", "--engine-profile", "tools/kubernetes"]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | {"KUBECONFIG": str(work / "config")})
    ended = [process.poll() for process, _ in PODS.values()]
    print(
        f"{len(PODS)} pods: {ended.count(0)} ended well, {len(LOST)} killed on purpose, statuses {sorted(map(str, ended))}"
    )
    for name, (process, log) in PODS.items():
        if process.poll() != 0 and name not in LOST:
            print(f"--- {name}\n{log.read_text()[-2000:]}")
    if run.returncode:
        print(f"what was made is kept in {ROOT / 'paper_figures' / profile.stem}")
    else:
        shutil.rmtree(ROOT / "paper_figures" / profile.stem)
    return run.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["uniqa/fig14", "grmp_iqa/table7"]))

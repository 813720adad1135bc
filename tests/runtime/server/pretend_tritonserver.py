#!/usr/bin/env python3
"""A tritonserver that serves nothing: health, model control and a log, and the faults that a test asks for.

Its flags and what was asked of it are written to PRETEND_NOTES, one JSON line each. PRETEND names what goes
wrong: "broken" (a model does not load), "silent" (it ends without a word), "deaf" (it does not end when
told), "late" (it is never ready), or "stubs" for processes as the Python backend starts them. A POST of
anything but model control makes it crash.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FLAGS = [word[2:].partition("=")[::2] for word in sys.argv[1:]]
VALUES = dict(FLAGS)
FAULT = os.environ.get("PRETEND", "")
LOG = "I1124 14:00:00.000000 1 server.cc:1] "


def note(**facts):
    with open(os.environ["PRETEND_NOTES"], "a") as notes:
        notes.write(json.dumps(facts) + "\n")


def say(line):
    print(line, flush=True)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            threading.Event().wait(2)
        self.answer(503 if FAULT == "late" else 200, b"fine", promised=9 if self.path == "/short" else 4)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        note(path=self.path, body=json.loads(body), token=self.headers.get("icgan-control"))
        *_, model, verb = self.path.split("/")
        if verb == "load":
            words = {"icgan_none": b'{"error": "no such model"}', "icgan_odd": b" no json \n"}.get(model)
            self.answer(400 if words else 200, words or b"")
        elif verb == "unload":
            self.answer(200, b"")
            say(f"{LOG}\"successfully unloaded '{model}' version 1\"")
        else:
            say("terminate called after throwing an instance of 'std::bad_alloc'\nSignal (6) received.\n    ")
            os.kill(os.getpid(), signal.SIGABRT)

    def answer(self, status, body, promised=None):
        self.send_response(status)
        self.send_header("Content-Length", str(promised or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    note(flags=FLAGS, path=os.environ["PATH"])
    if FAULT == "silent":
        sys.exit(4)
    say(f"{LOG}started\n+-----+\n| all |\n+-----+\n")
    if FAULT == "broken":
        say('E1124 14:00:00.000000 1 server.cc:241] "CudaDriverHelper has not been initialized."')
        say("E1124 14:00:00.000000 1 model_lifecycle.cc:1] failed to load 'icgan_encoder'")
        say("E1124 14:00:00.000000 1 main.cc:1] failed to load all models")
        say(f"{LOG}goodbye")
        sys.exit(3)
    if FAULT == "stubs":
        for path in sorted(Path(VALUES["model-repository"]).glob("*/1/model.py")):
            subprocess.Popen(["tail", path, "-f"])  # waits; its second word is the file, as a stub's
    server = ThreadingHTTPServer((VALUES["http-address"], int(VALUES["http-port"])), Handler)

    def end(*_):
        note(told="to end")
        if FAULT == "deaf":
            return
        say(f"{LOG}Timeout 30: Found 0 model versions that have in-flight inferences")
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    server.serve_forever(0.01)


main()

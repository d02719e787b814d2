"""Drive Debian's Chromium through a pipe, with the DevTools protocol and nothing else."""

import json
import os
import select
import shutil
import subprocess
import time
from base64 import b64decode

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HIDDEN_BUT_SHOWN = (  # ids of elements with the attribute that a rule of the style sheet shows all the same
    "[...document.querySelectorAll('[hidden]')].filter((one) => getComputedStyle(one).display !== 'none')"
    ".map((one) => one.id)"
)


class Browser:
    """A page of a headless browser: `open`, `evaluate`, `press`, `click`, `picture`. Use it in `with`."""

    def __init__(self, folder, *, width=1300, height=1000, options=()):
        self.number, self.buffer = 0, b""
        read_end, self.to = os.pipe()
        self.source, write_end = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--mute-audio", "--remote-debugging-pipe"]
        flags += ["--no-first-run", f"--user-data-dir={folder}", *options, "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{read_end} 4>&{write_end}', CHROMIUM, *flags],
            pass_fds=(read_end, write_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_end)
        os.close(write_end)
        self.session = None
        try:
            self._attach(width, height)
        except BaseException:
            self.close()
            raise

    def _attach(self, width, height):
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        found = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = found["sessionId"]
        self.resize(width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        os.close(self.to)
        self.process.terminate()
        self.process.wait()
        os.close(self.source)

    def call(self, method, **params):
        """Send a command and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _receive(self, seconds=120):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.source], [], [], seconds)
            assert ready, "the browser does not answer"
            data = os.read(self.source, 1 << 16)
            assert data, "the browser has ended"
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def resize(self, width, height, dark=False):
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path):
        """Open a file and wait until it is loaded."""
        self.call("Page.navigate", url=path.as_uri())
        self.wait(f"location.pathname.endsWith({json.dumps(path.name)}) && document.readyState === 'complete'")

    def evaluate(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition, seconds=60):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def press(self, key, *, shift=False):
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 if shift else 0, **text)

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path):
        """Write a PNG of the page from top to bottom."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(b64decode(found["data"]))

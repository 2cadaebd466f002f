"""A headless Chromium driven through a pipe, with the standard library alone.

Rule: whatever the page writes to the console as a warning or an error, every exception and every request for anything
but the page itself is kept in `complaints`, and a test fails on the first.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60


def program() -> str | None:
    """The first Chromium on the path."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """One tab."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest, self._number = read, write, b"", 0
        self._session: str | None = None
        self._replies: dict[int, dict[str, Any]] = {}
        self._loaded = 0
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE_S
        while self._number not in self._replies:
            self._listen(end)
        reply = self._replies.pop(self._number)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return dict(reply["result"])

    def _listen(self, end: float) -> None:
        ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
        assert ready, "Chromium does not answer"
        came = os.read(self._read, 1 << 20)
        assert came, "Chromium ended"
        self._rest += came
        *whole, self._rest = self._rest.split(b"\0")
        for text in whole:
            message = json.loads(text)
            if "id" in message:
                self._replies[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, content: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Runtime.exceptionThrown":
            details = content["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
            self.complaints.append(f"console: {content['args']}")
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"log: {content['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            url = content["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.complaints.append(f"request: {url}")

    def show(self, page: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Open a page in a window of a size; wait until its script has drawn everything."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        before, end = self._loaded, time.monotonic() + PATIENCE_S
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self._loaded == before:  # what is asked until then, the page before may answer
            self._listen(end)

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key, as a person without a mouse would."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def shoot(self, file: Path, *, whole: bool = True) -> None:
        """A screenshot, of the whole page or of the window."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browser(chromium: str, profile: Path) -> Iterator[Browser]:
    """Start one with a fresh profile, and end it."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    def take() -> None:
        # It reads commands from descriptor 3 and writes answers to 4; first out of the way of both.
        one, two = os.dup(to_read), os.dup(from_write)
        high = [os.dup2(one, 30), os.dup2(two, 31)]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-extensions",
    ]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
    running = subprocess.Popen(
        [chromium, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe"],
        preexec_fn=take, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_read)
    os.close(from_write)
    try:
        yield Browser(from_read, to_write)
    finally:
        os.close(to_write)
        running.terminate()
        running.wait(30)
        os.close(from_read)

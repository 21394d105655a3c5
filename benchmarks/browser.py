"""A headless Chromium, driven over a pipe by the DevTools protocol, for tests and benchmarks.

It needs Debian's package `chromium` (or another Chromium on the path) and bash, but no Python
package.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT = 60.0  # seconds for an answer

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # which a container's root cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
)
_KEYS = {" ": ("Space", 32), "Tab": ("Tab", 9), "Enter": ("Enter", 13), "End": ("End", 35)}
_KEYS |= {"Home": ("Home", 36), "ArrowLeft": ("ArrowLeft", 37), "ArrowUp": ("ArrowUp", 38)}
_KEYS |= {"ArrowRight": ("ArrowRight", 39), "ArrowDown": ("ArrowDown", 40)}


def find_chromium() -> str | None:
    """Returns the path of a Chromium, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a Chromium, whose profile and downloads are in a folder.

    Args:
        folder: of the profile, and of `downloads`.
        width: of the page, in pixels.
        height: of the page, in pixels.
    """

    def __init__(self, folder: Path, width: int = 1280, height: int = 800) -> None:
        self.folder, self.events = folder, list[dict[str, Any]]()
        self._last, self._buffer, self._session = 0, b"", ""
        mine, theirs = os.pipe(), os.pipe()  # from the browser, to the browser
        # Numbers that are not those which the browser reads and writes.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs[0], mine[1])]
        for fd in (theirs[0], mine[1]):
            os.close(fd)
        self._read, self._write = mine[0], theirs[1]
        command = [str(find_chromium()), *_OPTIONS, f"--user-data-dir={folder / 'profile'}"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]}', *command],
            pass_fds=high,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in high:
            os.close(fd)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(folder / "downloads"),
            eventsEnabled=True,
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Returns what the browser answers; events on the way are kept."""
        self._last += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._last, "method": method, "params": params, **session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive(WAIT)
            if found is None:
                raise TimeoutError(f"{method}: no answer in {WAIT:.0f} s")
            if found.get("id") == self._last:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']['message']}")
                answer: dict[str, Any] = found["result"]
                return answer

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Gives the page another size, in pixels, and the light or the dark of the system."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: Path) -> None:
        """Opens a file, and returns when it has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            if self._receive(WAIT) is None:
                raise TimeoutError(f"{path} did not load in {WAIT:.0f} s")

    def evaluate(self, script: str) -> Any:
        """Returns what an expression of JavaScript gives; waits for promises."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Returns when an expression of JavaScript is true."""
        end = time.monotonic() + WAIT
        while not self.evaluate(script):
            if time.monotonic() > end:
                raise TimeoutError(f"not true in {WAIT:.0f} s: {script}")
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Presses a key and lets it go."""
        code, number = _KEYS[key]
        text = {"text": key} if key == " " else {}
        given = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", **given, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def click(self, selector: str) -> None:
        """Clicks with the mouse on the middle of what a CSS selector finds first."""
        x, y = self.evaluate(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)});"
            "found.scrollIntoView({block: 'center'}); const box = found.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def downloaded(self, name: str) -> Path:
        """Returns the path of a file that is being downloaded, when it is whole."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            for event in self.events:
                if event["params"].get("state") == "completed":  # Browser.downloadProgress
                    self.events.remove(event)
                    return self.folder / "downloads" / name
            self._receive(0.1)
        raise TimeoutError(f"{name} was not downloaded in {WAIT:.0f} s")

    def screenshot(self, path: Path) -> None:
        """Writes what can be seen, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """Returns the next message, and keeps it if it is an event; None if there is none."""
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], seconds)[0]:
                return None
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("the browser has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        if "method" in found:
            self.events.append(found)
        return found

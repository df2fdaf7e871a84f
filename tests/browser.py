"""A headless Chromium for tests of pages, driven by its DevTools protocol over a pipe.

Scripts are evaluated from outside, as by a debugger: the policy of a page stays as it was shipped.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
SECONDS = 120  # for an answer, on a machine that is busy
# Chromium reads its commands from descriptor 3 and writes to 4
START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)

# texts that are seen, each with the contrast of its color to the page behind it (WCAG 2, 1.4.3); what lies on a colored
# shape of a drawing is left out
CONTRASTS = """(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => numbers(color).slice(0, 3)
    .map((one) => one / 255).map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (one) => {
    while (one && numbers(getComputedStyle(one).backgroundColor)[3] === 0) one = one.parentElement;
    return one ? getComputedStyle(one).backgroundColor : "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body, body *")]
    .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .filter((one) => !one.closest("svg title, script, style, .cell, .share") && one.checkVisibility())
    .map((one) => {
      const drawn = one.closest("svg"), style = getComputedStyle(one);
      const [a, b] = [drawn ? style.fill : style.color, behind(drawn ?? one)].map(light);
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.outerHTML.slice(0, 120)];
    });
})()"""
# once it has stopped moving: what is loaded above it pushes it down
MIDDLE = """new Promise((done) => {
  const one = document.querySelector(SELECTOR);
  let before = [];
  const look = () => {
    one.scrollIntoView({block: "center", behavior: "instant"});
    const box = one.getBoundingClientRect(), now = [box.x + box.width / 2, box.y + box.height / 2];
    if (now.every((place, axis) => place === before[axis])) return done(now);
    before = now;
    setTimeout(look, 20);
  };
  look();
})"""


class Browser:
    """One process, with a tab for each page that is opened."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers  # file descriptors
        self._asked, self._left = 0, b""
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it are kept."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": params}
        os.write(self._commands, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._asked:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Wait for an event with these parameters, or take it from those that came."""
        place = 0
        while True:
            if place == len(self.events):
                self.events.append(self._next())
            event = self.events[place]
            same = params.items() <= event.get("params", {}).items()
            if event["method"] == method and event.get("sessionId") == session and same:
                found: dict[str, Any] = event["params"]
                return found
            place += 1

    @contextmanager
    def saving(self, folder: Path) -> Iterator[None]:
        """What a page saves inside lies in this folder afterwards."""
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), eventsEnabled=True)
        event = "Browser.downloadProgress"
        self.events = [one for one in self.events if one["method"] != event]  # what was saved before
        yield
        self.wait(event, state="completed")

    def open(self, page: Path, width: int = 1400) -> Tab:
        """A page in a window of this width."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        tab = Tab(self, self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for part in ("Page", "Runtime", "Log"):
            tab.ask(f"{part}.enable")
        tab.ask("Page.setLifecycleEventsEnabled", enabled=True)
        tab.ask("Emulation.setFocusEmulationEnabled", enabled=True)
        tab.resize(width)
        loader = tab.ask("Page.navigate", url=page.as_uri())["loaderId"]
        self.wait("Page.lifecycleEvent", tab.session, loaderId=loader, name="load")
        return tab

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._answers], [], [], max(end - time.monotonic(), 0))
            assert ready, "chromium does not answer"
            came = os.read(self._answers, 1 << 20)
            assert came, "chromium has ended"
            self._left += came
        message, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


class Tab:
    """A page in the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.ask(method, self.session, **params)

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, which can be written as JSON; promises are waited for."""
        params = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self.ask("Runtime.evaluate", expression=script, **params)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def resize(self, width: int, height: int = 900) -> None:
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name: str) -> None:
        """The colors that the reader prefers: ``light`` or ``dark``."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of an element, wherever the page has to be scrolled for it."""
        x, y = self.evaluate(MIDDLE.replace("SELECTOR", json.dumps(selector)))
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Text into what has the focus."""
        self.ask("Input.insertText", text=text)

    def faint(self, contrast: float = 4.5) -> list[str]:
        """Texts with less than this contrast to the page, which WCAG 2 requires."""
        found = self.evaluate(CONTRASTS)
        assert len(found) > 10
        return [f"{ratio:.2f} {text}" for ratio, text in found if ratio < contrast]

    def press(self, key: str) -> None:
        """A key, where the focus is."""
        code = {"Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}.get(key, ord(key[0]))
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def printed(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self.ask("Page.printToPDF")["data"])

    @property
    def problems(self) -> list[str]:
        """Errors in the page: violations of its policy, errors, exceptions, dialogs."""
        self.evaluate("new Promise((done) => setTimeout(done))")  # what was reported until now has come
        said = []
        for event in self.browser.events:
            params = event.get("params", {})
            if event.get("sessionId") != self.session:
                continue
            match event["method"]:
                case "Log.entryAdded" if params["entry"]["level"] in ("warning", "error"):
                    said.append(params["entry"]["text"])
                case "Runtime.exceptionThrown" | "Page.javascriptDialogOpening":
                    said.append(json.dumps(params))
                case "Runtime.consoleAPICalled" if params["type"] in ("warning", "error", "assert"):
                    said.append(json.dumps(params["args"]))
        return said


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A running browser, with its profile in a folder of its own."""
    assert CHROMIUM is not None
    pipes = [os.pipe(), os.pipe()]
    # above 4, so that the launcher overwrites none of them
    (child_in, commands), (answers, child_out) = (
        [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipe] for pipe in pipes
    )
    for end in (end for pipe in pipes for end in pipe):
        os.close(end)
    process = subprocess.Popen(
        [
            sys.executable,
            "-S",
            "-c",
            START,
            str(child_in),
            str(child_out),
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={profile}",
        ],
        pass_fds=(child_in, child_out),
        stderr=subprocess.DEVNULL,
    )
    os.close(child_in)
    os.close(child_out)
    browser = Browser(commands, answers)
    try:
        yield browser
        browser.ask("Browser.close")
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(commands)
        os.close(answers)

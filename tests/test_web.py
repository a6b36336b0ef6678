"""`make web`: a server and its page from one command."""

import re
import signal
import subprocess
import sys
import threading

import pytest
from processes import Family
from serving_demo import ROOT, publish

from tfpipe.core.errors import UserError
from tools import demo, web

httpx = pytest.importorskip("httpx")


@pytest.mark.slow
def test_one_command_shows_a_model_and_ctrl_c_ends_all(tmp_path):
    publish(tmp_path / "pets", 3)
    family = Family()
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.web", f"--export={tmp_path / 'pets'}", "--port=0"],
        cwd=ROOT, env=family.environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    stop = threading.Timer(60, process.kill)
    stop.start()
    try:
        said = ""
        for line in process.stderr:
            said += line
            if "Ctrl-C" in line:
                break
        url = re.search(r"^the page for pets is at (\S+)$", said, re.M)[1]
        assert "<b>pets</b>" in httpx.get(url).text
        assert httpx.get(f"{url}/healthz").json()["version"] == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
        assert family.wait_for_end()
    finally:
        stop.cancel()
        process.kill()
        process.communicate()


def test_the_demo_is_made_if_there_is_none(tmp_path, monkeypatch):
    made = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "run", lambda *arguments: made.append(arguments))
    with pytest.raises(UserError, match=f"--export={demo.EXPORT} holds no version"):
        web.main(web.Options())  # as nothing was made
    assert made == [("tools/demo.py",)]

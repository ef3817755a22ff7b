"""A JupyterLab for the tests: it serves a copy of the course on 127.0.0.1, with settings of its own, and is gone afterwards."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import nbformat

ROOT = Path(__file__).parents[2]
COPIED = ("helpers", "data", "notebooks")
UNWANTED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.pyc")
STARTING = 120  # seconds until the server must answer
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is on the page, the ones out of sight too
}


@dataclass(frozen=True)
class Lab:
    """A running server: its address, its token, its process, and the folder of the course that it serves."""

    url: str
    token: str
    pid: int
    course: Path

    def ask(self, method: str, path: str) -> bytes:
        """What the server answers to a call of its interface, such as ``GET`` ``api/kernels``."""
        call = Request(f"{self.url}/{path}", method=method, headers={"Authorization": f"token {self.token}"})
        with urlopen(call, timeout=30) as answer:
            return answer.read()

    def stop_kernels(self) -> None:
        """Ends every kernel, so that one notebook's memory is free before the next one starts."""
        for kernel in json.loads(self.ask("GET", "api/kernels")):
            self.ask("DELETE", f"api/kernels/{kernel['id']}")


def copy_course(folder: Path) -> Path:
    """Copies all that notebooks need to ``folder``; the notebooks come without their outputs, so that whatever is seen is new."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=UNWANTED)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path in (folder / "notebooks").rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    return folder


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def surroundings(home: Path, token: str) -> dict[str, str]:
    """The environment of the server: offline, and everything that Jupyter reads or writes of its own lies under ``home``."""
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    own = {variable: str(home / folder) for variable, folder in folders.items()}
    return os.environ | own | {"JUPYTER_TOKEN": token, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def command(port: int, course: Path) -> list[str]:
    """The command line of a JupyterLab that opens no window and looks for no news, updates or extensions."""
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": course,
        "LabApp.expose_app_in_browser": True,  # the page then knows when the kernel has answered
        "LabApp.extension_manager": "readonly",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *flags]


def wait_until_it_answers(lab: Lab, process: subprocess.Popen, log: Path) -> None:
    """Returns once the server answers. Raises RuntimeError with the end of its log where it does not."""
    end = time.monotonic() + STARTING
    while process.poll() is None and time.monotonic() < end:
        try:
            lab.ask("GET", "api/status")
            return
        except (URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start within {STARTING} s. The end of its log:\n{log.read_text(errors='replace')[-2000:]}")


def stop(process: subprocess.Popen) -> None:
    """Asks the server to end, with its kernels; ends it where it does not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=20)


@contextmanager
def serve(folder: Path) -> Iterator[Lab]:
    """Copies the course into ``folder`` and serves the copy until the block ends."""
    course, log = copy_course(folder / "course"), folder / "lab.log"
    token, port = secrets.token_hex(16), free_port()
    with log.open("w") as stream:
        process = subprocess.Popen(
            command(port, course), env=surroundings(folder / "jupyter", token), cwd=course, stdout=stream, stderr=stream
        )
    lab = Lab(f"http://127.0.0.1:{port}", token, process.pid, course)
    try:
        wait_until_it_answers(lab, process, log)
        yield lab
        lab.stop_kernels()
    finally:
        stop(process)

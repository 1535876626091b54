"""Kubernetes without a cluster: an API server of the test's own records what is asked, and pods' first processes run here."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from launch.job import Job, JobFolder
from launch.local import free_port
from launch.manifests import LARGEST_OBJECT
from launch.packing import pack_code
from launch.registry import find_job
from rwtrain.cli import main
from tests.launch.test_slurm import job_file

pytest.importorskip("kubernetes")
ROOT = Path(__file__).parents[2]
DESCRIPTION = {"id": "id", "backend": "k8s", "site": {}, "argv": ["x"], "output": "/o", "data": [], "python": "python"}


class Server(ThreadingHTTPServer):
    """Objects by path, as an API server keeps them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, dict] = {}
        self.asked: list[tuple[str, str]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = f"{self.path.partition('?')[0]}/{body['metadata']['name']}"
        if path in self.server.objects:
            return self._answer("POST", 409, {"kind": "Status", "message": "already exists"})
        self.server.objects[path] = body
        return self._answer("POST", 201, body)

    def do_GET(self) -> None:
        if self.path.partition("?")[0].endswith("/pods"):
            label = {"batch.kubernetes.io/job-completion-index": "1"}
            pods = [{"metadata": {"name": "other"}}, {"metadata": {"name": "second", "labels": label}}]
            return self._answer("GET", 200, {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods})
        if self.path.partition("?")[0].endswith("/second/log"):
            return self._answer("GET", 200, {"said": "by the second pod"})
        found = self.server.objects.get(self.path.partition("?")[0])
        return self._answer("GET", 200 if found else 404, found or {"kind": "Status", "message": "not found"})

    def do_DELETE(self) -> None:
        found = self.server.objects.pop(self.path.partition("?")[0], None)
        self._answer("DELETE", 200 if found else 404, {"kind": "Status"})

    def _answer(self, verb: str, status: int, value: dict) -> None:
        self.server.asked.append((verb, self.path))
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        yield running
        running.shutdown()


@pytest.mark.parametrize(
    ("form", "kinds"),
    [("jobset", ["JobSet"]), ("trainjob", ["TrainingRuntime", "TrainJob"]), ("pytorchjob", ["PyTorchJob"]), ("tasks", ["Job"])],
)
def test_a_job_is_created_watched_and_deleted(form: str, kinds: list[str], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"array": 4} if form == "tasks" else {"nodes": 2}
    job = job_file(tmp_path / "job.yaml", name="On Pods!", command=["rwtrain", "--version"], image="registry/x:1", **values)
    flags = ["--site-set", f"mounts=[{{source: 'pvc:scratch', target: {tmp_path}}}]", "--site-set", "kubernetes.namespace=lab", "--parsable"]
    flags += [] if form == "tasks" else ["--site-set", f"kubernetes.format={form}"]
    assert main(["launch", "k8s", str(job), *flags]) == 0
    number = capsys.readouterr().out.strip()
    assert number.startswith("on-pods-")
    assert [value["kind"] for value in server.objects.values()] == ["Secret", "ConfigMap", *kinds]
    assert all("/namespaces/lab/" in path for path in server.objects)
    folder = find_job(number)
    secret, description, *_ = server.objects.values()
    assert secret["stringData"]["token"] == folder.token
    assert folder.token not in (folder.path / "manifest.yaml").read_text()
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(description["binaryData"]["code.tar.gz"]))) as archive:
        assert {"rwtrain/cli.py", "launch/pod.py", "launch/templates/job.sbatch", "ds_configs/zero3.json"} <= set(archive.getnames())
    path = [path for path in server.objects if path.endswith(f"s/{number}")][-1]
    for conditions, state in (([], "PENDING"), ([{"type": "Failed", "status": "True"}], "FAILED"), ([{"type": "Completed", "status": "True"}], "COMPLETED")):
        server.objects[path]["status"] = {"conditions": conditions} if conditions else {}
        assert main(["launch", "status", number, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["state"] == state
    assert main(["launch", "logs", number, "--node", "1"]) == 0
    assert "by the second pod" in capsys.readouterr().out
    assert main(["launch", "resubmit", number]) == 0, "what the first submission left is not in the way"
    assert "status" not in server.objects[path]
    assert main(["launch", "cancel", number]) == 0
    assert server.objects == {}


def test_what_cannot_work_is_said_before(tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_file(tmp_path / "job.yaml", name="x", command=["x"], snapshot=False)
    assert main(["launch", "k8s", str(job), "--dry-run"]) == 2
    assert "pods need a container image" in capsys.readouterr().err
    assert main(["launch", "k8s", str(job), "--dry-run", "--job", "image=i"]) == 2
    assert "no volume holds" in capsys.readouterr().err
    monkeypatch.setenv("TOKEN", "hunter2hunter2")
    assert main(["launch", "k8s", str(job), "--dry-run", "--job", "image=i", "--job", "secrets.TOKEN=env:TOKEN"]) == 2
    assert "pods take secrets from the cluster" in capsys.readouterr().err
    assert main(["launch", "k8s", str(job), "--dry-run", "--job", "image=i", "--site-set", "mounts=[{source: somewhere, target: /}]"]) == 2
    assert "means nothing to Kubernetes" in capsys.readouterr().err


def test_code_too_large_for_a_config_map_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/weights.bin").write_bytes(os.urandom(1_100_000))  # random bytes cannot be packed
    (tmp_path / "mine/small.py").write_text("pass\n")
    job = job_file(tmp_path / "job.yaml", name="x", command=["x"], image="i", snapshot=False, code=["mine"])
    assert main(["launch", "k8s", str(job), "--dry-run", "--site-set", f"mounts=[{{source: 'pvc:scratch', target: {tmp_path}}}]"]) == 2
    error = capsys.readouterr().err
    assert "Largest files: mine/weights.bin (1,100,000), mine/small.py (5)" in error
    assert "build the code into the image" in error


IMPORT_ALL = """
import importlib, pathlib, sys
OURS = ("rwtrain", "data_prep", "launch", "ds_configs")
root = pathlib.Path(sys.argv[1])
for path in sorted(root.rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    try:
        importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    except ModuleNotFoundError as error:  # of an extra that is not installed
        if error.name.split(".")[0] in OURS:
            raise
ours = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in OURS}
print([name for name, file in ours.items() if not file.startswith(str(root))])
"""


def test_a_trainings_archive_holds_what_it_imports_and_little_else(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").write_text("def use():\n    from rwtrain.evaluate import similarity\n")
    job = Job.model_validate(DESCRIPTION | {"folder": str(tmp_path), "spec": {"train": "train.yaml", "code": ["mine"]}})
    packed = pack_code(job)
    assert packed == pack_code(job)
    assert len(packed) < 300_000
    code = tmp_path / "code"
    code.mkdir()
    subprocess.run(["tar", "-xz", "-C", code], input=packed, check=True)
    names = {path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file()}
    assert {"rwtrain/train/loop.py", "rwtrain/evaluate/similarity.py", "launch/bandwidth.py", "mine/__init__.py", "ds_configs/zero3.json"} <= names
    assert not any(name.startswith(("data_prep/", "rwtrain/apps/", "rwtrain/finetune/")) for name in names)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(code)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(code)}, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout[-500:] + done.stderr[-2000:]


def test_the_whole_project_fits_into_a_config_map(tmp_path: Path) -> None:
    job = Job.model_validate(DESCRIPTION | {"folder": str(tmp_path), "spec": {"command": ["program"]}})
    assert len(pack_code(job)) < LARGEST_OBJECT * 0.9


def pods(folder: Path, description: Path, count: int, port: int, attempt: int) -> tuple[list[int], str]:
    """Exit statuses of a JobSet's pods, and what they printed."""
    environment = os.environ | {"RWTRAIN_HUB": f"127.0.0.1:{port}", "RWTRAIN_ATTEMPT": str(attempt), "RWTRAIN_TOKEN": "t0ken", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "launch.pod", str(folder), "--description", str(description)]
    started = [
        subprocess.Popen(command, env=environment | {"JOB_COMPLETION_INDEX": str(node)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for node in range(count)
    ]
    printed = [process.communicate(timeout=100)[0] for process in started]
    return [process.returncode for process in started], "".join(printed)


def test_pods_find_each_other_and_a_crash_loop_ends_with_a_status_that_is_not_restarted(tmp_path: Path) -> None:
    description, folder = tmp_path / "etc", tmp_path / "volume/launch/id"
    description.mkdir()
    code = "import os, sys; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], flush=True); sys.exit(os.path.exists('broken'))"
    values = {
        "id": "id",
        "backend": "k8s",
        "spec": {
            "command": ["x"],
            "nodes": 2,
            "preflight": {"min_free_gb": 0.1, "min_write_mb_s": 0.1},
            "supervision": {"crash_loop": 2, "backoff_s": 0, "kill_after_s": 1},
        },
        "site": {},
        "argv": [sys.executable, "-c", code],
        "folder": str(tmp_path),
        "output": str(tmp_path / "volume"),
        "data": [],
        "python": sys.executable,
    }
    (description / "job.json").write_text(json.dumps(values))
    codes, printed = pods(folder, description, 2, free_port(), 0)
    assert codes == [0, 0], printed
    assert "rank 0 of 2" in printed
    assert "rank 1 of 2" in (folder / "attempts/0000/node-1.log").read_text()
    (tmp_path / "broken").touch()
    assert pods(folder, description, 2, free_port(), 1)[0] == [1, 1]
    codes, printed = pods(folder, description, 2, free_port(), 2)
    assert codes[0] == 90, "node 0's status is in the pod failure policy"
    assert "a crash loop" in printed
    again = subprocess.run(
        [sys.executable, "-m", "launch.pod", str(folder), "--description", str(description)],
        env=os.environ | {"JOB_COMPLETION_INDEX": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert again.returncode == 90
    assert [event["outcome"] for event in JobFolder(folder).events() if event["event"] == "outcome"] == ["done", "failed", "failed"]

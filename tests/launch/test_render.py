"""What is submitted, rendered without a cluster: goldens for 1 and 512 nodes, hostile texts in every field, secrets nowhere."""

from __future__ import annotations

import difflib
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from launch import manifests as rendering
from launch.hostfile import HOST
from launch.job import Job, JobFolder
from launch.kubernetes import to_yaml
from launch.manifests import manifests
from launch.prepare import prepare
from launch.site import Site, SshSite
from launch.slurm import job_script, srun_command
from launch.spec import JobSpec
from launch.ssh import ssh_command
from launch.start import node_command
from rwtrain.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden" / "launch"
ROOT = Path(__file__).parents[2]
SITE = {
    "python": "/opt/rwtrain/bin/python",
    "modules": ["cuda/13.0"],
    "environment": {"NCCL_SOCKET_IFNAME": "ib0"},
    "mounts": [{"source": "pvc:scratch", "target": "/scratch"}, {"source": "csi:s3.csi.aws.com:bucketName=corpus", "target": "/data", "read_only": True}],
    "slurm": {"partition": "train", "account": "lab", "gres": "gpu:h100", "options": ["--comment=rwtrain"]},
    "kubernetes": {
        "namespace": "research",
        "queue": "gpus",
        "priority_class": "high",
        "node_selector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "resources": {"vpc.amazonaws.com/efa": "32"},
        "capabilities": ["IPC_LOCK"],
        "annotations": {"k8s.v1.cni.cncf.io/networks": "rdma-net"},
        "image_pull_secrets": ["registry"],
        "service_account": "trainer",
        "ttl_s": 86400,
    },
}
NODES = (1, 512)


def fixed(job: Job, folder: JobFolder) -> tuple[Job, JobFolder]:
    """The job with an id that does not change."""
    identifier = "20260101-000000-golden-0000"
    path = folder.path.with_name(identifier)
    return Job.model_validate(job.model_dump() | {"id": identifier}), JobFolder(path)


def rendered(kind: str, nodes: int, monkeypatch: pytest.MonkeyPatch) -> str:
    backend, _, form = kind.partition("-")
    site = Site.model_validate(SITE | {"kubernetes": SITE["kubernetes"] | ({"format": form} if form in ("jobset", "trainjob", "pytorchjob") else {})})
    values = {"name": "golden", "command": ["rwtrain", "export", "runs/x"], "nodes": nodes, "gpus_per_node": 8, "cpus_per_process": 12, "memory_gb": 1900}
    values |= {"time_limit": "1-00:00:00", "folder": "/scratch/project", "image": "registry.example.org/rwtrain:1" if backend == "k8s" else None}
    if form == "tasks":
        values |= {"array": nodes, "nodes": 1, "gpus_per_node": 0}
    job, folder = fixed(*prepare(JobSpec.model_validate(values), site, backend=backend)[:2])
    if backend == "k8s":
        monkeypatch.setattr(rendering, "pack_code", lambda job: b"code")
        return to_yaml(manifests(job, folder, config=None))
    if backend == "ssh":
        command = node_command(job, folder, "--node", str(nodes - 1))
        return shlex.join(ssh_command(site.ssh, f"host{nodes - 1}", command)) + "\n"
    return job_script(job, folder) + "# " + shlex.join(srun_command(job, folder)) + "\n"


KINDS = ["slurm-job", "slurm-tasks", "ssh", "k8s-jobset", "k8s-trainjob", "k8s-pytorchjob", "k8s-tasks"]


@pytest.mark.parametrize("kind", KINDS)
def test_rendering_is_as_agreed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {nodes: rendered(kind, nodes, monkeypatch) for nodes in NODES}
    for nodes, text in texts.items():
        file = GOLDEN / f"{kind}-{nodes}.txt"
        if os.environ.get("RWTRAIN_WRITE_GOLDENS"):
            GOLDEN.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        assert text == file.read_text()


# What may differ between 1 and 512 nodes: counts of nodes, and the workers of a PyTorchJob.
COUNTS = (
    "--nodes=",
    "--ntasks=",
    "--array=0-",
    "completions:",
    "parallelism:",
    "numNodes:",
    '"nodes": ',
    '"array": ',
    "replicas: ",
    "--node 0",
    "--node 511",
    "host0",
    "host511",
)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "k8s-pytorchjob"])
def test_the_number_of_nodes_changes_nothing_but_counts(kind: str) -> None:
    one, many = ((GOLDEN / f"{kind}-{nodes}.txt").read_text().splitlines() for nodes in NODES)
    changed = [line for line in difflib.ndiff(one, many) if line[:1] in "+-"]
    assert changed
    for line in changed:
        assert any(word in line for word in COUNTS), line
    assert len(one) == len(many)


def test_a_pytorchjob_of_many_nodes_has_workers_like_its_master() -> None:
    one, many = (list(yaml.safe_load_all((GOLDEN / f"k8s-pytorchjob-{nodes}.txt").read_text()))[-1]["spec"]["pytorchReplicaSpecs"] for nodes in NODES)
    assert set(one) == {"Master"}
    assert many["Master"] == one["Master"]
    assert many["Worker"] == one["Master"] | {"replicas": 511}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("slurm")])
def test_scripts_are_valid_shell(kind: str) -> None:
    for nodes in NODES:
        subprocess.run(["bash", "-n"], input=(GOLDEN / f"{kind}-{nodes}.txt").read_text(), text=True, check=True)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("k8s")])
def test_manifests_satisfy_kubernetes_schemas(kind: str) -> None:
    """kubernetes-validate knows the core types; the pods inside custom objects are validated as pods."""
    validate = pytest.importorskip("kubernetes_validate")
    for nodes in NODES:
        for value in yaml.safe_load_all((GOLDEN / f"{kind}-{nodes}.txt").read_text()):
            if value["kind"] in ("ConfigMap", "Job"):
                validate.validate(value, "1.34", strict=True)
            for pod in rendering.pod_templates(value):
                validate.validate({"apiVersion": "v1", "kind": "Pod", **pod, "metadata": pod["metadata"] | {"name": "x"}}, "1.34", strict=True)
            for template in value.get("spec", {}).get("replicatedJobs", []):
                validate.validate(
                    {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": template["template"]["spec"]}, "1.34", strict=True
                )


def test_a_pytorchjob_has_only_the_fields_of_its_operator() -> None:
    """Names as in kubeflow-training 1.9.4's models, which need another version of the client."""
    value = list(yaml.safe_load_all((GOLDEN / "k8s-pytorchjob-512.txt").read_text()))[-1]
    assert set(value["spec"]) <= {"elasticPolicy", "nprocPerNode", "pytorchReplicaSpecs", "runPolicy"}
    assert isinstance(value["spec"]["nprocPerNode"], str)
    policy = {"activeDeadlineSeconds", "backoffLimit", "cleanPodPolicy", "managedBy", "schedulingPolicy", "suspend", "ttlSecondsAfterFinished"}
    assert set(value["spec"]["runPolicy"]) <= policy
    for replica in value["spec"]["pytorchReplicaSpecs"].values():
        assert set(replica) == {"replicas", "restartPolicy", "template"}


@pytest.mark.parametrize("change", [{"tolerations": [{"kee": "x"}]}, {"tolerations": [{"key": 3}]}])
def test_what_kubernetes_does_not_know_is_refused(change: dict) -> None:
    site = Site.model_validate({"kubernetes": change, "mounts": [{"source": "pvc:a", "target": "/s"}]})
    job, folder, _ = prepare(JobSpec(command=["x"], image="i", folder="/s", snapshot=False), site, backend="k8s")
    with pytest.raises(ConfigError, match="Kubernetes"):
        manifests(job, folder, config=None)


NASTY = [
    "a b",
    "it's",
    'say "x"',
    "$(touch PWNED)",
    "`touch PWNED`",
    "; touch PWNED",
    "\ntouch PWNED\n",
    "&& touch PWNED",
    "| touch PWNED",
    "*",
    "~",
    "-rf",
    "{x}",
    "%j",
    "#SBATCH",
    "日本語 ñ",
    "\\",
    "$HOME",
    "${IFS}",
    "!x",
    "> PWNED",
    "'; touch PWNED; '",
]
TEXT = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=20),
    st.lists(st.sampled_from(NASTY), min_size=1, max_size=3).map("".join),
)
NAME = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True).map(lambda name: f"X{name}")
SPECS = st.fixed_dictionaries(
    {"name": TEXT, "command": st.lists(TEXT, min_size=1, max_size=4), "environment": st.dictionaries(NAME, TEXT, max_size=2)},
    optional={"output": TEXT, "data": st.lists(TEXT, max_size=2), "python": TEXT, "image": TEXT, "nodes": st.integers(1, 3)},
)
HARMLESS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def recorder(folder: Path) -> Path:
    """A folder of programs that note their arguments and do nothing else: what a script starts can be seen."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    record = programs / "record"
    record.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done > "$RECORD"\n')
    record.chmod(0o755)
    return record


@HARMLESS
@given(values=SPECS)
def test_nothing_in_a_description_runs_in_slurms_script(values: dict, tmp_path: Path) -> None:
    record = recorder(tmp_path)
    root = tmp_path / "a 'folder' $(touch PWNED)\n"
    spec = JobSpec.model_validate(values | {"folder": str(root), "python": str(record), "image": None})
    job, folder, _ = prepare(spec, Site(), backend="slurm")
    folder.path.mkdir(parents=True, exist_ok=True)
    script = job_script(job, folder)
    options = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert all(set(line) <= set("#SBATCH abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-=.,_:@%") for line in options), options
    assert len(options) == script.split("\n# The batch step")[0].count("\n"), "nothing but options stands at the top"
    noted = tmp_path / "noted"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "RECORD": str(noted)}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert noted.read_bytes().split(b"\0")[:-1] == [b"-m", b"launch.slurm_job", str(folder.path).encode()]
    assert not list(tmp_path.rglob("PWNED"))


@HARMLESS
@given(values=SPECS, host=st.from_regex(HOST, fullmatch=True), user=TEXT)
def test_nothing_in_a_description_runs_over_ssh(values: dict, host: str, user: str, tmp_path: Path) -> None:
    """The remote shell splits ssh's last argument into exactly the words that were meant."""
    spec = JobSpec.model_validate(values | {"folder": str(tmp_path), "image": None})
    job, folder, _ = prepare(spec, Site(), backend="ssh")
    meant = node_command(job, folder, "--node", "0")
    line = ssh_command(SshSite(user=user), host, meant)
    assert line[line.index("--") + 1 :][0] == host
    assert not host.startswith("-")
    (remote,) = line[line.index("--") + 2 :]
    noted = tmp_path / "noted"
    record = recorder(tmp_path)
    shown = remote.replace("exec ", f"exec {shlex.quote(str(record))} ", 1)
    subprocess.run(["sh", "-c", shown], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "RECORD": str(noted)}, check=True)
    assert noted.read_bytes().split(b"\0")[:-1] == [word.encode() for word in meant]
    assert not list(tmp_path.rglob("PWNED"))


@settings(max_examples=25, deadline=None)
@example(values={"name": "a b", "command": ["\x85\u2028\u2029\n"], "environment": {}})
@given(values=SPECS)
def test_manifests_keep_every_text_as_it_is(values: dict) -> None:
    """YAML gives back what went in, and Kubernetes' $(VARIABLE) replacement has nothing to replace."""
    site = Site.model_validate({"mounts": [{"source": "pvc:a", "target": "/s"}]})
    spec = JobSpec.model_validate({"image": "i", **values, "folder": "/s", "snapshot": False, "output": "/s/" + values.get("output", "o").replace("..", "")})
    try:
        job, folder, _ = prepare(spec, site, backend="k8s")
        text = to_yaml(manifests(job, folder, config=None))
    except ConfigError:
        return
    first, second = yaml.safe_load_all(text)
    assert JobSpec.model_validate(Job.model_validate_json(first["data"]["job.json"]).spec.model_dump()) == spec
    (pod,) = rendering.pod_templates(second)
    words = pod["spec"]["containers"][0]["command"]
    assert expanded(words[3]) == str(folder.path)
    assert expanded(words[0]) == job.python


def expanded(text: str) -> str:
    """What the kubelet makes of a word, after third_party/forked/golang/expansion/expand.go: $$ is $, $(NAME) a variable, other $ stay."""
    result, position = "", 0
    while position < len(text):
        if text[position] == "$" and position + 1 < len(text):
            follower = text[position + 1]
            assert follower != "(", "a variable would be replaced"
            result += "$" if follower == "$" else "$" + follower
            position += 2
        else:
            result += text[position]
            position += 1
    return result


@pytest.mark.parametrize("word", ["a b", "x\ny", "$(x)", "`x`", "'", ";"])
def test_words_that_options_of_slurm_cannot_carry_are_refused(word: str) -> None:
    for field in ("partition", "account", "qos", "constraint", "reservation", "gres"):
        with pytest.raises(ValidationError, match="cannot carry safely"):
            Site.model_validate({"slurm": {field: word}})
    with pytest.raises(ValidationError, match="cannot carry safely"):
        Site.model_validate({"modules": [word]})


def test_a_secret_given_instead_of_a_reference_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({"command": ["x"], "secrets": {"TOKEN": "hunter2hunter2"}})
    (problem,) = caught.value.errors()
    assert "hunter2" not in problem["msg"]
    assert "not the secret itself" in problem["msg"]


@pytest.mark.parametrize("kind", ["slurm", "k8s", "ssh"])
def test_secrets_stand_in_no_rendered_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2hunter2")
    reference = "kubernetes:wandb/key" if kind == "k8s" else "env:MY_TOKEN"
    site = Site.model_validate({"mounts": [{"source": "pvc:a", "target": str(tmp_path)}]})
    job, folder, _ = prepare(JobSpec(command=["x"], image="i", folder=str(tmp_path), secrets={"TOKEN": reference}, snapshot=False), site, backend=kind)
    folder.create(job)
    text = (folder.path / "job.json").read_text()
    if kind == "k8s":
        text += to_yaml(manifests(job, folder, config=None))
        assert "secretKeyRef" in text
    elif kind == "slurm":
        text += job_script(job, folder) + shlex.join(srun_command(job, folder))
        assert "MY_TOKEN" in text
    else:
        text += shlex.join(ssh_command(site.ssh, "h", node_command(job, folder)))
    assert "hunter2" not in text
    assert (folder.path / "token").stat().st_mode & 0o077 == 0


def test_the_example_configuration_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    from rwtrain.cli import main

    assert main(["launch", "slurm", str(ROOT / "examples/pretrain.yaml"), "--nodes", "8", "--gpus", "8", "--dry-run"]) == 0
    assert "#SBATCH --gres=gpu:8" in capsys.readouterr().out
    assert main(["launch", "slurm", str(ROOT / "examples/pretrain.yaml"), "--nodes", "7", "--gpus", "8", "--dry-run"]) == 2
    assert "cannot be split over 56 ranks" in capsys.readouterr().err

"""A job as Kubernetes objects: JobSet, Kubeflow's TrainJob with its runtime, PyTorchJob, or an indexed Job for tasks. Pure functions, no cluster.

Every object passes through the typed models of the official clients, which refuse unknown fields, and must come out as it went in.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.failure import DIVERGED, GIVEN_UP, USER_ERROR
from launch.job import CODE, CONFIG, JOB, TOKEN, Job, JobFolder, slug
from launch.packing import files_of, pack_code
from launch.site import Mount
from rwtrain.errors import ConfigError, RWTrainError

DESCRIPTION, UNPACKED, ARCHIVE = "/etc/rwtrain", "/opt/rwtrain", "code.tar.gz"
LARGEST_OBJECT = 1_000_000  # bytes that etcd takes in one object, with some room
NO_RESTART = [USER_ERROR, DIVERGED, GIVEN_UP, 126, 127]  # exit statuses after which the same job would end in the same way
RESTART_LABEL = "jobset.sigs.k8s.io/restart-attempt"
STEP_LABEL = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
NODE = "node"  # the replicated job and its container, as Kubeflow's Trainer expects it
NAME_CHARACTERS = 40
LISTED = 5  # files that are named when all of them are too large

Object = dict[str, Any]


def object_name(job: Job) -> str:
    """Name of a job's objects."""
    return f"{slug(job.spec.name, longest=NAME_CHARACTERS - 5)}-{job.id[-4:]}"


def manifests(job: Job, folder: JobFolder, *, config: str | None) -> list[Object]:
    """All objects of a job, checked; the token by which its nodes know each other is not among them, since it is a secret.

    Args:
        config: the resolved training configuration, as YAML.

    Raises:
        ConfigError: no image, a mount or an object that Kubernetes would refuse, or code too large for a ConfigMap.
        RWTrainError: the client packages are not installed.
    """
    if job.spec.image is None:
        raise ConfigError("image: pods need a container image. Set it in the job file or with --job image=…")
    if job.spec.ray and job.site.kubernetes.format == "pytorchjob":
        raise ConfigError("ray on Kubernetes needs the jobset or trainjob format. Set kubernetes.format in the site profile.")
    if not any(Path(mount.target) in (folder.path, *folder.path.parents) for mount in job.site.mounts):
        raise ConfigError(f"mounts: no volume holds {job.output}, so that results would be lost. Add one to the site profile's mounts, or change output.")
    pod = pod_template(job, folder)
    if job.spec.array:
        objects = [tasks_job(job, pod)]
    else:
        objects = {"jobset": jobset, "trainjob": trainjob, "pytorchjob": pytorchjob}[job.site.kubernetes.format](job, pod)
    return [checked(value) for value in [description(job, folder, config), *objects]]


def metadata(job: Job, *, queue: bool = False, suffix: str = "") -> Object:
    site = job.site.kubernetes
    labels = {"app.kubernetes.io/name": "rwtrain", "app.kubernetes.io/instance": object_name(job)}
    return {"name": object_name(job) + suffix, "namespace": site.namespace, "labels": labels | ({QUEUE_LABEL: site.queue} if queue and site.queue else {})}


def description(job: Job, folder: JobFolder, config: str | None) -> Object:
    """ConfigMap with the job's description, its training configuration and its code."""
    data = {JOB: job.model_dump_json(indent=1)} | ({CONFIG: config} if config is not None else {})
    value: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(job, suffix="-job"), "immutable": True, "data": data}
    if has_code(job):
        value["binaryData"] = {ARCHIVE: base64.b64encode(pack_code(job)).decode()}
    size = sum(len(text.encode()) for text in data.values()) + sum(len(base64.b64decode(text)) for text in value.get("binaryData", {}).values())
    if size > LARGEST_OBJECT:
        sizes = sorted(((path.stat().st_size, name) for name, path in (files_of(job) if has_code(job) else {}).items()), reverse=True)
        raise ConfigError(
            f"snapshot: code and configuration take {size:,} bytes packed, and a ConfigMap holds {LARGEST_OBJECT:,}. Largest files: "
            f"{', '.join(f'{name} ({bytes:,})' for bytes, name in sizes[:LISTED])}. "
            "Name smaller folders in `code`, or build the code into the image and set snapshot: false, code: []."
        )
    return value


def has_code(job: Job) -> bool:
    return job.spec.snapshot or bool(job.spec.code)


def pod_template(job: Job, folder: JobFolder) -> Object:
    """The pod of one node."""
    spec, site = job.spec, job.site.kubernetes
    volumes, mounts = volumes_of(job)
    pod: Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(spec.supervision.stop_s),
        "containers": [container(job, folder, mounts)],
        "volumes": volumes,
    }
    if has_code(job):
        unpack: Object = {"name": "code", "image": spec.image, "imagePullPolicy": site.image_pull_policy}
        unpack["command"] = ["tar", "-xzf", f"{DESCRIPTION}/{ARCHIVE}", "-C", f"{UNPACKED}/{CODE}"]
        pod["initContainers"] = [unpack | {"volumeMounts": [mount for mount in mounts if mount["name"] in ("job", "code")]}]
    optional: Object = {
        "nodeSelector": site.node_selector,
        "tolerations": site.tolerations,
        "priorityClassName": site.priority_class,
        "serviceAccountName": site.service_account,
        "imagePullSecrets": [{"name": name} for name in site.image_pull_secrets],
    }
    pod |= {key: value for key, value in optional.items() if value}
    about: Object = {"labels": metadata(job)["labels"]} | ({"annotations": site.annotations} if site.annotations else {})
    return {"metadata": about, "spec": pod}


def container(job: Job, folder: JobFolder, mounts: list[Object]) -> Object:
    """The launcher of one node."""
    spec, site = job.spec, job.site.kubernetes
    amounts = {"cpu": str(spec.cpus_per_process * spec.ranks_per_node)} | ({"memory": f"{int(spec.memory_gb * 1024)}Mi"} if spec.memory_gb else {})
    amounts |= ({site.gpu_resource: str(spec.gpus_per_node)} if spec.gpus_per_node else {}) | site.resources
    variables: list[Object] = [
        {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "RWTRAIN_TOKEN", "valueFrom": {"secretKeyRef": {"name": f"{object_name(job)}-{TOKEN}", "key": TOKEN, "optional": True}}},
    ]
    variables += [{"name": "PYTHONPATH", "value": f"{UNPACKED}/{CODE}"}] if has_code(job) else []
    for name, reference in spec.secrets.items():
        secret, _, key = reference.removeprefix("kubernetes:").partition("/")
        variables.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    value: Object = {
        "name": NODE,
        "image": spec.image,
        "imagePullPolicy": site.image_pull_policy,
        "command": [literal(word) for word in (job.python, "-m", "launch.pod", str(folder.path), "--description", DESCRIPTION)],
        "env": variables,
        "ports": [{"name": "hub", "containerPort": site.port, "protocol": "TCP"}],
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "volumeMounts": mounts,
    }
    if site.capabilities:
        value["securityContext"] = {"capabilities": {"add": site.capabilities}}
    return value


def literal(text: str) -> str:
    """`text` for a field in which Kubernetes replaces $(VARIABLE)."""
    return text.replace("$", "$$")


def volumes_of(job: Job) -> tuple[list[Object], list[Object]]:
    """(volumes, volume mounts) of a pod: description, code, shared memory, the site's mounts."""
    shared = f"{int(job.site.kubernetes.shared_memory_gb * 1024)}Mi"
    volumes: list[Object] = [
        {"name": "job", "configMap": {"name": f"{object_name(job)}-job"}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared}},
    ]
    mounts: list[Object] = [{"name": "job", "mountPath": DESCRIPTION, "readOnly": True}, {"name": "shared-memory", "mountPath": "/dev/shm"}]
    if has_code(job):
        volumes.append({"name": "code", "emptyDir": {}})
        mounts.append({"name": "code", "mountPath": f"{UNPACKED}/{CODE}"})
    for number, mount in enumerate(job.site.mounts):
        name = f"mount-{number}"
        volumes.append({"name": name} | volume_source(mount))
        mounts.append({"name": name, "mountPath": mount.target} | ({"readOnly": True} if mount.read_only else {}))
    return volumes, mounts


def volume_source(mount: Mount) -> Object:
    """What a mount's `source` means to Kubernetes.

    Raises:
        ConfigError: it is not of a known form.
    """
    kind, _, place = mount.source.partition(":")
    if kind == "pvc" and place:
        return {"persistentVolumeClaim": {"claimName": place} | ({"readOnly": True} if mount.read_only else {})}
    if kind == "host" and place:
        return {"hostPath": {"path": place}}
    if kind == "nfs" and ":" in place:
        server, _, path = place.partition(":")
        return {"nfs": {"server": server, "path": path} | ({"readOnly": True} if mount.read_only else {})}
    if kind == "csi" and place:
        driver, _, pairs = place.partition(":")
        attributes = dict(pair.split("=", 1) for pair in pairs.split(",") if "=" in pair)
        source: Object = {"driver": driver} | ({"readOnly": True} if mount.read_only else {})
        return {"csi": source | ({"volumeAttributes": attributes} if attributes else {})}
    raise ConfigError(f"mounts: {mount.source!r} means nothing to Kubernetes. Write pvc:CLAIM, host:PATH, nfs:SERVER:/PATH or csi:DRIVER:KEY=VALUE,…")


def indexed_job(job: Job, pod: Object, *, count: int, backoff: int) -> Object:
    """Spec of a batch/v1 Job with one pod for each index; mistakes of the user's are not tried again."""
    value: Object = {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": count,
        "backoffLimit": backoff,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"containerName": NODE, "operator": "In", "values": sorted(NO_RESTART)}}]},
        "template": pod,
    }
    return value | ({"activeDeadlineSeconds": job.spec.time_limit} if job.spec.time_limit else {})


def with_places(job: Job, pod: Object, *, hub: str, attempt: bool) -> Object:
    """The pod, told where node 0 is, and which attempt this is where the controller counts them."""
    (first,) = pod["spec"]["containers"]
    variables: list[Object] = [{"name": "RWTRAIN_HUB", "value": f"{hub}:{job.site.kubernetes.port}"}]
    if attempt:
        variables.append({"name": "RWTRAIN_ATTEMPT", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{RESTART_LABEL}']"}}})
    return pod | {"spec": pod["spec"] | {"containers": [first | {"env": [*variables, *first["env"]]}]}}


def jobset_spec(job: Job, pod: Object) -> Object:
    """One replicated job of all nodes: a failed node restarts all of them, within the budget; a headless service gives them names."""
    name, limits = object_name(job), job.spec.supervision
    pod = with_places(job, pod, hub=f"{name}-{NODE}-0-0.{name}", attempt=True)
    template: Object = {"metadata": {"labels": dict(STEP_LABEL)}, "spec": indexed_job(job, pod, count=job.spec.nodes, backoff=0)}
    rules = [{"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"]}]
    restarts = limits.max_restarts if job.spec.requeue.on_failure else 0
    return {
        "replicatedJobs": [{"name": NODE, "replicas": 1, "template": template}],
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, "subdomain": name},
        "successPolicy": {"operator": "All"},
        "failurePolicy": {"maxRestarts": restarts, "restartStrategy": "Recreate", "rules": rules},
    }


def jobset(job: Job, pod: Object) -> list[Object]:
    spec = jobset_spec(job, pod) | {"ttlSecondsAfterFinished": job.site.kubernetes.ttl_s}
    return [{"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata(job, queue=True), "spec": spec}]


def trainjob(job: Job, pod: Object) -> list[Object]:
    """A runtime of its own, so that nothing needs to be installed in the cluster but the Trainer, and the TrainJob that uses it."""
    runtime: Object = {"mlPolicy": {"numNodes": job.spec.nodes}, "template": {"spec": jobset_spec(job, pod)}}
    version = "trainer.kubeflow.org/v1alpha1"
    spec: Object = {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": object_name(job)},
        "trainer": {"numNodes": job.spec.nodes},
    }
    spec |= {"activeDeadlineSeconds": job.spec.time_limit} if job.spec.time_limit else {}
    return [
        {"apiVersion": version, "kind": "TrainingRuntime", "metadata": metadata(job), "spec": runtime},
        {"apiVersion": version, "kind": "TrainJob", "metadata": metadata(job, queue=True), "spec": spec},
    ]


def pytorchjob(job: Job, pod: Object) -> list[Object]:
    """The older operator's form: node 0 is its master, whose service the others know."""
    name, limits = object_name(job), job.spec.supervision
    pod = with_places(job, pod, hub=f"{name}-master-0", attempt=False)
    (first,) = pod["spec"]["containers"]
    renamed = first | {"name": "pytorch", "ports": [{"name": "pytorchjob-port", "containerPort": job.site.kubernetes.port, "protocol": "TCP"}]}
    inside = {key: value for key, value in pod["spec"].items() if key != "restartPolicy"} | {"containers": [renamed]}
    replica = {"restartPolicy": "OnFailure", "template": pod | {"spec": inside}}
    replicas: Object = {"Master": replica | {"replicas": 1}} | ({"Worker": replica | {"replicas": job.spec.nodes - 1}} if job.spec.nodes > 1 else {})
    policy: Object = {"cleanPodPolicy": "None", "backoffLimit": limits.max_restarts, "ttlSecondsAfterFinished": job.site.kubernetes.ttl_s}
    policy |= {"activeDeadlineSeconds": job.spec.time_limit} if job.spec.time_limit else {}
    spec = {"nprocPerNode": "1", "runPolicy": policy, "pytorchReplicaSpecs": replicas}
    return [{"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": metadata(job, queue=True), "spec": spec}]


def tasks_job(job: Job, pod: Object) -> Object:
    """Independent tasks; each may fail a few times."""
    assert job.spec.array is not None
    spec = indexed_job(job, pod, count=job.spec.array, backoff=job.spec.supervision.max_restarts) | {"ttlSecondsAfterFinished": job.site.kubernetes.ttl_s}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(job, queue=True), "spec": spec}


def checked(value: Object) -> Object:
    """`value`, after the typed models have taken it and given it back unchanged.

    Raises:
        ConfigError: they refuse it, or know less than all of it.
    """
    try:
        from kubeflow_trainer_api import models as kubeflow
        from kubernetes import client
    except ImportError as error:
        raise RWTrainError("`rwtrain launch k8s` needs the Kubernetes clients. Install them with: pip install 'rwtrain[k8s]'") from error
    kind = value["kind"]
    for pod in pod_templates(value):
        _round_trip(client.V1PodTemplateSpec, pod, kind)
    if kind == "ConfigMap":
        _round_trip(client.V1ConfigMap, value, kind)
    elif kind == "Job":
        _round_trip(client.V1Job, value, kind)
    elif kind != "PyTorchJob":  # its operator's models need an older client; the pods in it were checked
        names = {"JobSet": "JobsetV1alpha2JobSet", "TrainJob": "TrainerV1alpha1TrainJob", "TrainingRuntime": "TrainerV1alpha1TrainingRuntime"}
        _round_trip(getattr(kubeflow, names[kind]), value, kind)
    return value


def pod_templates(value: Mapping[str, Any]) -> list[Object]:
    """All pod templates in an object."""
    found: list[Object] = []
    stack: list[Any] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if "containers" in part.get("spec", {}):
                found.append(part)
            stack += part.values()
        elif isinstance(part, list):
            stack += part
    return found


def _round_trip(model: Any, value: Object, kind: str) -> None:
    from kubernetes import client
    from pydantic import ValidationError

    try:
        back = client.ApiClient().sanitize_for_serialization(model.from_dict(value))
    except (ValidationError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{kind}: Kubernetes' models refuse it ({' '.join(str(error).split())[:400]}). Correct the site profile's kubernetes settings."
        ) from error
    if lost := _difference(value, back, ""):
        raise ConfigError(f"{kind}: Kubernetes does not know {lost}. Correct the site profile's kubernetes settings.")


def _difference(wanted: Any, found: Any, place: str) -> str:
    """Where two values differ first, empty if they do not."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            if key not in found or key not in wanted:
                return f"{place}.{key}".lstrip(".")
            if inner := _difference(wanted[key], found[key], f"{place}.{key}"):
                return inner
        return ""
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return next((inner for number, pair in enumerate(zip(wanted, found, strict=True)) if (inner := _difference(*pair, f"{place}[{number}]"))), "")
    return "" if wanted == found else place.lstrip(".")

"""The wall around Kubernetes: create a job's objects, ask how they fare, delete them. Nothing else here talks to a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import yaml

from launch.job import CONFIG, TOKEN, Job, JobFolder
from launch.manifests import Object, manifests, object_name
from launch.registry import number_of
from rwtrain.config.load import dump_yaml, load_config
from rwtrain.config.schema import TrainConfig
from rwtrain.errors import RWTrainError

PLURALS = {"JobSet": "jobsets", "TrainJob": "trainjobs", "TrainingRuntime": "trainingruntimes", "PyTorchJob": "pytorchjobs"}
MAIN_KINDS = {
    "jobset": ("jobset.x-k8s.io", "v1alpha2", "jobsets"),
    "trainjob": ("trainer.kubeflow.org", "v1alpha1", "trainjobs"),
    "pytorchjob": ("kubeflow.org", "v1", "pytorchjobs"),
}
STATES = {"Completed": "COMPLETED", "Complete": "COMPLETED", "Succeeded": "COMPLETED", "Failed": "FAILED", "Suspended": "PENDING", "Running": "RUNNING"}
MANIFEST = "manifest.yaml"
NOT_FOUND, CONFLICT = 404, 409
OTHER_BREAKS = "\x85\u2028\u2029"  # YAML reads them as line feeds unless they are escaped
REMOVAL_S = 60.0  # for the objects of an earlier submission to go


class Kubernetes:
    """A cluster, by the kubeconfig's context."""

    def render(self, job: Job, folder: JobFolder) -> str:
        if job.spec.train is None:
            config = None
        elif (folder.path / CONFIG).is_file():
            config = (folder.path / CONFIG).read_text(encoding="utf-8")
        else:
            config = dump_yaml(load_config(TrainConfig, os.path.join(job.folder, job.spec.train), job.spec.overrides))
        return to_yaml(manifests(job, folder, config=config))

    def submit(self, folder: JobFolder, *, after: Sequence[str]) -> str:
        job = folder.job
        text = self.render(job, folder)
        (folder.path / MANIFEST).write_text(text, encoding="utf-8")
        client = self._client(job)
        namespace = job.site.kubernetes.namespace
        self._remove_earlier(folder)
        about = {"name": f"{object_name(job)}-{TOKEN}", "namespace": namespace}
        secret = client.V1Secret(api_version="v1", kind="Secret", metadata=client.V1ObjectMeta(**about), string_data={TOKEN: folder.token})
        self._call(client.CoreV1Api().create_namespaced_secret, namespace, secret)
        for value in yaml.safe_load_all(text):
            self._create(client, value, namespace)
        return object_name(job)

    def state(self, folder: JobFolder) -> str:
        job = folder.job
        try:
            found = self._get(job, number_of(folder))
        except RWTrainError:
            return "UNKNOWN"
        status = (found or {}).get("status") or {}
        for condition in reversed(status.get("conditions") or []):
            if condition.get("status") == "True" and condition["type"] in STATES:
                return STATES[condition["type"]]
        return "RUNNING" if status else "PENDING"

    def logs(self, folder: JobFolder, node: int, *, lines: int) -> str:
        """The end of what a node's pod printed, for those who do not see the shared volume."""
        job = folder.job
        core, namespace = self._client(job).CoreV1Api(), job.site.kubernetes.namespace
        selector = f"app.kubernetes.io/instance={object_name(job)}"
        kinds = ("batch.kubernetes.io/job-completion-index", "training.kubeflow.org/replica-index")
        found = self._call(core.list_namespaced_pod, namespace, label_selector=selector).items or []
        labels = [(pod.metadata.name, pod.metadata.labels or {}) for pod in found]
        chosen = [name for name, label in labels if str(node) in [label.get(kind) for kind in kinds]] or [name for name, _ in labels[node : node + 1]]
        if not chosen:
            raise RWTrainError(f"{object_name(job)}: there is no pod of node {node} in the cluster.")
        return str(self._call(core.read_namespaced_pod_log, chosen[-1], namespace, container=None, tail_lines=lines))

    def cancel(self, folder: JobFolder) -> None:
        """Delete the job: its pods get SIGTERM and, with terminationGracePeriodSeconds, the time to save."""
        job = folder.job
        client, namespace, name = self._client(job), job.site.kubernetes.namespace, number_of(folder) or object_name(job)
        if job.spec.array:
            self._call(client.BatchV1Api().delete_namespaced_job, name, namespace, propagation_policy="Foreground", missing=True)
        else:
            group, version, plural = MAIN_KINDS[job.site.kubernetes.format]
            delete = client.CustomObjectsApi().delete_namespaced_custom_object
            self._call(delete, group, version, namespace, plural, name, propagation_policy="Foreground", missing=True)
        if job.site.kubernetes.format == "trainjob" and not job.spec.array:
            delete = client.CustomObjectsApi().delete_namespaced_custom_object
            self._call(delete, "trainer.kubeflow.org", "v1alpha1", namespace, PLURALS["TrainingRuntime"], name, missing=True)
        self._call(client.CoreV1Api().delete_namespaced_config_map, f"{name}-job", namespace, missing=True)
        self._call(client.CoreV1Api().delete_namespaced_secret, f"{name}-{TOKEN}", namespace, missing=True)

    def _remove_earlier(self, folder: JobFolder) -> None:
        """Delete what an earlier submission of the same folder left, which would be in the way of the new objects, and wait until it is gone."""
        if not number_of(folder):
            return
        self.cancel(folder)
        deadline = time.monotonic() + REMOVAL_S
        while self._get(folder.job, number_of(folder), missing=True) is not None:
            if time.monotonic() > deadline:
                raise RWTrainError(f"{number_of(folder)}: its earlier objects are still being deleted. Submit it again when its pods have ended.")
            time.sleep(1)

    def _create(self, client: Any, value: Object, namespace: str) -> None:
        if value["kind"] == "ConfigMap":
            self._call(client.CoreV1Api().create_namespaced_config_map, namespace, value)
        elif value["kind"] == "Job":
            self._call(client.BatchV1Api().create_namespaced_job, namespace, value)
        else:
            group, version = value["apiVersion"].split("/")
            self._call(client.CustomObjectsApi().create_namespaced_custom_object, group, version, namespace, PLURALS[value["kind"]], value)

    def _get(self, job: Job, name: str, *, missing: bool = False) -> dict[str, Any] | None:
        client, namespace = self._client(job), job.site.kubernetes.namespace
        if job.spec.array:
            found = self._call(client.BatchV1Api().read_namespaced_job, name, namespace, missing=missing)
            return client.ApiClient().sanitize_for_serialization(found)
        group, version, plural = MAIN_KINDS[job.site.kubernetes.format]
        return self._call(client.CustomObjectsApi().get_namespaced_custom_object, group, version, namespace, plural, name, missing=missing)

    def _client(self, job: Job) -> Any:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise RWTrainError("`rwtrain launch k8s` needs the Kubernetes clients. Install them with: pip install 'rwtrain[k8s]'") from error
        try:
            config.load_kube_config(context=job.site.kubernetes.context)
        except config.ConfigException as error:
            raise RWTrainError(f"No cluster is configured: {error} Set KUBECONFIG, or kubernetes.context in the site profile.") from error
        return client

    def _call(self, function: Any, *arguments: Any, missing: bool = False, **keywords: Any) -> Any:
        """Call the API; with `missing`, an object that is not there is None."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return function(*arguments, **keywords)
        except ApiException as error:
            if missing and error.status == NOT_FOUND:
                return None
            words = "there is one of that name already" if error.status == CONFLICT else str(error.body or error.reason)[:300]
            raise RWTrainError(
                f"Kubernetes refused ({error.status}): {words}. Check the namespace, the rights and that the job's controller is installed."
            ) from error
        except HTTPError as error:
            raise RWTrainError(f"The cluster does not answer: {error}. Check the kubeconfig's server.") from error


class _Dumper(yaml.SafeDumper):
    """Without anchors, which people do not expect in manifests."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = '"' if any(mark in value for mark in OTHER_BREAKS) else "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(objects: list[Object]) -> str:
    """Manifests for `kubectl apply -f`."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=True)

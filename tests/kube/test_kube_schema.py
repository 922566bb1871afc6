"""The schema file: complete, in step with its generator, and read lazily."""

import gzip
import subprocess
import sys
from pathlib import Path

from sampan.kube import schema
from sampan.kube.types import GVK, GVR

ROOT = Path(__file__).resolve().parents[2]


def test_the_file_is_what_the_generator_writes(tmp_path):
    target = tmp_path / "schema.gz"
    script = ROOT / "tools/generate_schema.py"
    subprocess.run(
        [sys.executable, str(script), "--output", str(target)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    kept = ROOT / "sampan/kube/schema/v1.36.jsonl.gz"
    assert gzip.decompress(target.read_bytes()) == gzip.decompress(kept.read_bytes())


def test_every_reference_leads_somewhere():
    known = set(schema.definition_names())
    assert len(known) > 700

    def references(node):
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for name in known:
        assert set(references(schema.definition(name))) <= known


def test_merge_facts_survive():
    containers = schema.child("io.k8s.api.core.v1.PodSpec", "containers")
    assert schema.list_type(containers) == "map"
    assert schema.map_keys(containers) == ["name"]
    assert schema.patch_merge_key(containers) == "name"
    assert schema.patch_strategy(containers) == {"merge"}
    assert schema.ref(containers) == "io.k8s.api.core.v1.Container"
    ports = schema.child("io.k8s.api.core.v1.Container", "ports")
    assert schema.map_keys(ports) == ["containerPort", "protocol"]
    assert schema.child("io.k8s.api.core.v1.ContainerPort", "protocol")["default"] == "TCP"
    volumes = schema.child("io.k8s.api.core.v1.PodSpec", "volumes")
    assert schema.patch_strategy(volumes) == {"merge", "retainKeys"}
    selector = schema.child("io.k8s.api.apps.v1.DeploymentSpec", "selector")
    assert schema.map_type(selector) == "atomic"
    port = schema.child("io.k8s.api.core.v1.ServicePort", "targetPort")
    assert schema.is_int_or_string(port)
    assert schema.is_int_or_string(schema.resolve(port))


def test_kinds_are_found():
    assert schema.for_gvk(GVK("apps", "v1", "Deployment")) == "io.k8s.api.apps.v1.Deployment"
    assert schema.for_gvk(GVK("", "v1", "PodList")) == "io.k8s.api.core.v1.PodList"
    assert schema.for_gvk(GVK("", "v1", "Nothing")) is None
    assert schema.definition("nothing") is None
    assert schema.fields("nothing") == {}


def test_names_of_kinds_and_resources():
    assert GVK.from_object({"apiVersion": "apps/v1", "kind": "Deployment"}) == (
        "apps",
        "v1",
        "Deployment",
    )
    assert GVK.from_object({}) == ("", "", "")
    assert GVR("", "v1", "pods").api_version == "v1"
    assert GVR("apps", "v1", "deployments").api_version == "apps/v1"


def test_importing_kube_reads_no_schema():
    code = (
        "import sampan.kube.decode, sampan.kube.validation, sampan.kube.defaulting, sampan.kube.patch\n"
        "from sampan.kube import schema\n"
        "import sys\n"
        "assert schema._library.cache_info().misses == 0\n"
        "assert 'yaml' not in sys.modules and 'asyncio' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)

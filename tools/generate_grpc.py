"""Writes the modules of gRPC messages from their .proto files: CRI's, etcd's and kubelet's.

protoc's own Python output refuses a protobuf runtime older than the compiler. What it holds is only the serialised
descriptor, so that is written here without the check: the module works with every protobuf from 5 on. The method
tables come from the descriptor's services too, so no gRPC stubs are generated (etcd's four services are named in `store/etcd_client.py`).
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
import textwrap
import zlib
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
# proto file → (the module made of it, what it holds)
MODULES = {
    "sampan/cri/api.proto": ("sampan/cri/api_pb2.py", "CRI v1 messages"),
    "sampan/store/etcd.proto": ("sampan/store/etcd_pb2.py", "etcd v3 messages"),
    "sampan/node/devices/plugin.proto": (
        "sampan/node/devices/plugin_pb2.py",
        "Device plugin v1beta1 messages",
    ),
    "sampan/node/devices/podresources.proto": (
        "sampan/node/devices/podresources_pb2.py",
        "Pod resources v1 messages",
    ),
}

MODULE = '''"""{title}, made from {proto} by tools/generate_grpc.py: do not edit."""

import base64
import zlib

from google.protobuf import descriptor_pool
from google.protobuf.internal import builder

_SERIALISED = zlib.decompress(
    base64.b85decode(
{lines}
    )
)

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(_SERIALISED)
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "{module}", globals())
'''


def main() -> None:
    for proto, (module, title) in MODULES.items():
        generate(ROOT / proto, proto, ROOT / module, title)


def generate(source: Path, name: str, target: Path, title: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "set.bin")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"-I{source.parent}",
                f"--descriptor_set_out={out}",
                source.name,
            ],
            check=True,
        )
        descriptors = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    (file,) = descriptors.file
    # The pool is one per process: a name of our own keeps clear of somebody else's copy of "api.proto".
    file.name = name
    for message in file.message_type:
        strip_json_names(message)
    text = base64.b85encode(zlib.compress(file.SerializeToString(), 9)).decode()
    lines = "\n".join(f"        {line!r}" for line in textwrap.wrap(text, 110))
    module = name.removesuffix(".proto").replace("/", ".") + "_pb2"
    target.write_text(MODULE.format(title=title, proto=source.name, module=module, lines=lines))


def strip_json_names(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        strip_json_names(nested)


if __name__ == "__main__":
    main()

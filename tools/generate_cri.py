"""Writes `sampan/cri/api_pb2.py` from `sampan/cri/api.proto`.

protoc's own Python output refuses a protobuf runtime older than the compiler. What it holds is only the serialised
descriptor, so that is written here without the check: the module works with every protobuf from 5 on. The method
tables come from the descriptor's services too, so no gRPC stubs are generated.
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

CRI = Path(__file__).resolve().parent.parent / "sampan" / "cri"

MODULE = '''"""CRI v1 messages, made from api.proto by tools/generate_cri.py: do not edit."""

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
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "sampan.cri.api_pb2", globals())
'''


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "set.bin")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"-I{CRI}",
                f"--descriptor_set_out={out}",
                "api.proto",
            ],
            check=True,
        )
        descriptors = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    (file,) = descriptors.file
    # The pool is one per process: a name of our own keeps clear of somebody else's copy of "api.proto".
    file.name = "sampan/cri/api.proto"
    for message in file.message_type:
        strip_json_names(message)
    text = base64.b85encode(zlib.compress(file.SerializeToString(), 9)).decode()
    lines = "\n".join(f"        {line!r}" for line in textwrap.wrap(text, 110))
    (CRI / "api_pb2.py").write_text(MODULE.format(lines=lines))


def strip_json_names(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        strip_json_names(nested)


if __name__ == "__main__":
    main()

# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The package as it is shipped: types, style, the generated messages, and the wheel."""
import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import SOURCE
from google.protobuf import descriptor_pb2 as protobuf

import grpcfd
import grpcfd.aio
from grpcfd.v1 import descriptor_pb2

PACKAGE = SOURCE / "python"


def run(*command, **kind):
    done = subprocess.run(command, capture_output=True, text=True, **kind)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_types(tmp_path):
    run(sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), "grpcfd", cwd=PACKAGE)


def test_style():
    folders = ("grpcfd", "../tests/python", "../tests/conformance", "../samples/python")
    there = [folder for folder in folders if (PACKAGE / folder).exists()]
    run(sys.executable, "-m", "flake8", *there, cwd=PACKAGE)


def test_version_is_the_projects():
    text = (SOURCE / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"VERSION ([0-9.]+)\n", text)[1] == grpcfd.__version__


def test_messages_are_generated_from_the_proto(tmp_path):
    """Whichever protoc wrote the module: it is compared by what it declares."""
    out = tmp_path / "set"
    run(
        os.environ["GRPCFD_PROTOC"],
        f"--proto_path={SOURCE / 'proto'}",
        f"--descriptor_set_out={out}",
        "grpcfd/v1/descriptor.proto",
    )
    wanted = protobuf.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    found = protobuf.FileDescriptorProto()
    descriptor_pb2.DESCRIPTOR.CopyToProto(found)
    # What json_name says follows from the name.
    for message in wanted.message_type:
        for field in message.field:
            field.ClearField("json_name")
    for extension in wanted.extension:
        extension.ClearField("json_name")
    assert found == wanted


def test_the_manual_is_true():
    """Its Python, and README.md's, can be parsed, and uses what there is."""
    in_python = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
    text = (SOURCE / "docs/guides/python.md").read_text(encoding="utf-8")
    readme = in_python.findall((SOURCE / "README.md").read_text(encoding="utf-8"))
    assert readme
    blocks = in_python.findall(text) + readme
    text += "\n".join(readme)
    assert len(blocks) >= 5
    owners = {
        "grpcfd": [grpcfd],
        "grpcfd.aio": [grpcfd.aio],
        "fds": [grpcfd.Call, grpcfd.aio.Call],
        "channel": [grpcfd.Channel, grpcfd.aio.Channel],
    }
    used = set()
    for block in blocks:
        compile(block, "python.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for owner, name in re.findall(r"\b(grpcfd\.aio|grpcfd|fds|channel)\.([a-z_]+)\b(?!\.v1)", text):
        if (owner, name) not in {("grpcfd", "v1"), ("grpcfd", "aio")}:
            assert any(hasattr(place, name) for place in owners[owner]), f"{owner}.{name}"
            used.add(name)
    assert {"attach", "take", "metadata", "call", "memory", "register"} <= used


@pytest.fixture
def wheel(tmp_path):
    """Built as a user builds it, without a network, from a copy: building writes into the tree."""
    copy = tmp_path / "source"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg*"))
    run(
        sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index",
        "--wheel-dir", str(tmp_path), str(copy),
    )
    return next(tmp_path.glob("*.whl"))


def test_wheel(wheel, tmp_path):
    assert wheel.name == f"grpcfd-{grpcfd.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in PACKAGE.glob("grpcfd/**/*.py*"):
        if path.suffix in (".py", ".pyi", ".typed"):
            assert str(path.relative_to(PACKAGE)) in names
    assert "grpcfd/py.typed" in names
    # It works from there.
    code = "import grpcfd, grpcfd.aio, grpcfd.v1.descriptor_pb2; print(grpcfd.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    found = run(sys.executable, "-c", code, cwd=tmp_path, env=environment)
    assert found.startswith(str(wheel))

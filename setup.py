"""The one step of the build that is not declared in pyproject.toml: compiling the microVM guest agent.

`pip install .` and `pip wheel .` run it with ziglang from the build's own requirements; an editable install leaves the
agent in the source tree, where tools/setup.sh puts it as well.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
AGENT = Path("sampan", "runtime", "microvm", "agent")


class BuildWithAgent(build_py):
    def run(self) -> None:
        super().run()
        place = HERE / AGENT if self.editable_mode else Path(self.build_lib).resolve() / AGENT
        command = [sys.executable, str(HERE / "native" / "build.py"), "--output", str(place)]
        subprocess.run(command, check=True)


setup(cmdclass={"build_py": BuildWithAgent})

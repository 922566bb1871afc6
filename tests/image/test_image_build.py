"""Building from Dockerfiles."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_make import WASM, add_image, directory, entry, layer, symlink

from sampan.image import dockerfile
from sampan.image.build import build
from sampan.image.errors import BuildError, ImageError
from sampan.image.ignore import IgnoreFile
from sampan.image.store import ImageStore


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", platforms=["linux/amd64"])


@pytest.fixture
def context(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    (root / "src" / "sub").mkdir(parents=True)
    (root / "app.wasm").write_bytes(WASM)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "src" / "a.txt").write_text("a")
    (root / "src" / "b.log").write_text("b")
    (root / "src" / "sub" / "c.txt").write_text("c")
    (root / "src" / "link").symlink_to("a.txt")
    for path in root.rglob("*"):
        if not path.is_symlink() and path.name != "run.sh":
            path.chmod(0o755 if path.is_dir() else 0o644)
    return root


def make(context: Path, store: ImageStore, text: str, **options) -> dict:
    (context / "Dockerfile").write_text(text)
    image = store.inspect(build(context, "t", store, **options))
    files: dict[str, tarfile.TarInfo] = {}
    for blob in image.layers:
        try:
            with tarfile.open(store.content.path(blob)) as archive:
                files |= {member.name: member for member in archive}
        except tarfile.TarError:
            continue
    return {"image": image, "files": files, **image.config}


def test_settings(context: Path, store: ImageStore) -> None:
    made = make(
        context,
        store,
        """\
        # escape=\\
        ARG BASE=scratch
        FROM ${BASE}
        ARG VERSION=1.2 UNSET
        ENV A=1 B="two words" \\
            # a comment within
            C=${VERSION}-x
        ENV OLD style of $A
        ENV D=${UNSET:-none} E=${A:+set} F=\\$A G='$A'
        LABEL version=$VERSION "long key"="v w"
        WORKDIR /srv
        WORKDIR app
        USER 1000:1000
        EXPOSE 8080 53/udp 9000-9002
        VOLUME ["/data"]
        STOPSIGNAL SIGINT
        ENTRYPOINT ["/run.sh", "$A"]
        CMD echo "$A"
        """.replace("        ", ""),
    )
    assert made["Env"] == [
        *("A=1", "B=two words", "C=1.2-x", "OLD=style of 1"),
        *("D=none", "E=set", "F=$A", "G=$A"),
    ]
    assert made["Labels"] == {"version": "1.2", "long key": "v w"}
    assert made["WorkingDir"] == "/srv/app" and made["User"] == "1000:1000"
    ports = {"8080/tcp", "53/udp", "9000/tcp", "9001/tcp", "9002/tcp"}
    assert set(made["ExposedPorts"]) == ports
    assert made["Volumes"] == {"/data": {}} and made["StopSignal"] == "SIGINT"
    assert made["Entrypoint"] == ["/run.sh", "$A"]
    assert made["Cmd"] == ["/bin/sh", "-c", 'echo "$A"']
    assert made["image"].platform.startswith("linux/")


def test_build_arguments(context: Path, store: ImageStore) -> None:
    text = "ARG T=1\nFROM scratch\nARG T\nARG U=3\nENV T=$T U=$U\n"
    assert make(context, store, text)["Env"] == ["T=1", "U=3"]
    made = make(context, store, text, arguments={"T": "5", "U": "6"})
    assert made["Env"] == ["T=5", "U=6"]


def test_copy(context: Path, store: ImageStore) -> None:
    (context / ".dockerignore").write_text("# none\n**/*.log\nDockerfile\n")
    made = make(
        context,
        store,
        "FROM scratch\nWORKDIR /w\n"
        "COPY --chmod=700 run.sh ./\n"
        "COPY --chown=10:20 src/ data\n"
        'COPY ["app.wasm", "src/*.txt", "/many/"]\n'
        "COPY app.wasm /bin/renamed\n",
    )
    files = made["files"]
    assert files["w/run.sh"].mode == 0o700
    assert {"w/data/a.txt", "w/data/sub/c.txt", "many/app.wasm", "many/a.txt"} <= set(files)
    assert files["bin/renamed"].isreg() and files["bin"].mode == 0o755
    assert "w/data/b.log" not in files and "many/c.txt" not in files
    assert (files["w/data/a.txt"].uid, files["w/data/a.txt"].gid) == (10, 20)
    assert (files["w"].uid, files["w/data"].uid) == (0, 10)
    assert files["w/data/link"].linkname == "a.txt"
    assert all(member.mtime == 0 for member in files.values())


def test_the_whole_context(context: Path, store: ImageStore) -> None:
    (context / ".dockerignore").write_text("src\n!src/sub\n")
    files = make(context, store, "FROM scratch\nCOPY . /\n")["files"]
    regular = {name for name, member in files.items() if member.isreg()}
    assert regular == {"app.wasm", "run.sh", "Dockerfile", ".dockerignore", "src/sub/c.txt"}


def test_same_input_same_image(context: Path, tmp_path: Path) -> None:
    text = "FROM scratch\nCOPY . /all\nENV A=1\n"
    ids = set()
    for number in range(2):
        store = ImageStore(tmp_path / f"store{number}", platforms=["linux/amd64"])
        ids.add(make(context, store, text)["image"].id)
        os.utime(context / "app.wasm", (number, number))
    assert len(ids) == 1


def test_platform(context: Path, store: ImageStore) -> None:
    wasm = make(context, store, 'FROM scratch\nCOPY app.wasm /\nENTRYPOINT ["/app.wasm"]\n')
    assert wasm["image"].platform == "wasip1/wasm"
    text = "FROM scratch\nCOPY app.wasm /\n"
    given = make(context, store, text, platform="linux/arm64/v8")
    assert given["image"].platform == "linux/arm64/v8"
    inherited = make(context, store, "FROM t\nENV A=1\n")
    assert inherited["image"].platform == "linux/arm64/v8"


@pytest.fixture
def base(store: ImageStore) -> str:
    """With what makes copying hard: a symlinked directory, a sticky one, a user."""
    data = layer(
        directory("usr/bin"),
        symlink("bin", "usr/bin"),
        directory("tmp", 0o1777),
        entry("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:42:43::/:/bin/sh\n"),
        entry("etc/group", b"app:x:43:\nstaff:x:50:\n"),
    )
    config = {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Labels": {"of": "base"}}
    add_image(store, "docker.io/library/base:latest", [data], config)
    return "base"


def test_on_a_base(context: Path, store: ImageStore, base: str) -> None:
    made = make(
        context,
        store,
        f"FROM {base}\nCOPY run.sh /bin\nCOPY run.sh /tmp/\nCOPY --chown=app:staff run.sh /x\n",
    )
    files = made["files"]
    assert files["bin"].issym()  # the base's link is not covered by a directory
    assert files["usr/bin/run.sh"].isreg()
    assert files["tmp"].mode == 0o1777
    assert (files["x"].uid, files["x"].gid) == (42, 50)
    assert made["Env"] == ["PATH=/bin"] and made["Labels"] == {"of": "base"}
    assert made["Cmd"] == ["/bin/sh"]


def test_an_entry_point_drops_the_bases_command(
    context: Path, store: ImageStore, base: str
) -> None:
    assert "Cmd" not in make(context, store, f'FROM {base}\nENTRYPOINT ["/x"]\n')
    both = make(context, store, f'FROM {base}\nCMD ["own"]\nENTRYPOINT ["/x"]\n')
    assert both["Cmd"] == ["own"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("FROM scratch\n\n# c\nRUN make\n", 4, "RUN needs a running container"),
        ("FROM scratch\nADD x /\n", 2, "use COPY"),
        ("FROM scratch\nHEALTHCHECK NONE\n", 2, "livenessProbe"),
        ("FROM scratch\nFETCH x\n", 2, "unknown instruction: FETCH"),
        ("COPY a b\n", 1, "before FROM"),
        ("FROM scratch\nFROM scratch\n", 2, "several stages"),
        ("FROM scratch\nCOPY --from=x a b\n", 2, "--from is not supported"),
        ("FROM scratch\nCOPY --parents a b\n", 2, "unknown flag: --parents"),
        ("FROM scratch\nCOPY nothing /\n", 2, "'nothing' not found in the build context"),
        ("FROM scratch\nCOPY ../x /\n", 2, "outside the build context"),
        ("FROM scratch\nCOPY *.none /\n", 2, "no source files match"),
        ("FROM scratch\nCOPY app.wasm run.sh /x\n", 2, "must end with a /"),
        ("FROM scratch\nCOPY --chown=bob app.wasm /\n", 2, "no user 'bob'"),
        ("FROM scratch\nCOPY --chmod=rwx app.wasm /\n", 2, "octal"),
        ("FROM scratch\nEXPOSE 99999\n", 2, "invalid port"),
        ("FROM scratch\nENV A\n", 2, "A has no value"),
        ("FROM scratch\nENV A=${A\n", 2, "unclosed substitution"),
        ('FROM scratch\nENV A="x\n', 2, "unclosed quote"),
        ("FROM scratch\nENV\n", 2, "requires at least one argument"),
        ("FROM a b c d\n", 1, "expected one image name"),
        ("FROM UPPER\n", 1, "couldn't parse image name"),
    ],
)
def test_errors_name_the_line(
    context: Path, store: ImageStore, text: str, line: int, words: str
) -> None:
    (context / "Dockerfile").write_text(text)
    with pytest.raises(BuildError) as failure:
        build(context, "t", store)
    assert str(failure.value).startswith(f"Dockerfile:{line}: ")
    assert words in str(failure.value)
    assert store.list() == []


def test_a_link_out_of_the_context_is_not_followed(
    context: Path, store: ImageStore, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("k")
    (context / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(BuildError, match="outside the build context"):
        make(context, store, "FROM scratch\nCOPY out/key /\n")
    assert make(context, store, "FROM scratch\nCOPY . /\n")["files"]["out"].issym()


def test_no_dockerfile(tmp_path: Path, store: ImageStore) -> None:
    with pytest.raises(BuildError, match="no such file"):
        build(tmp_path, "t", store)


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        ("*.log", "a.log", True),
        ("*.log", "d/a.log", False),
        ("**/*.log", "d/e/a.log", True),
        ("**/*.log", "a.log", True),
        ("d", "d/e/f", True),
        ("/d/", "d/e", True),
        ("d/**", "d/e/f", True),
        ("*\n!keep", "keep", False),
        ("*\n!keep", "other", True),
        ("# d", "d", False),
        ("a?c", "abc", True),
        ("[ab]", "a", True),
        ("**/node_modules", "x/y/node_modules/z", True),
        (".", "anything", False),
    ],
)
def test_ignore_patterns(patterns: str, path: str, excluded: bool) -> None:
    assert IgnoreFile.read(patterns).excludes(path) is excluded


@given(st.text("FROMscratchCOPYENV \n\\\"'$={}[]#-:/.a1`\t", max_size=120))
@settings(max_examples=300, deadline=None)
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        instructions, escape = dockerfile.parse(text)
    except ImageError:
        return
    for step in instructions:
        try:
            dockerfile.words(dockerfile.expand(step.text, {"a": "b"}, escape), escape)
        except ValueError:
            continue

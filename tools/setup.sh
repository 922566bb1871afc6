#!/bin/sh
# Set up what ./run and ./test need: Debian packages (as root), a virtual environment, kubectl and helm.
#
#   sh tools/setup.sh        what ./run needs
#   sh tools/setup.sh dev    what ./test and `make lint` need as well
#
# Needs python3 to begin with. Safe to repeat: what is there is left alone. Without root, or without apt, it goes on with
# what works and says what is left out.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-run}

say() { printf '  %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# What each Debian package is for, so that what is missing can be told apart by name.
packages="python3-venv:a virtual environment
ca-certificates:downloading from PyPI
crun:containers
runc:containers
conmon:containers
nftables:service addresses
iproute2:network tests
procps:process listings
busybox-static:the example container image"
# The driver is for QEMU's machine of this architecture.
[ "$(uname -m)" = x86_64 ] && packages="$packages
qemu-system-x86:microVMs
e2fsprogs:disks of virtual machines"
[ "$kind" = dev ] && packages="$packages
make:make lint
containernetworking-plugins:tests of CNI
etcd-server:tests of clusters on etcd, each with members of its own
curl:the tests' plainest client
skopeo:tests of the embedded registry with clients that we did not write
podman:the same
buildah:the same
containerd:the same, beneath Docker, and make bench
libdevmapper1.02.1:the same
openssh-client:tests of sampan vm ssh
libwrap0:the same
runsc:tests of an OCI runtime that is a kernel of its own (gVisor)
wrk:make bench
util-linux:tests in namespaces of their own"

missing=""
if command -v dpkg-query >/dev/null 2>&1; then
    for line in $(printf '%s\n' "$packages" | cut -d: -f1); do
        dpkg-query -W -f '${Status}' "$line" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $line"
    done
    if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing Debian packages:$missing"
        log=$(mktemp)
        # shellcheck disable=SC2086
        if { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1; then
            missing=""
        else
            tail -n 5 "$log" >&2
            say "apt-get could not install them; going on with what is there"
        fi
        rm -f "$log"
    fi
    for name in $missing; do
        say "left out: $name ($(printf '%s\n' "$packages" | sed -n "s/^$name://p")); as root: apt-get install $name"
    done
fi

python=""
for candidate in "${PYTHON:-}" python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python 3.11 or newer is needed; set PYTHON to one"

if ! .venv/bin/python -c '' 2>/dev/null; then
    say "making a virtual environment in .venv"
    "$python" -m venv .venv ||
        fail "$python cannot make a virtual environment; as root: apt-get install python3-venv"
fi

extras=""
[ "$kind" = dev ] && extras="[dev]"
stamp=".venv/.sampan-$kind"
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    say "installing Sampan and its libraries from PyPI (once; about a minute)"
    # The compiler is one of the build's requirements: here once, instead of once more in a place of the build's own.
    .venv/bin/python -m pip install -q --disable-pip-version-check "setuptools>=77" ziglang
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".$extras"
    touch "$stamp"
fi
.venv/bin/python native/build.py >/dev/null || say "left out: microVMs (their guest agent could not be compiled)"
if command -v qemu-system-x86_64 >/dev/null 2>&1 && ! .venv/bin/python -m sampan.runtime.microvm.kernels show >/dev/null; then
    .venv/bin/python -m sampan.runtime.microvm.kernels fetch >&2 ||
        say "left out: microVMs (no guest kernel could be downloaded; sampan doctor says how to have one)"
fi
if [ "$kind" = dev ] && [ ! -f .venv/.sampan-libc ]; then
    say "building the C libraries that the tests' programs link with: wasm and static Linux (once; a few minutes)"
    scratch=$(mktemp -d)
    echo 'int main(void) { return 0; }' >"$scratch/nothing.c"
    .venv/bin/python -m ziglang cc -target wasm32-wasi -Os -s "$scratch/nothing.c" -o "$scratch/wasm" &
    wasm=$!
    .venv/bin/python -m ziglang cc -target "$(uname -m)-linux-musl" -Os -s "$scratch/nothing.c" -o "$scratch/linux"
    wait "$wasm"
    rm -rf "$scratch"
    touch .venv/.sampan-libc
fi
if [ "$kind" = dev ] && [ ! -d .cache/jco/node_modules ]; then
    if command -v npm >/dev/null 2>&1; then
        say "fetching the builder of JavaScript components (once)"
        mkdir -p .cache/jco
        # jco 1.35.0 cannot read a --wit with a newer shim than 0.25, which begins with no directory opened.
        cat >.cache/jco/package.json <<-'END'
		{
		  "dependencies": { "@bytecodealliance/jco": "1.35.0" },
		  "overrides": { "@bytecodealliance/preview2-shim": "0.25.0" }
		}
		END
        npm install --silent --no-audit --no-fund --prefix .cache/jco >&2 ||
            say "left out: tests of JavaScript components (npm could not fetch their builder)"
    else
        say "left out: tests of JavaScript components (they need node 20 and npm)"
    fi
fi
# unpacked PACKAGE DIRECTORY PROGRAM TEST: without installing it, which would start its daemon.
unpacked() {
    [ -x ".cache/$2/$3" ] && return
    say "fetching Debian's $1, unpacked: installed, it would start a daemon (once)"
    mkdir -p ".cache/$2"
    # shellcheck disable=SC2015
    (cd ".cache/$2" && apt-get download -qq "$1" >/dev/null 2>&1 && dpkg-deb -x "$1"_*.deb . && rm "$1"_*.deb) ||
        say "left out: the test $4 (apt-get could not download $1)"
}
if [ "$kind" = dev ] && command -v apt-get >/dev/null 2>&1; then
    unpacked docker.io docker usr/sbin/dockerd "with docker as a client of the embedded registry"
    unpacked openssh-server openssh usr/sbin/sshd "of sampan vm ssh"
fi
[ -x .cache/clients/kubectl ] && [ -x .cache/clients/helm ] || say "fetching kubectl and helm (once)"
.venv/bin/python tools/fetch_clients.py >/dev/null

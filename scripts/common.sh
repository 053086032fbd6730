# Sourced by the other scripts, with the root of the project as the current folder.

# One set-up at a time; the next one finds all done.
mkdir -p .cache
exec {lock}>.cache/set-up.lock
flock "$lock"

step() {
    echo "set-up: $*" >&2
}

fail() {
    echo "set-up failed: $*" >&2
    exit 1
}

# Run a command; show what it printed only if it fails.
quietly() {
    local output status=0
    output=$("$@" 2>&1 </dev/null) || status=$?
    if ((status)); then
        echo "$output" >&2
        fail "'$*' ended with status $status"
    fi
}

# Run a command as root, quietly.
as_root() {
    if ((EUID == 0)); then
        quietly "$@"
    else
        quietly sudo "$@"
    fi
}

install_debian() {
    command -v apt-get >/dev/null || fail "install these first, this machine has no apt-get: $*"
    # With -v a password is asked for here, where it can be seen.
    ((EUID == 0)) || sudo -v || fail "install these first, as root: apt-get install $*"
    step "installing Debian's packages $*"
    as_root apt-get update
    # RUNLEVEL=1: a package that brings a service doesn't start it where there is no systemd.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --yes --no-install-recommends "$@"
}

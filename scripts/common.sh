# Sourced by the other scripts, with the root of the project as the current directory.

# Say what is waited for from now on: each step that may take a while has one line, and nothing else is printed.
step() {
    echo "setup: $*" >&2
}

# One setup at a time; the next one finds everything done.
mkdir -p .cache
exec {lock}>.cache/set-up.lock
if ! flock --nonblock "$lock"; then
    step "waiting for another setup in $PWD"
    flock "$lock"
fi

fail() {
    echo "setup failed: $*" >&2
    exit 1
}

# Run a command; show its output only if it fails.
quietly() {
    local output status=0
    output=$("$@" 2>&1 </dev/null) || status=$?
    if ((status)); then
        echo "$output" >&2
        fail "'$*' exited with status $status"
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
    command -v apt-get >/dev/null || fail "this machine has no apt-get; install these packages first: $*"
    # -v asks for the password here, where the prompt is visible.
    ((EUID == 0)) || sudo -v || fail "install these packages first, as root: apt-get install $*"
    step "fetching Debian's lists of packages"
    as_root apt-get update
    step "fetching and installing Debian packages: $*"
    # RUNLEVEL=1: without systemd, packages do not start their services.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --yes --no-install-recommends "$@"
}

# Fetch the jars that a pom names into a folder. Their hashes are in jars.sha256 next to the pom.
fetch_jars() {
    local pom=$1 folder=$2 hashes sum
    hashes=$PWD/$(dirname "$pom")/jars.sha256
    sum=$(cat "$pom" "$hashes" | sha256sum)
    if [[ -f $folder/pom.sha256 && $(<"$folder/pom.sha256") == "$sum" ]]; then
        return
    fi
    step "fetching $(grep -c . "$hashes") jars with Maven: $pom"
    # Into another directory first, so that an interrupted download does not look complete.
    rm -rf "$folder.new"
    mkdir -p "$folder.new"
    quietly mvn -B -q -f "$pom" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$PWD/$folder.new"
    # In the C locale, so that the order of the files is the same everywhere.
    (cd "$folder.new" && LC_ALL=C && sha256sum -- *.jar) | cmp -s - "$hashes" ||
        fail "what Maven fetched for $pom is not what $hashes lists"
    echo "$sum" >"$folder.new/pom.sha256"
    rm -rf "$folder"
    mv "$folder.new" "$folder"
}

# Fetch the packages for Python that a requirements file pins into a folder.
fetch_packages() {
    local requirements=$1 folder=$2 sum
    sum=$(sha256sum <"$requirements")
    if [[ -f $folder/requirements.sha256 && $(<"$folder/requirements.sha256") == "$sum" ]]; then
        return
    fi
    step "fetching $folder with pip"
    rm -rf "$folder.new"
    quietly .venv/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes \
        --only-binary :all: --no-deps --target "$folder.new" -r "$requirements"
    echo "$sum" >"$folder.new/requirements.sha256"
    rm -rf "$folder"
    mv "$folder.new" "$folder"
}

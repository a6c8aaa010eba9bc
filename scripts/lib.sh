# shellcheck shell=bash
# What the scripts share. Sourced, never run: . "$(dirname "$0")/lib.sh"
#
# Installing works on Debian and Ubuntu, as root or through sudo. Elsewhere the scripts say what is
# missing and stop. Nothing is installed that is there already.

# What src/demo/binaries.rs needs in one folder; the two look in the same places.
PG_PROGRAMS=(initdb postgres)

# Asked for help, each says what the comment at its start says; `scripts/demo --help` is that of `pgsluice demo`.
if [[ ${1:-} =~ ^(-h|--help)$ && $(basename "$0") != demo ]]; then
    sed -n '2,/^[^#]/s/^#[ ]\{0,1\}//p' "$(dirname "${BASH_SOURCE[0]}")/$(basename "$0")"
    exit 0
fi

say() {
    printf '== %s\n' "$*"
}

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# All arguments have to be numbers.
need_numbers() {
    local argument
    for argument in "$@"; do
        [[ $argument =~ ^[0-9]+$ ]] || {
            printf '%s: %s is not a number (--help says what is expected)\n' "$(basename "$0")" "$argument" >&2
            exit 2
        }
    done
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# Runs a command as root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo: $*"
    fi
}

# Installs Debian packages, after one `apt-get update` a run.
need_apt() {
    have apt-get || fail "please install what Debian calls $*, and start again (there is no apt-get to do it)"
    if [ -z "${APT_UPDATED:-}" ]; then
        say "apt-get update"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q || fail "apt-get update failed; cannot install $*"
        APT_UPDATED=yes
    fi
    say "apt-get install $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" ||
        fail "apt-get could not install $*"
}

has_pg_programs() {
    local program
    for program in "${PG_PROGRAMS[@]}"; do
        [ -f "$1/$program" ] || return 1
    done
}

# Prints the folder of the PostgreSQL server binaries. Returns 1 when there is none.
find_pg_bin() {
    local dir
    if [ -n "${PGSLUICE_PG_BIN:-}" ]; then
        has_pg_programs "$PGSLUICE_PG_BIN" || fail "PGSLUICE_PG_BIN is $PGSLUICE_PG_BIN, which lacks one of: ${PG_PROGRAMS[*]}"
        printf '%s\n' "$PGSLUICE_PG_BIN"
        return
    fi
    while read -r dir; do
        if has_pg_programs "$dir"; then
            printf '%s\n' "$dir"
            return
        fi
    done < <(pg_bin_candidates)
    return 1
}

pg_bin_candidates() {
    if have pg_config; then
        pg_config --bindir || true
    fi
    printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5,5nr
    tr ':' '\n' <<<"$PATH"
}

# Installs the PostgreSQL server programs, without a cluster of Debian's own.
need_postgresql() {
    local dir conf=/etc/postgresql-common/createcluster.conf
    if dir=$(find_pg_bin); then
        say "PostgreSQL is there: $dir"
        return
    fi
    [ -z "${PGSLUICE_PG_BIN:-}" ] || exit 1
    need_apt postgresql-common
    # Installing a server makes a cluster and starts it, on port 5432, unless this says no.
    as_root sed -i -E 's/^#?[[:space:]]*create_main_cluster[[:space:]]*=.*/create_main_cluster = false/' "$conf"
    grep -q '^create_main_cluster = false' "$conf" ||
        printf 'create_main_cluster = false\n' | as_root tee -a "$conf" >/dev/null
    need_apt postgresql
    dir=$(find_pg_bin) || fail "PostgreSQL was installed, but its programs (${PG_PROGRAMS[*]}) are not found"
    say "PostgreSQL is installed: $dir"
}

# A C compiler and linker: Rust links with it, and ring compiles with it.
need_cc() {
    have cc || need_apt gcc libc6-dev
}

need_cargo() {
    if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    have cargo || fail "cargo is missing: install Rust from https://rustup.rs"
}

# A component of the Rust toolchain that `cargo NAME` needs.
need_cargo_component() {
    cargo "$1" --version >/dev/null 2>&1 && return
    have rustup || fail "cargo $1 is missing: install it with your Rust toolchain"
    rustup component add "$2" || fail "rustup could not install $2"
}

need_python() {
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || need_apt python3 python3-venv
}

need_node() {
    if ! have node || ! have npm; then
        need_apt nodejs npm
    fi
}

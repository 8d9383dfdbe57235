#!/usr/bin/env bash
# Makes sure that this machine can compile Rust to wasm32-unknown-unknown and prints the rustc to use (and
# nothing else) on standard output:
#
#     RUSTC="$(plugins/setup-wasm.sh)" cargo build --release --target wasm32-unknown-unknown
#
# Where the installed toolchain has the target, or rustup can add it, that is all. Where the toolchain's
# host cannot be reached, a compiler is put together from Debian's packages, into a folder of its own, once:
# a minute and a half, 490 MB, no root, nothing installed.
#
# WEIR_WASM_TOOLCHAIN=rustup|debian forces one of the two.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
target=wasm32-unknown-unknown
host=x86_64-unknown-linux-gnu
prefix="$here/target/wasm-toolchain"
wanted="${WEIR_WASM_TOOLCHAIN:-any}"

say() { echo "setup-wasm: $*" >&2; }
die() { say "$@"; exit 1; }

# Whether this rustc has the target's standard library.
has_target() {
    local libraries
    libraries="$("$1" --print target-libdir --target "$target" 2>/dev/null)" || return 1
    compgen -G "$libraries/libcore-*.rlib" >/dev/null
}

try_rustup() {
    command -v rustc >/dev/null || { say "there is no rustc: install Rust first (https://rustup.rs)"; return 1; }
    if ! has_target rustc; then
        command -v rustup >/dev/null || { say "no rustup here"; return 1; }
        say "adding the target $target with rustup"
        timeout 300 rustup target add "$target" >&2 || { say "rustup cannot fetch it"; return 1; }
        has_target rustc || { say "rustup added it, but rustc does not see it"; return 1; }
    fi
    command -v rustc
}

# apt with lists of its own when the system's are missing or stale, since refreshing those needs root.
apt_options=()
apt() { local tool="$1"; shift; "apt-$tool" "${apt_options[@]}" "$@"; }

fetch_packages() {
    local std llvm
    # Their names carry version numbers: whatever the candidate depends on.
    # Their names carry version numbers: whatever the candidate depends on.
    std="$(apt cache depends libstd-rust-web-dev | awk '/ Depends: libstd-rust-web-[0-9]/ { print $2 }')"
    llvm="$(apt cache depends "${std:-none}" | awk '/ Depends: libllvm/ { print $2 }')"
    [[ -n "$std" && -n "$llvm" ]] || return 1
    apt get -qq download rustc-web "$std" libstd-rust-web-dev rust-web-src "$llvm" >&2
}

build_debian() {
    local work="$prefix.work" linker flags rlibs
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || die "this is not Debian: no way left to get $target"
    linker="$(rustc --print sysroot)/lib/rustlib/$host/bin/rust-lld"
    [[ -x "$linker" ]] || die "no linker for Wasm: $linker is missing"
    rm -rf "$work" "$prefix"
    mkdir -p "$work/packages" "$work/usr"
    cd "$work/packages"

    say "fetching a compiler from Debian (140 MB)"
    if ! fetch_packages 2>/dev/null; then
        mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
        apt_options=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o "Debug::NoLocking=1")
        apt get update >/dev/null || die "apt cannot refresh its lists"
        fetch_packages || die "Debian's archive does not have the packages rustc-web, libstd-rust-web-dev, rust-web-src"
    fi

    say "unpacking"
    local package
    for package in rustc-web_* libstd-rust-web-* libllvm*; do dpkg-deb -x "$package" "$work"; done
    # Of the sources, the standard library alone; it brings its dependencies along.
    dpkg-deb --fsys-tarfile rust-web-src_* | tar -x -C "$work" --wildcards './usr/src/rustc-*/library' './usr/lib/rustlib/src'
    cd "$here"
    rm -rf "$work/packages" "$work/lists" "$work/cache"
    mkdir -p "$work/usr/lib/rustlib/$host/bin" "$work/bin"
    ln -sf "$linker" "$work/usr/lib/rustlib/$host/bin/rust-lld"
    cat >"$work/bin/rustc-wasm" <<'WRAPPER'
#!/bin/sh
prefix="$(cd "$(dirname "$0")/.." && pwd)"
LD_LIBRARY_PATH="$prefix/usr/lib:$prefix/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$prefix/usr/bin/rustc" "$@"
WRAPPER
    chmod +x "$work/bin/rustc-wasm"

    say "building the standard library for Wasm"
    mkdir -p "$work/empty/src"
    touch "$work/empty/src/lib.rs"
    printf '[package]\nname = "empty"\nedition = "2024"\n[workspace]\n' >"$work/empty/Cargo.toml"
    (
        cd "$work/empty"
        # Nightly's flags on a stable compiler, for this one build; the paths are mapped away so that no
        # machine's folders are in the guests' bytes.
        flags="-Cembed-bitcode=yes --remap-path-prefix=$work=/toolchain"
        flags+=" --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
        env -u CARGO_ENCODED_RUSTFLAGS -u CARGO_TARGET_DIR RUSTC="$work/bin/rustc-wasm" RUSTC_BOOTSTRAP=1 \
            RUSTFLAGS="$flags" CARGO_PROFILE_RELEASE_PANIC=abort \
            cargo build --quiet --release --target "$target" -Zbuild-std=std,panic_abort >&2
    ) || die "the standard library does not build"
    rlibs="$work/usr/lib/rustlib/$target/lib"
    mkdir -p "$rlibs"
    cp "$work/empty/target/$target/release/deps"/lib*.rlib "$rlibs/"
    rm -f "$rlibs"/libempty-*.rlib
    rm -rf "$work/empty" "$work/usr/src"
    has_target "$work/bin/rustc-wasm" || die "the compiler does not see its standard library"
    # What an earlier standard library was linked into no longer fits, and cargo cannot see that.
    rm -rf "${here:?}/target/$target"
    mv "$work" "$prefix"
    say "done: $("$prefix/bin/rustc-wasm" --version)"
}

use_debian() {
    mkdir -p "$here/target"
    exec 9>"$prefix.lock"
    flock 9
    # The folder appears only when all is in it.
    [[ -x "$prefix/bin/rustc-wasm" ]] || (build_debian)
    echo "$prefix/bin/rustc-wasm"
}

case "$wanted" in
    rustup) try_rustup || die "rustup was asked for and does not help" ;;
    debian) use_debian ;;
    any) try_rustup || use_debian ;;
    *) die "WEIR_WASM_TOOLCHAIN is '$wanted': rustup or debian" ;;
esac

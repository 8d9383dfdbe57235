#!/usr/bin/env bash
# Builds every transform of this folder into OUT_DIR/NAME.wasm, components ready to be served:
#
#     plugins/build.sh OUT_DIR [CRATE…]
#
# Without crates, all of them. The same sources and toolchain give the same bytes on every machine. Run
# again it does only what changed. WEIR_PACK names a packer, `weir` itself or `weir-pack`; without it one is built.
set -euo pipefail

[[ $# -ge 1 ]] || { echo "usage: plugins/build.sh OUT_DIR [CRATE…]" >&2; exit 2; }
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mkdir -p "$1"
out="$(cd "$1" && pwd)"
shift
crates=("$@")
[[ $# -ge 1 ]] || crates=(crosswind delay_risk_v1 delay_risk_v2 trip_fare hostile)
target=wasm32-unknown-unknown

RUSTC="$("$here/setup-wasm.sh")"
export RUSTC

# Machine paths end up in panic messages: map them away. simd128 is in every engine of today and makes wide
# batches up to 1.8 times faster.
flags=(
    --remap-path-prefix="$here=/plugins"
    --remap-path-prefix="${CARGO_HOME:-$HOME/.cargo}=/cargo"
    -Ctarget-feature=+simd128
)
CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f'; echo "${flags[*]}")"

selected=()
for crate in "${crates[@]}"; do selected+=(-p "$crate"); done
# A caller's own cargo settings (cargo test sets some) are for the host.
(
    cd "$here"
    export CARGO_ENCODED_RUSTFLAGS
    env -u RUSTFLAGS -u CARGO_TARGET_DIR -u CARGO_BUILD_TARGET -u RUSTC_WRAPPER \
        cargo build --quiet --release --lib --target "$target" "${selected[@]}"
)

if [[ -z "${WEIR_PACK:-}" ]]; then
    unset RUSTC
    (cd "$here/.." && cargo build --quiet -p weir-transform --bin weir-pack)
    WEIR_PACK="${CARGO_TARGET_DIR:-$here/../target}/debug/weir-pack"
fi

case "${WEIR_PACK##*/}" in
    weir) pack=("$WEIR_PACK" plugin pack) ;;
    *) pack=("$WEIR_PACK") ;;
esac

for crate in "${crates[@]}"; do
    core="$here/target/$target/release/$crate.wasm"
    component="$out/$crate.wasm"
    # The packer too: a new one may pack differently.
    if [[ ! -e "$component" || "$core" -nt "$component" || "$WEIR_PACK" -nt "$component" ]]; then
        "${pack[@]}" "$core" -o "$component"
    fi
done

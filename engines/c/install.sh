#!/usr/bin/env bash
# Builds the C library and installs it, its headers and a pkg-config file:
#
#     engines/c/install.sh [PREFIX]        # /usr/local if none is given
#
# DESTDIR is put before every path that is written, LIBDIR replaces PREFIX/lib.
set -euo pipefail
cd "$(dirname "$0")/../.."

prefix=${1:-/usr/local}
libdir=${LIBDIR:-$prefix/lib}
to_lib=${DESTDIR:-}$libdir to_include=${DESTDIR:-}$prefix/include
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
# A soname for every version that may break programs, until 1.0 the minor one.
case $version in
0.*) so=${version%.*} ;;
*) so=${version%%.*} ;;
esac

case $(uname -s) in
Darwin) dynamic=libtritgemm.$so.dylib link=libtritgemm.dylib built=libtritgemm_capi.dylib
    name=-Wl,-install_name,$libdir/$dynamic ;;
*) dynamic=libtritgemm.so.$so link=libtritgemm.so built=libtritgemm_capi.so
    name=-Wl,-soname,$dynamic ;;
esac

cargo build --release --locked -p tritgemm-capi
release=${CARGO_TARGET_DIR:-target}/release
mkdir -p "$to_lib/pkgconfig" "$to_include"
install -m 644 "$release/libtritgemm_capi.a" "$to_lib/libtritgemm.a"

# The shared library again, with the name that programs look for: in the target
# directory it is to be found by its path.
named=${CARGO_TARGET_DIR:-target}/installed
CARGO_TARGET_DIR=$named cargo rustc --release --locked -p tritgemm-capi \
    --crate-type cdylib -- -C link-arg="$name"
install -m 755 "$named/release/$built" "$to_lib/$dynamic"
ln -sf "$dynamic" "$to_lib/$link"

install -m 644 engines/c/include/tritgemm.h engines/c/include/tritgemm.hpp "$to_include"
sed -e "s|@PREFIX@|$prefix|" -e "s|@LIBDIR@|$libdir|" -e "s|@VERSION@|$version|" \
    engines/c/tritgemm.pc.in >"$to_lib/pkgconfig/tritgemm.pc"
echo "installed tritgemm $version in $prefix"

#!/bin/sh
# build.sh DIR: makes the Debian and the rpm package of this tree in DIR, for the architecture GOARCH (by default the one of
# the host). `make package` calls it. The same commit gives the same bytes.
#
#   VERSION            by default what version.sh says
#   SOURCE_DATE_EPOCH  by default the time of the commit
set -eu
umask 022
dir=${1:?usage: build.sh DIR}
GO=${GO:-go}
MAKE=${MAKE:-make}
export LC_ALL=C TZ=UTC CGO_ENABLED=0
unset MAKEFLAGS MFLAGS

die() {
	echo "build.sh: error: $*" >&2
	exit 2
}

command -v "$GO" >/dev/null || die "$GO: not installed: see the README"

# 1. The version and the time.
here=cmd/mkexec/packaging
VERSION=${VERSION:-$($here/version.sh)}
case $VERSION in
[!0-9]* | *[!0-9A-Za-z.+~]*) die "VERSION: $VERSION: not digits, letters, dots, + and ~" ;;
esac
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)} || die "no time: make package VERSION=$VERSION SOURCE_DATE_EPOCH=$(date +%s)"
MAINTAINER="mkexec maintainers <mkexec@users.noreply.github.com>"
ARCH=$("$GO" env GOARCH)
export VERSION SOURCE_DATE_EPOCH MAINTAINER ARCH

# 2. The files. The completions come from a program that runs here.
mkdir -p "$dir"
tmp=$(mktemp -d "$dir/.package.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
export ROOT="$tmp/root" EXTRA="$tmp/extra"
mkdir "$EXTRA"
env -u GOARCH -u GOOS "$MAKE" -s build install GO="$GO" DESTDIR="$ROOT" PREFIX=/usr SHUTDOWNDIR=/usr/lib/systemd/system-shutdown
# not by git, which Go sees in some trees and not in others, nor by flags of the user's
GOFLAGS=-buildvcs=false GOOS=linux "$GO" build -trimpath -ldflags="-s -w -X main.packaged=$VERSION" -o "$ROOT/usr/bin/mkexec" ./cmd/mkexec
gzip -9n "$ROOT"/usr/share/man/man?/*
install -m 0644 LICENSE $here/lintian-overrides "$EXTRA"
cat >"$EXTRA/changelog" <<-END
	mkexec ($VERSION) unstable; urgency=medium

	  * Built by the project itself; what is new is in its git log.

	 -- $MAINTAINER  $(date -R -d "@$SOURCE_DATE_EPOCH")
END
gzip -9n "$EXTRA/changelog"
find "$tmp" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

# 3. The packages. nfpm itself runs here.
for format in deb rpm; do
	env -u GOARCH -u GOOS "$GO" run "$NFPM" package -f $here/nfpm.yaml -p "$format" -t "$dir/"
done

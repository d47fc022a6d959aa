#!/bin/sh
# version.sh: prints the version of the commit in the working directory, in letters that dpkg and rpm both take and order
# alike: 1.2.3 for the tag v1.2.3, 1.2.3~rc1 for v1.2.3-rc1, 1.2.3+5.gCOMMIT for five commits after that tag, and where there
# is no tag yet 0.0.0~TIME.COMMIT, as Go names it. +dirty is appended where files differ from the commit.
set -eu
export LC_ALL=C TZ=UTC

# a repository further up is not ours
if ! [ -e .git ] || ! git rev-parse -q --verify HEAD >/dev/null; then
	echo "version.sh: error: no git commit here; name it: VERSION=1.2.3 SOURCE_DATE_EPOCH=$(date +%s)" >&2
	exit 2
fi
version=$(git describe --tags --match 'v[0-9]*' --abbrev=12 2>/dev/null |
	sed -E 's/^v//; s/-([0-9]+)-(g[0-9a-f]+)$/+\1.\2/; s/-/~/; s/-/./g')
[ -n "$version" ] || version=0.0.0~$(git log -1 --abbrev=12 --date=format-local:%Y%m%d%H%M%S --format=%cd.%h)
[ -z "$(git status --porcelain)" ] || version=$version+dirty
echo "$version"

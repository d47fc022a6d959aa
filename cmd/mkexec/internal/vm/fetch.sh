#!/bin/sh
# fetch.sh DIR: makes DIR hold what the virtual machines of the tests and the demo need. Run it on Debian, as root or
# with sudo. What is there already is not fetched again.
#
#   installed   qemu-system-x86, swtpm, sbsigntool, openssl
#   DIR/        vmlinuz (and version, its release), efivarfs.ko, busybox (static), OVMF_CODE.fd, OVMF_VARS.fd,
#               of systemd 252 (bookworm) and 257 (trixie) stub-252.efi, stub-257.efi (systemd-stub), addon-257.efi
#               (the stub of addons, which 252 does not know), sdboot-252.efi, sdboot-257.efi (systemd-boot);
#               for Secure Boot OVMF_CODE.secboot.fd, OVMF_VARS.snakeoil.fd, the key that these variables trust,
#               snakeoil.key (no secret: it comes with OVMF) and snakeoil.pem, and shim.efi, which is not signed
#
# The files of DIR come from fixed Debian suites whatever the host runs, so that a VM is the same everywhere.
set -eu
dir=${1:?usage: fetch.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd -P)
export DEBIAN_FRONTEND=noninteractive

die() {
	echo "fetch.sh: error: $*" >&2
	exit 2
}

# retry CMD...: mirrors and networks hiccup; four tries.
retry() {
	for pause in 2 5 15 end; do
		"$@" && return
		[ "$pause" = end ] && die "$* : no success in four tries"
		sleep "$pause"
	done
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		command -v sudo >/dev/null || die "$*: needs root, and there is no sudo"
		sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
	fi
}

# 1. Programs of the host.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
missing=
command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
command -v swtpm >/dev/null || missing="$missing swtpm"
command -v sbsign >/dev/null || missing="$missing sbsigntool"
command -v openssl >/dev/null || missing="$missing openssl"
[ -e $keyring ] || missing="$missing debian-archive-keyring"
if [ -n "$missing" ]; then
	command -v apt-get >/dev/null || die "install$missing by hand: this is not Debian"
	retry as_root apt-get update -qq
	# shellcheck disable=SC2086 # a list of words
	retry as_root apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi

# 2. Files, unpacked from packages with an apt of our own, so that neither the host's sources nor its packages change.
tmp=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

updated=
update() {
	[ -z "$updated" ] || return 0
	mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
		sed -n 's/#.*//; s,^\(URIs:\|deb\).*[[:space:]]\(https\?://[^[:space:]]*/debian\)/\?\([[:space:]].*\)\?$,\2,p' | head -n 1)
	mirror=${mirror:-http://deb.debian.org/debian}
	mkdir -p "$tmp/lists/partial" "$tmp/cache/archives/partial"
	for s in bookworm trixie; do
		echo "deb [arch=amd64 signed-by=$keyring] $mirror $s main"
	done >"$tmp/sources.list"
	cat >"$tmp/apt.conf" <<-EOF
		APT::Architecture "amd64";
		APT::Sandbox::User "root";
		Acquire::Retries "3";
		Acquire::Check-Valid-Until "false";
		Acquire::Languages "none";
		Dir::Etc::SourceList "$tmp/sources.list";
		Dir::Etc::SourceParts "-";
		Dir::State::Lists "$tmp/lists";
		Dir::Cache "$tmp/cache";
	EOF
	export APT_CONFIG="$tmp/apt.conf"
	# without this apt takes an unreachable mirror for a warning
	retry apt-get update -qq -o APT::Update::Error-Mode=any
	updated=1
}

# unpack SUITE PACKAGE: the newest PACKAGE of SUITE -> $tmp/SUITE-PACKAGE/
unpack() {
	update
	version=$(apt-cache madison "$2" | awk -F ' *[|] *' -v "suite=$1/" 'index($3, suite) { print $2; exit }')
	[ -n "$version" ] || die "$2: not in Debian $1"
	mkdir -p "$tmp/$1-$2"
	(cd "$tmp/$1-$2" && retry apt-get download -qq "$2=$version" && dpkg -x ./*.deb . && rm -f ./*.deb)
}

# put FILE NAME: an interrupted run leaves no half a file
put() {
	[ -e "$1" ] || die "${1#"$tmp"/}: not in the package"
	cp "$1" "$tmp/new"
	mv "$tmp/new" "$dir/$2"
}

for file in bookworm:stub-252:linuxx64.efi.stub bookworm:sdboot-252:systemd-bootx64.efi \
	trixie:stub-257:linuxx64.efi.stub trixie:sdboot-257:systemd-bootx64.efi trixie:addon-257:addonx64.efi.stub; do
	suite=${file%%:*}
	name=${file#*:}
	name=${name%:*}.efi
	[ -e "$dir/$name" ] && continue
	[ -d "$tmp/$suite-systemd-boot-efi" ] || unpack "$suite" systemd-boot-efi
	put "$tmp/$suite-systemd-boot-efi/usr/lib/systemd/boot/efi/${file##*:}" "$name"
done

if [ ! -e "$dir/busybox" ]; then
	unpack bookworm busybox-static
	put "$tmp/bookworm-busybox-static/bin/busybox" busybox
fi

if [ ! -e "$dir/OVMF_VARS.fd" ]; then
	unpack bookworm ovmf
	for part in CODE VARS; do
		put "$tmp/bookworm-ovmf/usr/share/OVMF/OVMF_$part.fd" "OVMF_$part.fd"
	done
fi

if [ ! -e "$dir/snakeoil.key" ]; then
	[ -d "$tmp/bookworm-ovmf" ] || unpack bookworm ovmf
	share=$tmp/bookworm-ovmf/usr/share
	put "$share/OVMF/OVMF_CODE_4M.secboot.fd" OVMF_CODE.secboot.fd
	put "$share/OVMF/OVMF_VARS_4M.snakeoil.fd" OVMF_VARS.snakeoil.fd
	put "$share/ovmf/PkKek-1-snakeoil.pem" snakeoil.pem
	# without its pass phrase, which sbsign would ask a person for
	openssl rsa -in "$share/ovmf/PkKek-1-snakeoil.key" -passin pass:snakeoil -out "$tmp/key" 2>/dev/null
	put "$tmp/key" snakeoil.key
fi

if [ ! -e "$dir/shim.efi" ]; then
	unpack bookworm shim-unsigned
	put "$tmp/bookworm-shim-unsigned/usr/lib/shim/shimx64.efi" shim.efi
fi

if [ ! -e "$dir/version" ]; then
	suite=bookworm
	update
	package=$(apt-cache madison linux-image-cloud-amd64 | awk -F ' *[|] *' -v "suite=$suite/" 'index($3, suite) { print $2; exit }')
	package=$(apt-cache show "linux-image-cloud-amd64=$package" | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
	[ -n "$package" ] || die "linux-image-cloud-amd64: not in Debian $suite"
	unpack "$suite" "$package"
	tree=$tmp/$suite-$package
	put "$(find "$tree" -name efivarfs.ko)" efivarfs.ko
	put "$tree/boot/vmlinuz-${package#linux-image-}" vmlinuz
	echo "${package#linux-image-}" >"$tmp/version"
	put "$tmp/version" version
fi

#!/bin/sh
# fetch.sh DIR: makes DIR hold what the virtual machines of the tests and the demo need. Run it on Debian, as root or
# with sudo. What is there already is not fetched again.
#
#   installed   qemu-system-x86, swtpm, sbsigntool, openssl, zstd, e2fsprogs
#   DIR/        vmlinuz (and version, its release), efivarfs.ko, busybox (static), OVMF_CODE.fd, OVMF_VARS.fd,
#               of systemd 252 (bookworm) and 257 (trixie) stub-252.efi, stub-257.efi (systemd-stub), addon-257.efi
#               (the stub of addons, which 252 does not know), sdboot-252.efi, sdboot-257.efi (systemd-boot);
#               for Secure Boot OVMF_CODE.secboot.fd, OVMF_VARS.snakeoil.fd, the key that these variables trust,
#               snakeoil.key (no secret: it comes with OVMF) and snakeoil.pem, and shim.efi, which is not signed;
#               for systemd as PID 1 system-257.cpio, a small trixie, system-257.cpio.zst, the same compressed, and
#               root.ext4, an empty file system; system-262.cpio and .zst if SYSTEMD_ROOT has a Debian sid with systemd 262
#
# The files of DIR come from fixed Debian suites whatever the host runs, so that a VM is the same everywhere.
set -eu
umask 022
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
command -v zstd >/dev/null || missing="$missing zstd"
PATH=$PATH:/usr/sbin:/sbin
command -v mke2fs >/dev/null || missing="$missing e2fsprogs"
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

# unpack_all SUITE PACKAGE...: these packages of SUITE and all that they depend on -> $tmp/SUITE/
unpack_all() {
	update
	from=$1
	shift
	mkdir "$tmp/$from"
	: >"$tmp/status" # what is installed on the host does not count
	retry apt-get install -qq -y --download-only --no-install-recommends -t "$from" \
		-o Dir::State::status="$tmp/status" -o Debug::NoLocking=true "$@" >/dev/null
	for deb in "$tmp"/cache/archives/*.deb; do
		dpkg -x "$deb" "$tmp/$from"
	done
}

# pack_system VERSION TREE MODULES RELEASE LIBRARY...: of a Debian in TREE what systemd needs as PID 1, with the modules of a
# kernel and some more libraries -> $dir/system-VERSION.cpio and .zst. No maintainer script has run; what systemd wants of that
# which they make is made here.
pack_system() {
	pack_version=$1
	pack_tree=$2
	pack_modules=$3
	pack_release=$4
	shift 4
	mkdir "$tmp/system"
	cd "$tmp/system"
	mkdir -p dev efi etc proc root run sys sysroot tmp usr/bin usr/lib usr/lib64 var/lib var/log
	ln -s usr/bin bin
	ln -s usr/bin sbin
	ln -s usr/lib lib
	ln -s usr/lib64 lib64
	ln -s bin usr/sbin

	# The libraries are those that the programs name, and of those that they open if there are any the ones for TPMs.
	(
		cd "$pack_tree"
		lib=usr/lib/x86_64-linux-gnu
		# shellcheck disable=SC2046 # a list of words
		tar -cf "$tmp/picked.tar" usr/lib/os-release usr/lib64/ld-linux-x86-64.so.2 $lib/ld-linux-x86-64.so.2 $lib/systemd/libsystemd-*.so \
			$(for name in acl audit blkid c cap-ng crypt crypto m mount pam pcre2-8 seccomp selinux z zstd \
				tss2-esys tss2-mu tss2-rc tss2-sys tss2-tcti-device "$@"; do
				echo "$lib/lib$name".so.[0-9]*
			done) \
			usr/lib/systemd/systemd usr/lib/systemd/systemd-executor usr/lib/systemd/systemd-shutdown usr/lib/systemd/system \
			usr/lib/systemd/systemd-journald usr/lib/systemd/systemd-pcrextend usr/lib/systemd/systemd-pcrlock \
			usr/lib/tmpfiles.d/20-systemd-stub.conf usr/lib/tmpfiles.d/systemd.conf usr/lib/tmpfiles.d/tmp.conf usr/lib/tmpfiles.d/var.conf \
			usr/bin/systemctl usr/bin/systemd-tmpfiles usr/bin/systemd-analyze usr/bin/journalctl
	)
	tar -xf "$tmp/picked.tar" --keep-directory-symlink
	ln -s usr/lib/systemd/systemd init
	ln -s ../lib/systemd/systemd usr/bin/init
	cp "$dir/busybox" usr/bin/busybox
	chmod 755 usr/bin/busybox
	for name in $(usr/bin/busybox --list); do
		[ -e "usr/bin/$name" ] || [ -L "usr/bin/$name" ] || ln -s busybox "usr/bin/$name"
	done
	ln -s ../usr/lib/os-release etc/os-release
	cp "$pack_tree/usr/share/base-passwd/passwd.master" etc/passwd
	cp "$pack_tree/usr/share/base-passwd/group.master" etc/group
	echo systemd-journal:x:101: >>etc/group
	echo debian >etc/hostname

	# Of the units that start by default these.
	find usr/lib/systemd/system -path '*.wants/*' ! -name 'systemd-journald*' ! -name 'systemd-pcrphase*' \
		! -name systemd-pcrmachine.service ! -name systemd-pcrextend.socket ! -name systemd-pcrosseparator.service \
		! -name systemd-tmpfiles-setup.service -delete
	ln -sf multi-user.target usr/lib/systemd/system/default.target

	for name in drivers/virtio/virtio drivers/virtio/virtio_ring drivers/virtio/virtio_pci drivers/virtio/virtio_pci_legacy_dev \
		drivers/virtio/virtio_pci_modern_dev drivers/block/virtio_blk drivers/firmware/efi/efibc \
		fs/efivarfs/efivarfs fs/fat/fat fs/fat/vfat fs/nls/nls_ascii fs/nls/nls_cp437; do
		module=usr/lib/modules/$pack_release/kernel/$name.ko
		mkdir -p "${module%/*}"
		cp "$pack_modules/$pack_release/kernel/$name.ko" "$module"
	done
	usr/bin/busybox depmod -b . "$pack_release"

	find . | LC_ALL=C sort | usr/bin/busybox cpio -o -H newc -R 0:0 >"$tmp/system.cpio" 2>/dev/null
	cd "$tmp"
	rm -rf system
	zstd -q -12 -f system.cpio -o system.cpio.zst
	put system.cpio "system-$pack_version.cpio"
	put system.cpio.zst "system-$pack_version.cpio.zst"
}

if [ ! -e "$dir/root.ext4" ]; then
	truncate -s 192M "$tmp/root.ext4"
	mke2fs -q -F -t ext4 -m 0 -N 8192 "$tmp/root.ext4"
	put "$tmp/root.ext4" root.ext4
fi

# Modules go with the kernel.
if [ ! -e "$dir/version" ] || [ ! -e "$dir/system-257.cpio.zst" ]; then
	suite=bookworm
	update
	package=$(apt-cache madison linux-image-cloud-amd64 | awk -F ' *[|] *' -v "suite=$suite/" 'index($3, suite) { print $2; exit }')
	package=$(apt-cache show "linux-image-cloud-amd64=$package" | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
	[ -n "$package" ] || die "linux-image-cloud-amd64: not in Debian $suite"
	unpack "$suite" "$package"
	release=${package#linux-image-}
	tree=$tmp/$suite-$package
	unpack_all trixie base-files base-passwd systemd libtss2-esys-3.0.2-0t64 libtss2-rc0t64 libtss2-tcti-device0t64
	rm -f "$dir/version" "$dir"/system-*
	pack_system 257 "$tmp/trixie" "$tree/lib/modules" "$release" apparmor cap kmod
	put "$(find "$tree" -name efivarfs.ko)" efivarfs.ko
	put "$tree/boot/vmlinuz-$release" vmlinuz
	echo "$release" >"$tmp/version"
	put "$tmp/version" version
fi

# A newer systemd, if the host has one in a folder.
sid=${SYSTEMD_ROOT:-/var/tmp/ref/sidroot}
if [ -e "$sid/usr/lib/x86_64-linux-gnu/systemd/libsystemd-core-262.so" ] && [ ! -e "$dir/system-262.cpio.zst" ]; then
	mkdir "$tmp/257"
	(cd "$tmp/257" && "$dir/busybox" cpio -id 'usr/lib/modules/*' <"$dir/system-257.cpio" 2>/dev/null)
	pack_system 262 "$sid" "$tmp/257/usr/lib/modules" "$(cat "$dir/version")" systemd
fi

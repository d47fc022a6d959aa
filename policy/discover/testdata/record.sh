#!/bin/bash
# record.sh ROOT: what systemd-cryptsetup-generator 262, which is in the directory
# ROOT, makes of crypttab, one line a unit in crypttab.units:
#
#	NAME DEVICE KEY OPTIONS; the target and how it wants the unit, or - for noauto; initrd if the initrd detaches it
set -eu
here=$(dirname "$(readlink -f "$0")") root=$1 dir=/tmp/discover
work=$root$dir
rm -rf "$work"; mkdir -p "$work/gen"
trap 'rm -rf "$work"' EXIT
cp "$here/crypttab" "$work/"
chroot "$root" env SYSTEMD_CRYPTTAB=$dir/crypttab RUNTIME_DIRECTORY=$dir/run \
	/usr/lib/systemd/system-generators/systemd-cryptsetup-generator $dir/gen $dir/gen $dir/gen
cd "$work/gen"
for unit in systemd-cryptsetup@*.service; do
	wanted=$(cd "$work/gen"; find *cryptsetup.target.* -name "$unit" -printf '%h' || true)
	printf '%s; %s%s\n' "$(sed -n 's/^ExecStart=.* attach //p' "$unit")" "${wanted:--}" \
		"$(grep -q '^Conflicts=umount.target' "$unit" || echo ' initrd')"
done | LC_ALL=C sort >"$here/crypttab.units"

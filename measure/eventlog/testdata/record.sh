#!/bin/bash
# Records what the real systemd writes into its event log, and what systemd-pcrlock reads there, into testdata/systemd:
#
#   record.sh NAME ROOT
#
# NAME.log       the log, after systemd-pcrextend, and systemd-tpm2-setup where it makes NvPCRs, have run
# NAME.cel.json  what systemd-pcrlock cel makes of it, behind the firmware log vm/sidecar.bin
# NAME.pcrs      what the TPM then held, as tpm2_pcrread prints it
#
# ROOT is a system with these programs: a Debian sid with systemd 262, or the unpacked initrd with systemd 257 of
# cmd/mkexec/internal/vm. Wants root, swtpm, tpm2-tools, openssl. The software TPM saw no firmware: PCRs were zero.
set -eu
name=$1 root=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$root/tmp/mkexec-record
mkdir -p "$work"
cp "$here/vm/sidecar.bin" "$work/firmware"
swtpm socket --tpm2 --tpmstate "dir=$work" --server "type=unixio,path=$work/tpm" --ctrl "type=unixio,path=$work/tpm.ctrl" \
	--flags not-need-init,startup-clear >/dev/null 2>&1 &
swtpm=$!
trap 'kill $swtpm; rm -rf "$work"' EXIT
while [ ! -S "$work/tpm" ]; do sleep 0.1; done
openssl genrsa -out "$work/key.pem" 2048
openssl rsa -in "$work/key.pem" -pubout -out "$work/pub.pem"

cat >"$work/inside" <<'EOF'
set -eu
w=/tmp/mkexec-record d=--tpm2-device=swtpm:path=/tmp/mkexec-record/tpm
export SYSTEMD_TPM2_DEVICE=swtpm:path=$w/tpm SYSTEMD_MEASURE_LOG_USERSPACE=$w/log SYSTEMD_MEASURE_LOG_FIRMWARE=$w/firmware
export SYSTEMD_FORCE_MEASURE=1 SYSTEMD_IN_INITRD=1
cd /usr/lib/systemd
./systemd-pcrextend $d enter-initrd
if [ -x ./systemd-tpm2-setup ]; then # NvPCRs want a signed policy for PCR 11
	mkdir -p /run/systemd
	cp $w/pub.pem /run/systemd/tpm2-pcr-public-key.pem
	./systemd-measure sign --current $d --private-key=$w/key.pem --public-key=$w/pub.pem --bank=sha256 --phase=: \
		--policyref=initrd >/run/systemd/tpm2-pcr-signature.json
	./systemd-tpm2-setup $d --early=yes
	./systemd-pcrextend $d --product-id
	./systemd-pcrextend $d --pcr=12 --event-type=os-separator os-separator
fi
./systemd-pcrextend $d --machine-id
./systemd-pcrextend $d --file-system=/
./systemd-pcrextend $d leave-initrd
./systemd-pcrextend $d --pcr=15 'a"b\c	ä'
./systemd-pcrextend $d --pcr=15 "$(printf '%0900d' 0)$(printf 'ä%.0s' 0 1 2 3 4 5 6 7 8 9)$(printf '%0900d' 1)"
./systemd-pcrextend $d --pcr=15 "$(printf '%01024d' 2)"
./systemd-pcrlock cel --json=short >$w/cel
EOF
unshare -m sh -eu -c '
	root=$1 work=$2
	mount --bind "$root" "$root"
	mount -t tmpfs tmpfs "$root/run"
	mount -t tmpfs tmpfs "$root/sys"
	mkdir -p "$root/sys/class/tpm/tpm0/pcr-sha256" "$root/var/lib/systemd"
	mount -t tmpfs tmpfs "$root/var/lib/systemd"
	mount --bind /proc "$root/proc"
	mount --bind /dev "$root/dev"
	# for systemd-measure --current: PCR 11 after enter-initrd
	python3 -c "import hashlib as h; print(h.sha256(bytes(32) + h.sha256(b\"enter-initrd\").digest()).hexdigest())" >"$root/sys/class/tpm/tpm0/pcr-sha256/11"
	[ -s "$root/etc/machine-id" ] || echo 8398d4eeade24f52a30c979d95c67d5a >"$root/etc/machine-id"
	chroot "$root" sh /tmp/mkexec-record/inside
' sh "$root" "$work"
cp "$work/log" "$here/systemd/$name.log"
cp "$work/cel" "$here/systemd/$name.cel.json"
tpm2_pcrread -T "swtpm:path=$work/tpm" >"$here/systemd/$name.pcrs"
chmod 644 "$here/systemd/$name".*

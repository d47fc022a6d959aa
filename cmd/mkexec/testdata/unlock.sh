#!/bin/bash
# unlock.sh ROOT MKEXEC IMAGE CHANGED PUB: enrolls volumes, with the systemd 262 in the directory ROOT and a TPM in
# software, for what IMAGE leads to; asks mkexec check whether each will unlock after a kexec of IMAGE and of CHANGED;
# does to the TPM what that would do, by tpm2-tools and systemd-pcrextend; and has systemd really unlock. Prints a line
# "IMAGE VOLUME status-of-check status-of-systemd" each, and what both said where they differ.
#
# Wants root, swtpm, tpm2-tools, cryptsetup, jq, objcopy. IMAGE has a .pcrsig by the key PUB. Nothing outside of
# ROOT/tmp/mkexec-unlock.PID is changed: /run, /sys and /var/lib/systemd of ROOT are hidden.
set -eu
if [ "${6-}" != inside ]; then exec unshare -m "$0" "$@" inside; fi
root=$1 mkexec=$2 image=$3 changed=$4 pub=$(realpath "$5") dir=/tmp/mkexec-unlock.$$ work=$1/tmp/mkexec-unlock.$$
mkdir -p "$work/tpm"
trap 'kill $swtpm 2>/dev/null || true; cd /; rm -rf "$work"' EXIT
mount -t tmpfs none "$root/run"; mount -t tmpfs none "$root/var/lib/systemd"; mkdir -p "$root/run/systemd"; mount -t tmpfs none "$root/sys"
for b in sha1:40 sha256:64; do mkdir -p "$root/sys/class/tpm/tpm0/pcr-${b%:*}"; printf "%0${b#*:}d\n" 0 >"$root/sys/class/tpm/tpm0/pcr-${b%:*}/11"; done
cd "$work"
export TPM2TOOLS_TCTI=swtpm:path=$work/tpm/sock
device=swtpm:path=$dir/tpm/sock
start() { swtpm socket --tpm2 --tpmstate "dir=$work/tpm" --server "type=unixio,path=$work/tpm/sock" --ctrl "type=unixio,path=$work/tpm/sock.ctrl" --flags not-need-init,startup-clear >swtpm.log 2>&1 & swtpm=$!; while [ ! -S tpm/sock ]; do sleep 0.1; done; }
stop() { tpm2_shutdown -c; kill $swtpm; wait $swtpm || true; rm -f tpm/sock; }
# reset: a cold boot
reset() { stop; rm -rf "$root/run/log"; start; }
in262() { chroot "$root" env SYSTEMD_TPM2_DEVICE=$device SYSTEMD_FORCE_MEASURE=1 SYSTEMD_MEASURE_LOG_FIRMWARE=/dev/null "$@"; }
word() { in262 /usr/lib/systemd/systemd-pcrextend --tpm2-device=$device "$1" >/dev/null 2>&1; }
# kexec IMAGE: what mkexec extends, by tpm2-tools, and the next initrd's word
kexec() { "$mkexec" predict --secure-boot=no --append=systemd.tpm2_measured_os=1 --from=zero --bank=sha1 --bank=sha256 --bank=sha384 --bank=sha512 --json "$1" 2>/dev/null | jq -r '.events[] | "\(.pcr):sha1=\(.digests.sha1),sha256=\(.digests.sha256),sha384=\(.digests.sha384),sha512=\(.digests.sha512)"' | while read -r e; do tpm2_pcrextend "$e"; done; word enter-initrd; for n in 12 13; do printf os-separator >sep; tpm2_pcrevent $n sep >/dev/null; done; }
start
cp "$pub" pub.pem
# the policy of systemd-pcrlock: the image's component is not reached yet
"$mkexec" predict --systemd=257 --output=pcrlock --output-dir=pcrlock.d "$image" 2>/dev/null
in262 /usr/lib/systemd/systemd-pcrlock make-policy --pcr=11 --location=600-:940- --recovery-pin=hide --components=$dir/pcrlock.d --policy=$dir/pcrlock.json >pcrlock.log 2>&1 || { tail -5 pcrlock.log; exit 1; }
[ "$(jq -c '[.pcrValues[] | select(.values != []) | .pcr]' pcrlock.json)" = '[11]' ] || { echo "PCR 11 is not in the policy"; exit 1; }
cp pcrlock.json "$root/var/lib/systemd/"
printf pw >pw; truncate -s 3M blank.img
cryptsetup luksFormat -q --type luks2 --key-size 256 --luks2-metadata-size=16k --luks2-keyslots-size=512k --offset 4096 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 blank.img pw 2>/dev/null
# enroll NAME OPTION...
enroll() { n=$1; shift; cp blank.img $n.img; in262 env PASSWORD=pw NEWPIN=1234 systemd-cryptenroll --tpm2-device=$device "$@" $dir/$n.img >$n.log 2>&1 || { tail -3 $n.log; exit 1; }; }
volumes="literal pin signed signedref pcrlock sharded"
argon="--tpm2-argon2id-memory=1M --tpm2-argon2id-iterations=1 --tpm2-argon2id-parallelism=1"
kexec "$image" # for literal PCRs
enroll literal --tpm2-pcrlock= --tpm2-public-key= --tpm2-pcrs=11+12
enroll pin --tpm2-pcrlock= --tpm2-public-key= --tpm2-pcrs=11 --tpm2-with-pin=yes $argon
enroll signed --tpm2-pcrlock= --tpm2-public-key=$dir/pub.pem --tpm2-public-key-pcrs=11 --tpm2-pcrs=
enroll signedref --tpm2-pcrlock= --tpm2-public-key=$dir/pub.pem --tpm2-public-key-pcrs=11 --tpm2-public-key-policyref=initrd --tpm2-pcrs=
enroll pcrlock --tpm2-public-key= --tpm2-pcrlock=$dir/pcrlock.json --tpm2-pcrs=
enroll sharded --tpm2-public-key=$dir/pub.pem --tpm2-public-key-pcrs=11 --tpm2-pcrlock=$dir/pcrlock.json --tpm2-pcrs=
objcopy -O binary --only-section=.pcrsig --set-section-flags .pcrsig=alloc "$image" sig.bin; tr -d '\0' <sig.bin >"$root/run/systemd/tpm2-pcr-signature.json"
for i in "$image" "$changed"; do
	reset
	for n in $volumes; do
		set +e; "$mkexec" check --no-verify --secure-boot=no --append=systemd.tpm2_measured_os=1 --systemd=262 --tpm2-device=swtpm:path=$work/tpm/sock --luks=$n.img --pcrsig=image --pcrlock=pcrlock.json "$i" >$n.out 2>&1; s=$?; set -e; echo $s >$n.status
	done
	kexec "$i"
	for n in $volumes; do
		cp $n.img copy.img
		if in262 env PIN=1234 systemd-cryptenroll --unlock-tpm2-device=$device --recovery-key $dir/copy.img >$n.unlock 2>&1 </dev/null; then u=0; else u=1; fi
		echo "$(basename "$i") $n $(cat $n.status) $u"
		[ $u = "$(cat $n.status)" ] || { cat $n.out; tail -5 $n.unlock; }
	done
done

#!/bin/bash
# record.sh ROOT OUT: makes LUKS2 volumes, enrolls them with the systemd that is
# in the directory ROOT and with the one of the host, and tries to unlock each
# in several TPM states. README.md says what is written to OUT.
#
# Wants root, swtpm, tpm2-tools, cryptsetup, jq; in ROOT systemd-cryptenroll 262,
# systemd-measure, systemd-pcrlock, systemd-pcrextend. Nothing outside of
# ROOT/tmp/mkexec-luks2.PID and OUT is changed: /run and /var/lib/systemd of ROOT are hidden.
set -eu
if [ "${3-}" != inside ]; then exec unshare -m "$0" "$1" "$2" inside; fi
root=$1 out=$2 dir=/tmp/mkexec-luks2.$$
work=$root$dir
rm -rf "$work"; mkdir -p "$work/tpm" "$out"
mount -t tmpfs none "$root/run"
mount -t tmpfs none "$root/var/lib/systemd"
mkdir -p "$root/run/systemd"
mount -t tmpfs none "$root/sys"
# what systemd-measure --current reads: PCR 11 is zero before the words
for b in sha1:40 sha256:64; do
	mkdir -p "$root/sys/class/tpm/tpm0/pcr-${b%:*}"
	printf "%0${b#*:}d\n" 0 >"$root/sys/class/tpm/tpm0/pcr-${b%:*}/11"
done
cd "$work"
export TPM2TOOLS_TCTI=swtpm:path=$work/tpm/sock
device=swtpm:path=$dir/tpm/sock

start() {
	swtpm socket --tpm2 --tpmstate "dir=$work/tpm" --server "type=unixio,path=$work/tpm/sock" \
		--ctrl "type=unixio,path=$work/tpm/sock.ctrl" --flags not-need-init,startup-clear >swtpm.log 2>&1 &
	swtpm=$!
	while [ ! -S "$work/tpm/sock" ]; do sleep 0.1; done
}
stop() { tpm2_shutdown -c; kill $swtpm; wait $swtpm || true; rm -f "$work/tpm/sock"; }
trap 'kill $swtpm 2>/dev/null || true; cd /; rm -rf "$work"; umount "$root/run" "$root/sys" "$root/var/lib/systemd"' EXIT

in262() { chroot "$root" env SYSTEMD_TPM2_DEVICE=$device SYSTEMD_FORCE_MEASURE=1 SYSTEMD_MEASURE_LOG_FIRMWARE=/dev/null "$@"; }
word() { for w; do in262 /usr/lib/systemd/systemd-pcrextend --tpm2-device=$device "$w" >/dev/null 2>&1; done; }
# state NAME WORD7 WORD11...: a reset, then event WORD7 in PCR 7 and words in PCR 11
state() {
	stop; rm -rf "$root/run/log"; start
	printf %s "$2" >event; tpm2_pcrevent 7 event >/dev/null
	shift 2; word "$@"
}
states='A B C D E F G'
to_state() {
	case $1 in
	A) state A x enter-initrd ;;
	B) state B x enter-initrd leave-initrd ;;
	C) state C x enter-initrd leave-initrd sysinit ;;
	D) state D x enter-initrd garbage ;;
	E) state E y enter-initrd ;;
	F) state F y garbage ;;
	G) stop; rm -rf "$root/run/log"; start ;; # all PCRs zero
	esac
}
pcrs() {
	tpm2_pcrread sha1:7,11+sha256:7,11+sha384:7,11+sha512:7,11 |
		sed -nE 's/^  (sha[0-9]+):/\1/p; s/^ +([0-9]+) *: 0x(.*)/\1 \L\2/p' |
		awk '/^sha/ {b=$1; next} {print b, $1, $2}' |
		jq -Rn '[inputs / " "] | reduce .[] as [$b, $n, $v] ({}; .[$b][$n] = $v)'
}

start; to_state A
openssl genrsa -out key.pem 2048 2>/dev/null; openssl rsa -in key.pem -pubout -out pub.pem 2>/dev/null
openssl genrsa -3 -out key3.pem 2048 2>/dev/null; openssl rsa -in key3.pem -pubout -out pub3.pem 2>/dev/null
openssl ecparam -name prime256v1 -genkey -noout -out keyec.pem; openssl ec -in keyec.pem -pubout -out pubec.pem 2>/dev/null

# signatures for states A and B, without and with a reference
sign() { in262 /usr/lib/systemd/systemd-measure sign --current --bank=sha256 --bank=sha1 --json=short \
	--phase=enter-initrd --phase=enter-initrd:leave-initrd "$@"; }
sign --private-key=$dir/key.pem --public-key=$dir/pub.pem >sig1.json
sign --private-key=$dir/key.pem --public-key=$dir/pub.pem --policyref=initrd --append=$dir/sig1.json >sig.json
cp sig.json "$out/signature.json"; cp pub.pem "$out/pub.pem"
cp sig.json "$root/run/systemd/tpm2-pcr-signature.json"

# the pcrlock policy: the words of the shipped components, PCR 11 only
to_state A
in262 /usr/lib/systemd/systemd-pcrlock make-policy --pcr=11 --recovery-pin=hide --policy=$dir/pcrlock.json >pcrlock.log 2>&1
cp pcrlock.json "$out/pcrlock.json"
tpm2_nvread -C o $(jq .nvIndex pcrlock.json) | xxd -p -c 99 >"$out/nv-content.hex"
mkdir -p "$root/var/lib/systemd"; cp pcrlock.json "$root/var/lib/systemd/"

printf pw >pw
truncate -s 3M blank.img
cryptsetup luksFormat -q --type luks2 --key-size 256 --luks2-metadata-size=16k --luks2-keyslots-size=512k --offset 4096 --label several \
	--pbkdf pbkdf2 --pbkdf-force-iterations 1000 blank.img pw 2>/dev/null

# enroll NAME OPTION...: with 262
enroll() {
	name=$1; shift; cp blank.img $name.img
	# an empty --tpm2-pcrlock= and --tpm2-public-key= mean none, not the files found
	in262 env PASSWORD=pw NEWPIN=1234 systemd-cryptenroll --tpm2-device=$device "$@" $dir/$name.img >$name.log 2>&1 || { echo "$name: $(tail -1 $name.log)"; rm $name.img; }
}
argon="--tpm2-argon2id-memory=1M --tpm2-argon2id-iterations=1 --tpm2-argon2id-parallelism=1"
no="--tpm2-pcrlock= --tpm2-public-key="
signed="--tpm2-pcrlock= --tpm2-public-key=$dir/pub.pem --tpm2-public-key-pcrs=11"
lock="--tpm2-public-key= --tpm2-pcrlock=$dir/pcrlock.json"
both="--tpm2-public-key=$dir/pub.pem --tpm2-public-key-pcrs=11 --tpm2-pcrlock=$dir/pcrlock.json"
enroll none $no --tpm2-pcrs=
enroll literal $no --tpm2-pcrs=7+11
enroll literal7 $no --tpm2-pcrs=7
enroll sha1 $no --tpm2-pcrs=7:sha1+11:sha1
enroll sha384 $no --tpm2-pcrs=11:sha384
enroll pin $no --tpm2-pcrs= --tpm2-with-pin=yes $argon
enroll pin7 $no --tpm2-pcrs=7 --tpm2-with-pin=yes $argon
enroll direct7 $no --tpm2-pcrs=7 --tpm2-with-pin=direct
enroll signed $signed --tpm2-pcrs=
enroll signed7 $signed --tpm2-pcrs=7
enroll signed7pin $signed --tpm2-pcrs=7 --tpm2-with-pin=yes $argon
enroll signedref $signed --tpm2-public-key-policyref=initrd --tpm2-pcrs=
enroll signedotherref $signed --tpm2-public-key-policyref=other --tpm2-pcrs=
enroll signedsha1 $signed --tpm2-pcrs=7:sha1
enroll signedother --tpm2-pcrlock= --tpm2-public-key=$dir/pub3.pem --tpm2-public-key-pcrs=11 --tpm2-pcrs=
enroll signed7of --tpm2-pcrlock= --tpm2-public-key=$dir/pub.pem --tpm2-public-key-pcrs=7 --tpm2-pcrs=
enroll signednone --tpm2-pcrlock= --tpm2-public-key=$dir/pub.pem --tpm2-public-key-pcrs= --tpm2-pcrs=
enroll signedec --tpm2-pcrlock= --tpm2-public-key=$dir/pubec.pem --tpm2-public-key-pcrs=11 --tpm2-pcrs=
enroll pcrlock $lock --tpm2-pcrs=
enroll pcrlock7 $lock --tpm2-pcrs=7
enroll pcrlock7pin $lock --tpm2-pcrs=7 --tpm2-with-pin=yes $argon
enroll sharded $both --tpm2-pcrs=
enroll sharded7pin $both --tpm2-pcrs=7 --tpm2-with-pin=yes $argon
# offline: for the SRK, with PCR values from the command line
tpm2_readpublic -c 0x81000001 -o srk.pub >/dev/null
v7=$(tpm2_pcrread sha256:7 | sed -nE 's/.*0x(.*)/\L\1/p')
cp blank.img offline7.img
in262 env PASSWORD=pw systemd-cryptenroll --tpm2-device-key=$dir/srk.pub $no --tpm2-pcrs=7:sha256=$v7 $dir/offline7.img >offline7.log 2>&1 || { tail -1 offline7.log; rm offline7.img; }

# with the host's systemd
old() {
	name=$1; shift; cp blank.img $name.img
	tpm2_flushcontext -l; tpm2_flushcontext -t; tpm2_flushcontext -s
	PASSWORD=pw NEWPIN=1234 systemd-cryptenroll --tpm2-device=swtpm:path=$work/tpm/sock "$@" $name.img >$name.log 2>&1 || { echo "$name: $(tail -1 $name.log)"; rm $name.img; }
}
old old-7 --tpm2-public-key= --tpm2-pcrs=7
old old-7pin --tpm2-public-key= --tpm2-pcrs=7 --tpm2-with-pin=yes
old old-none --tpm2-public-key= --tpm2-pcrs=
old old-signed7 --tpm2-public-key=pub.pem --tpm2-public-key-pcrs=11 --tpm2-pcrs=7
# as before 250: no bank and no primary algorithm in the token
cp old-7.img old-nobank7.img
cryptsetup token export --token-id 0 old-7.img | jq -c 'del(."tpm2-pcr-bank", ."tpm2-primary-alg")' >nobank.json
cryptsetup token remove --token-id 0 old-nobank7.img
cryptsetup token import --token-id 0 --json-file nobank.json old-nobank7.img

# a secret sealed as systemd 255.0 to 255.2 did, by tpm2-tools: the exponent in the Name of the key is zero
modulus=$(openssl rsa -pubin -in pub.pem -noout -modulus | sed 's/.*=//')
hash() { xxd -r -p | openssl dgst -sha256 -binary | xxd -p -c 99; }
name=000b$(echo "0001000b00060040000000100010080000000000""0100$modulus" | hash)
zeros=$(printf %064d 0)
policy=$(echo "$(echo "${zeros}0000016a$name" | hash)" | hash)
echo $policy | xxd -r -p >policy.bin
head -c 32 /dev/urandom >secret
tpm2_create -Q -C 0x81000001 -g sha256 -L policy.bin -i secret -a 'fixedtpm|fixedparent|noda' -u exp0.pub -r exp0.priv
base64 -w0 secret >passphrase
cp blank.img exp0.img
cryptsetup luksAddKey -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file pw exp0.img passphrase
cryptsetup token export --token-id 0 signed.img | jq -c --arg b "$(cat exp0.priv exp0.pub | base64 -w0)" --arg p $policy \
	'."tpm2-blob" = $b | ."tpm2-policy-hash" = $p' >exp0.json
cryptsetup token import --token-id 0 --json-file exp0.json exp0.img

# tokens that contradict themselves: another policy in the token than in the secret, both ways
edit() { # NAME FROM FILTER
	cp $2.img $1.img
	cryptsetup token export --token-id 0 $2.img | jq -c --slurpfile literal literal.json "$3" >edit.json
	cryptsetup token remove --token-id 0 $1.img
	cryptsetup token import --token-id 0 --json-file edit.json $1.img
}
cryptsetup token export --token-id 0 literal.img >literal.json
edit otherhash literal7 '."tpm2-policy-hash" = $literal[0]."tpm2-policy-hash"'
edit othersecret literal7 '."tpm2-blob" = $literal[0]."tpm2-blob"'

# several tokens, by several enrollers
cp literal.img several.img
for o in "$signed --tpm2-pcrs=" "$lock --tpm2-pcrs="; do
	in262 env PASSWORD=pw systemd-cryptenroll --tpm2-device=$device $o $dir/several.img >several.log 2>&1
done
cryptsetup luksDump several.img >/dev/null
echo '{"type":"clevis","keyslots":["0"],"jwe":{"protected":"x"}}' | cryptsetup token import --token-id 7 several.img
head -c 32768 several.img >"$out/several.hdr"
cryptsetup luksDump --dump-json-metadata several.img >"$out/several.json"
cryptsetup luksUUID several.img >"$out/several.uuid"
rm several.img

# unlock NAME: really, with 262; true or false
unlock() {
	cp $1.img copy.img
	if in262 env PIN=1234 SYSTEMD_LOG_LEVEL=debug systemd-cryptenroll --unlock-tpm2-device=$device --recovery-key $dir/copy.img >unlock.log 2>&1 </dev/null; then echo true; else echo false; fi
	cp unlock.log $1.$s.log
}
names=$(ls *.img | sed 's/\.img//' | grep -vx 'blank\|copy')
echo '{}' >result.json
for s in $states; do
	to_state $s
	pcrs >pcrs.json
	jq --arg s $s --slurpfile p pcrs.json '.states[$s] = $p[0]' result.json >r; mv r result.json
	for n in $names; do
		jq --arg s $s --arg n $n --argjson u $(unlock $n) '.tokens[$n].unlocks[$s] = $u' result.json >r; mv r result.json
	done
done
for n in $names; do
	cryptsetup token export --token-id 0 $n.img >t.json
	jq --arg n $n --slurpfile t t.json '.tokens[$n].token = $t[0]' result.json >r; mv r result.json
done
jq -S . result.json >"$out/result.json"
chroot "$root" systemd-cryptenroll --version | head -1 >"$out/versions"; systemd-cryptenroll --version | head -1 >>"$out/versions"
stop
